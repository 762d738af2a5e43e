/* SPDX-License-Identifier: Apache-2.0 */

/* The verbs of kvb-store. */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "broker/store/check.h"
#include "tools/kvb-store/kvb-store.h"

#define LOCK_WAIT_MS 5000u
#define LOCK_STEP_MS 20u

static void open_progress(void *arg, uint64_t done, uint64_t total)
{
	bar_show("index", done, total);
}

static void check_progress(void *arg, uint64_t done, uint64_t total)
{
	bar_show("check", done, total);
}

static int exit_of(int error)
{
	if (error == -EBUSY)
		return EXIT_IN_USE;
	return error == -EUCLEAN ? EXIT_DAMAGED : EXIT_FAILED;
}

/* EXIT_CLEAN, or what went wrong, which was said. */
static int open_store(const struct args *a, struct store **ret)
{
	struct store_cfg cfg = { .parts = a->paths,
				 .read_only = true,
				 .lock_wait_ms = LOCK_WAIT_MS,
				 .progress = open_progress };
	char why[256];
	int error;

	for (unsigned i = 0; i < a->paths; i++)
		cfg.part[i].path = a->path[i];
	error = store_open(&cfg, ret, why, sizeof(why));
	bar_end();
	if (!error)
		return EXIT_CLEAN;
	if (a->json) {
		cJSON *o = cJSON_CreateObject();
		char *text;

		cJSON_AddBoolToObject(o, "ok", false);
		cJSON_AddStringToObject(o, "error", why);
		text = cJSON_PrintUnformatted(o);
		printf("%s\n", text);
		free(text);
		cJSON_Delete(o);
	}
	fprintf(stderr, "kvb-store: %s\n", why);
	return exit_of(error);
}

static void print_json(cJSON *o)
{
	char *text = cJSON_PrintUnformatted(o);

	printf("%s\n", text ? text : "{}");
	free(text);
	cJSON_Delete(o);
}

static void hex(const uint8_t *from, unsigned n, char *to)
{
	for (unsigned i = 0; i < n; i++)
		sprintf(to + 2 * i, "%02x", from[i]);
}

/* ---- info ---------------------------------------------------------------------------------- */

static void info_json(struct store *s, const struct store_stats *st)
{
	cJSON *o = cJSON_CreateObject(), *parts = cJSON_AddArrayToObject(o, "parts");
	cJSON *spaces = cJSON_AddArrayToObject(o, "namespaces");
	struct store_head head;
	struct format_ns ns;
	char text[65];

	store_head(s, 0, &head);
	hex(head.uuid, 16, text);
	cJSON_AddStringToObject(o, "uuid", text);
	cJSON_AddNumberToObject(o, "format", FORMAT_VERSION);
	cJSON_AddNumberToObject(o, "sequence", (double)head.seq);
	cJSON_AddBoolToObject(o, "clean", head.clean);
	cJSON_AddNumberToObject(o, "segment_bytes", (double)st->segment_bytes);
	cJSON_AddNumberToObject(o, "bytes", (double)st->bytes);
	cJSON_AddNumberToObject(o, "bytes_used", (double)st->bytes_used);
	cJSON_AddNumberToObject(o, "pages", (double)st->pages);
	for (uint32_t i = 0; i < st->parts; i++) {
		cJSON *p = cJSON_CreateObject();

		cJSON_AddStringToObject(p, "path", st->part[i].path);
		cJSON_AddNumberToObject(p, "bytes", (double)st->part[i].bytes);
		cJSON_AddNumberToObject(p, "segments", st->part[i].segments);
		cJSON_AddNumberToObject(p, "segments_free", st->part[i].segments_free);
		cJSON_AddItemToArray(parts, p);
	}
	for (uint32_t i = 0; store_ns_row(s, i, &ns); i++) {
		cJSON *n = cJSON_CreateObject();

		hex(ns.digest, 32, text);
		cJSON_AddStringToObject(n, "digest", text);
		cJSON_AddNumberToObject(n, "epoch", ns.epoch);
		cJSON_AddItemToArray(spaces, n);
	}
	print_json(o);
}

