/* SPDX-License-Identifier: Apache-2.0 */

/*
 * For the test of kvb-store: a store with pages in it, left as asked.
 *
 *   fill PATH BYTES PAGES close|kill|hold
 *
 * hold: stays open until stdin ends.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "broker/store/store.h"

#define PAGE_BYTES 65536u

static void die(const char *why)
{
	fprintf(stderr, "fill: %s\n", why);
	exit(1);
}

static void put_page(struct store *s, const struct store_place *place, uint16_t ns, uint32_t epoch,
		     uint64_t number, char *page)
{
	const uint64_t chain[2] = { number, ~number };
	struct iovec v = { page, PAGE_BYTES };
	struct store_done done = { 0 };
	struct store_key key;
	struct timespec ts;

	memset(page, (int)number, PAGE_BYTES);
	store_key_make(s, place, ns, epoch, 0, chain, &key);
	if (store_put(s, &key, &v, 1, NULL, NULL) < 0)
		die("a put was refused");
	do {
		clock_gettime(CLOCK_MONOTONIC, &ts);
		store_wait(s, 1000000);
	} while (
		!store_poll(s, (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec, &done, 1));
	if (done.status)
		die("a put failed");
}

int main(int argc, char **argv)
{
	struct store_cfg cfg = { .parts = 1, .segment_bytes = 1 << 20 };
	const struct store_identity id = { .domain = "t",
					   .regions = 1,
					   .stride_bytes = PAGE_BYTES };
	const uint8_t digest[32] = { 0 };
	struct store_place place;
	struct store *s;
	char why[256], byte;
	uint32_t epoch;
	uint16_t ns;
	void *page;

	if (argc != 5)
		die("PATH BYTES PAGES close|kill|hold");
	cfg.part[0] = (struct store_part_cfg){ argv[1], strtoull(argv[2], NULL, 10) };
	if (store_open(&cfg, &s, why, sizeof(why)) < 0)
		die(why);
	if (posix_memalign(&page, 4096, PAGE_BYTES))
		die("no memory");
	store_place_make(s, &id, &place);
	ns = store_ns_open(s, digest, 1, &epoch);
	for (uint64_t i = 0; i < strtoull(argv[3], NULL, 10); i++)
		put_page(s, &place, ns, epoch, i, page);
	puts("ready");
	fflush(stdout);
	if (strcmp(argv[4], "hold") == 0)
		(void)!read(STDIN_FILENO, &byte, 1);
	if (strcmp(argv[4], "kill") == 0)
		_exit(0);
	store_close(s);
	free(page);
	return 0;
}
