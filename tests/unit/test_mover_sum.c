/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Checksums: the known vector, pages of several pieces, and the pool that makes many.
 */

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/mover/sum.h"
#include "tests/unit/suite.h"
#include "tests/unit/test_mover_daemon.h"

#define REGIONS 3u
#define STRIDE 320u
#define PAGES 500u

static char memory[REGIONS][PAGES][STRIDE];
static struct mover_page pages[PAGES];

static void fill(void)
{
	char *at = &memory[0][0][0];

	for (size_t i = 0; i < sizeof(memory); i++)
		at[i] = (char)(i * 2654435761u >> 13);
	for (uint32_t i = 0; i < PAGES; i++)
		pages[i] = (struct mover_page){
			.mem = memory[0][i],
			.stride_bytes = STRIDE,
			.next_bytes = sizeof(memory[0]),
			.regions = REGIONS,
		};
}

static uint32_t expected(uint32_t page)
{
	uint32_t crc = 0;

	for (uint32_t r = 0; r < REGIONS; r++)
		crc = test_crc32c(crc, memory[r][page], STRIDE);
	return crc;
}

START_TEST(known_vector)
{
	struct mover_page page = { .mem = "123456789", .stride_bytes = 9, .regions = 1 };

	mover_sum_make(&page);
	ck_assert_uint_eq(page.sum, 0xe3069283u);
	ck_assert_int_eq(page.error, 0);
	ck_assert_uint_eq(test_crc32c(0, "123456789", 9), 0xe3069283u);
}
END_TEST

START_TEST(pieces_are_summed_in_the_order_of_regions)
{
	struct mover_page page;

	fill();
	page = pages[7];
	mover_sum_make(&page);
	ck_assert_uint_eq(page.sum, expected(7));
	for (uint32_t r = 0; r < REGIONS; r++) {
		struct mover_page flipped = pages[7];

		memory[r][7][STRIDE - 1] ^= 1;
		mover_sum_make(&flipped);
		ck_assert_uint_ne(flipped.sum, page.sum);
		memory[r][7][STRIDE - 1] ^= 1;
	}
	for (uint32_t r = 0; r < REGIONS; r++) {
		memory[r][8][0] ^= 1; /* another page's */
		mover_sum_make(&page);
		ck_assert_uint_eq(page.sum, expected(7));
	}
}
END_TEST

START_TEST(the_pool_sums_every_page_of_every_job)
{
	static struct mover_sum_job jobs[PAGES];
	struct mover_sums sums = { 0 };
	struct pollfd p = { .events = POLLIN };
	uint32_t n = 0, done = 0;

	fill();
	ck_assert_int_eq(mover_sums_event(&sums), -1);
	ck_assert_int_eq(mover_sums_open(&sums, (uint32_t)_i + 1, memory), 0);
	p.fd = mover_sums_event(&sums);
	for (uint32_t at = 0; at < PAGES; n++) {
		jobs[n] = (struct mover_sum_job){ .page = &pages[at], .n = 1 + n % 5 };
		if (at + jobs[n].n > PAGES)
			jobs[n].n = PAGES - at;
		at += jobs[n].n;
		mover_sums_submit(&sums, &jobs[n]);
	}
	while (done < n) {
		if (mover_sums_done(&sums, &jobs[done])) {
			done++;
			continue;
		}
		uint64_t count;
		/* Looked at before and after: its end rings. */
		ck_assert_int_eq(poll(&p, 1, 5000), 1);
		ck_assert_int_eq(read(p.fd, &count, sizeof(count)), sizeof(count));
	}
	for (uint32_t i = 0; i < PAGES; i++) {
		ck_assert_uint_eq(pages[i].sum, expected(i));
		ck_assert_int_eq(pages[i].error, 0);
	}
	mover_sums_close(&sums);
	ck_assert_int_eq(mover_sums_event(&sums), -1);
	mover_sums_close(&sums);
}
END_TEST

START_TEST(a_pool_that_closes_leaves_its_jobs)
{
	static struct mover_sum_job jobs[2];
	struct mover_sums sums = { 0 };

	fill();
	ck_assert_int_eq(mover_sums_open(&sums, 2, memory), 0);
	jobs[0] = (struct mover_sum_job){ .page = pages, .n = PAGES / 2 };
	jobs[1] = (struct mover_sum_job){ .page = pages + PAGES / 2, .n = PAGES / 2 };
	mover_sums_submit(&sums, &jobs[0]);
	mover_sums_submit(&sums, &jobs[1]);
	mover_sums_close(&sums);
	/* What was taken was finished: no page is half done. */
	for (uint32_t j = 0; j < 2; j++) {
		ck_assert_uint_eq(jobs[j].next + jobs[j].left, jobs[j].n);
		for (uint32_t i = 0; i < jobs[j].next; i++)
			ck_assert_uint_eq(jobs[j].page[i].sum, expected(j * PAGES / 2 + i));
	}
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &known_vector },
		{ &pieces_are_summed_in_the_order_of_regions },
		{ &the_pool_sums_every_page_of_every_job, 30, 4 },
		{ &a_pool_that_closes_leaves_its_jobs },
		{ NULL },
	};

	return suite_run("mover-sum", cases);
}