int verb_info(const struct args *a)
{
	struct store *s;
	struct store_stats st;
	struct store_head head;
	struct format_ns ns;
	char text[65];
	int status = open_store(a, &s);

	if (status)
		return status;
	store_stats(s, &st);
	if (a->json) {
		info_json(s, &st);
		store_close(s);
		return EXIT_CLEAN;
	}
	store_head(s, 0, &head);
	hex(head.uuid, 16, text);
	printf("store %s, format %u, superblock %" PRIu64 ", %s\n", text, FORMAT_VERSION, head.seq,
	       head.clean ? "closed properly" : "not closed properly");
	printf("%" PRIu64 " pages, %" PRIu64 " of %" PRIu64 " MiB used, segments of %" PRIu64
	       " KiB\n",
	       st.pages, st.bytes_used >> 20, st.bytes >> 20, st.segment_bytes >> 10);
	for (uint32_t i = 0; i < st.parts; i++)
		printf("part %u: %s, %" PRIu64 " MiB, %u segments, %u free\n", i, st.part[i].path,
		       st.part[i].bytes >> 20, st.part[i].segments, st.part[i].segments_free);
	for (uint32_t i = 0; store_ns_row(s, i, &ns); i++) {
		hex(ns.digest, 32, text);
		printf("namespace %u: %s, epoch %u\n", i, text, ns.epoch);
	}
	store_close(s);
	return EXIT_CLEAN;
}

/* ---- fsck ---------------------------------------------------------------------------------- */

static void fsck_json(const struct args *a, const struct store_check *c)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddBoolToObject(o, "ok", c->bad == 0);
	cJSON_AddNumberToObject(o, "pages", (double)c->pages);
	cJSON_AddNumberToObject(o, "bad", (double)c->bad);
	cJSON_AddBoolToObject(o, "deep", a->deep);
	cJSON_AddNumberToObject(o, "bytes", (double)c->bytes);
	cJSON_AddNumberToObject(o, "unfinished", (double)c->unfinished);
	cJSON_AddNumberToObject(o, "stale", (double)c->stale);
	cJSON_AddNumberToObject(o, "replaced", (double)c->replaced);
	cJSON_AddNumberToObject(o, "unreadable", (double)c->unreadable);
	cJSON_AddNumberToObject(o, "segments", c->segments);
	cJSON_AddNumberToObject(o, "segments_closed", c->segments_closed);
	cJSON_AddNumberToObject(o, "segments_scanned", c->segments_scanned);
	if (c->first[0])
		cJSON_AddStringToObject(o, "first", c->first);
	print_json(o);
}

static void tell_bad(void *arg, uint32_t part, uint32_t segment, const struct format_desc *d,
		     bool bad)
{
	if (!bad)
		return;
	bar_end();
	fprintf(stderr,
		"kvb-store: part %u, segment %u, unit %u: page of %u bytes is not what was "
		"written\n",
		part, segment, d->unit, d->bytes);
}

int verb_fsck(const struct args *a)
{
	const struct store_check_cfg cfg = { .deep = a->deep,
					     .page = tell_bad,
					     .progress = check_progress };
	struct store_check c;
	struct store *s;
	int status = open_store(a, &s);
	int error;

	if (status)
		return status;
	error = store_check(s, &cfg, &c);
	bar_end();
	store_close(s);
	if (error) {
		fprintf(stderr, "kvb-store: %s\n", strerror(-error));
		return EXIT_FAILED;
	}
	if (a->json)
		fsck_json(a, &c);
	else
		printf("%s: %" PRIu64 " pages%s, %" PRIu64 " bad, %" PRIu64 " unfinished, %" PRIu64
		       " of past epochs\n",
		       c.bad ? "DAMAGED" : "clean", c.pages, a->deep ? " read" : "", c.bad,
		       c.unfinished, c.stale);
	if (c.bad && c.first[0])
		fprintf(stderr, "kvb-store: first damage: %s\n", c.first);
	return c.bad ? EXIT_DAMAGED : EXIT_CLEAN;
}

/* ---- dump ---------------------------------------------------------------------------------- */

static void dump_page(void *arg, uint32_t part, uint32_t segment, const struct format_desc *d,
		      bool bad)
{
	const struct args *a = arg;
	char where[33], chain[33];

	snprintf(where, sizeof(where), "%016" PRIx64 "%016" PRIx64, d->where[0], d->where[1]);
	snprintf(chain, sizeof(chain), "%016" PRIx64 "%016" PRIx64, d->chain[0], d->chain[1]);
	if (a->json)
		printf("{\"part\":%u,\"segment\":%u,\"unit\":%u,\"bytes\":%u,\"ns\":%u,\"epoch\":%"
		       "u,"
		       "\"where\":\"%s\",\"chain\":\"%s\",\"crc32c\":\"%08x\"}\n",
		       part, segment, d->unit, d->bytes, d->ns, d->epoch, where, chain,
		       d->data_crc);
	else
		printf("%4u %8u %6u %9u %5u %6u %s %s %08x\n", part, segment, d->unit, d->bytes,
		       d->ns, d->epoch, where, chain, d->data_crc);
}

int verb_dump(const struct args *a)
{
	const struct store_check_cfg cfg = { .page = dump_page, .arg = (void *)(uintptr_t)a };
	struct store_check c;
	struct store *s;
	int status = open_store(a, &s);
	int error;

	if (status)
		return status;
	if (!a->json)
		printf("%4s %8s %6s %9s %5s %6s %-32s %-32s %s\n", "part", "segment", "unit",
		       "bytes", "ns", "epoch", "where", "chain", "crc32c");
	error = store_check(s, &cfg, &c);
	store_close(s);
	if (error)
		fprintf(stderr, "kvb-store: %s\n", strerror(-error));
	return error ? EXIT_FAILED : EXIT_CLEAN;
}

/* ---- wipe ---------------------------------------------------------------------------------- */

static bool confirmed(const struct args *a)
{
	char answer[8] = "";

	if (a->yes)
		return true;
	if (!isatty(STDIN_FILENO)) {
		fputs("kvb-store: wipe asks at a terminal; elsewhere it wants --yes\n", stderr);
		return false;
	}
	fprintf(stderr, "All pages in %s%s are given up. Go on? [y/N] ", a->path[0],
		a->paths > 1 ? " and the others" : "");
	return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

static int lock_file(int fd)
{
	for (unsigned ms = 0;; ms += LOCK_STEP_MS) {
		const struct timespec step = { .tv_nsec = LOCK_STEP_MS * 1000000 };

		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		if (errno != EWOULDBLOCK)
			return -errno;
		if (ms >= LOCK_WAIT_MS)
			return -EBUSY;
		nanosleep(&step, NULL);
	}
}

/* Zeros over the head; of the rest what the file system or the device gives up readily. */
static int wipe_fd(int fd, const struct stat *st)
{
	char *zeros = calloc(1, FORMAT_HEAD_BYTES);
	uint64_t range[2] = { 0, 0 };
	uint64_t bytes = FORMAT_HEAD_BYTES;
	int error = zeros ? 0 : -ENOMEM;

	if (S_ISREG(st->st_mode)) {
		(void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, st->st_size);
		bytes = (uint64_t)st->st_size < bytes ? (uint64_t)st->st_size : bytes;
	} else if (ioctl(fd, BLKGETSIZE64, &range[1]) == 0) {
		(void)ioctl(fd, BLKDISCARD, range);
	}
	if (!error && pwrite(fd, zeros, bytes, 0) != (ssize_t)bytes)
		error = errno ? -errno : -EIO;
	if (!error && fsync(fd) < 0)
		error = -errno;
	free(zeros);
	return error;
}

static int wipe_path(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	int error = fd < 0 || fstat(fd, &st) < 0 ? -errno : 0;

	if (!error && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		error = -ENOTBLK;
	if (!error)
		error = lock_file(fd);
	if (!error)
		error = wipe_fd(fd, &st);
	if (error)
		fprintf(stderr, "kvb-store: %s: %s%s\n", path, strerror(-error),
			error == -EBUSY ? " (a broker is using it)" : "");
	if (fd >= 0)
		close(fd);
	return error ? exit_of(error) : EXIT_CLEAN;
}

int verb_wipe(const struct args *a)
{
	if (!confirmed(a))
		return EXIT_FAILED;
	for (unsigned i = 0; i < a->paths; i++) {
		int status = wipe_path(a->path[i]);

		if (status)
			return status;
	}
	return EXIT_CLEAN;
}
