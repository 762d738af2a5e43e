/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The exporter's parts over segments made here: names that are hostile, more of everything than has
 * a series of its own, and daemons that are no more.
 */

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/suite.h"
#include "tools/kvbroker-exporter/families.h"
#include "tools/kvbroker-exporter/metrics.h"
#include "tools/kvbroker-exporter/page.h"
#include "tools/kvbroker-exporter/textfile.h"

/* ---- the text format ----------------------------------------------------------------------- */

START_TEST(families_have_one_head_and_only_with_samples)
{
	struct expo e;

	expo_init(&e);
	expo_family(&e, EXPO_GAUGE, "a", "Nothing of it.");
	expo_family(&e, EXPO_COUNTER, "b_total", "Two of it.");
	expo_count(&e, "x=\"1\"", UINT64_MAX);
	expo_value(&e, NULL, 0.25);
	expo_value(&e, "", INFINITY);
	ck_assert_str_eq(e.text, "# HELP b_total Two of it.\n# TYPE b_total counter\n"
				 "b_total{x=\"1\"} 18446744073709551615\nb_total 0.25\n"
				 "b_total +Inf\n");
	ck_assert_uint_eq(e.bytes, strlen(e.text));
	expo_free(&e);
}
END_TEST

START_TEST(histograms_count_upwards)
{
	const double bound[] = { 0.5, 1 };
	const uint64_t bucket[] = { 2, 3 };
	struct expo e;

	expo_init(&e);
	expo_family(&e, EXPO_HISTOGRAM, "h", "H.");
	expo_histogram(&e, bound, bucket, 2, 7.5, 6);
	ck_assert_str_eq(e.text, "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"0.5\"} 2\n"
				 "h_bucket{le=\"1\"} 5\nh_bucket{le=\"+Inf\"} 6\nh_sum 7.5\n"
				 "h_count 6\n");
	expo_free(&e);
}
END_TEST

START_TEST(labels_are_escaped_and_fit)
{
	char labels[40] = "";

	expo_label(labels, sizeof(labels), "a", "x\"y\\z\n\xff");
	ck_assert_str_eq(labels, "a=\"x\\\"y\\\\z??\"");
	expo_label(labels, sizeof(labels), "b", "");
	ck_assert_str_eq(labels, "a=\"x\\\"y\\\\z??\",b=\"\"");
	expo_label(labels, sizeof(labels), "c", "\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"");
	ck_assert_uint_lt(strlen(labels), sizeof(labels));
	ck_assert_uint_eq(labels[strlen(labels) - 1], '"');
	/* No escape is cut in two. */
	ck_assert_str_eq(labels,
			 "a=\"x\\\"y\\\\z??\",b=\"\",c=\"\\\"\\\"\\\"\\\"\\\"\\\"\\\"\\\"\"");
	expo_label(labels, sizeof(labels), "d", "no room");
	ck_assert_ptr_null(strstr(labels, "d="));
}
END_TEST

/* ---- metrics ------------------------------------------------------------------------------- */

static struct source source_new(void)
{
	struct source s = { .path = "-", .seg = calloc(1, sizeof(*s.seg)), .up = true };

	s.seg->ready = 1;
	s.seg->published_ns = 1;
	s.seg->devices_n = 1;
	strcpy(s.seg->device[0].name, "host:0");
	s.seg->device[0].below = STATS_NONE;
	return s;
}

static char *written(const struct source *s)
{
	struct expo e;

	expo_init(&e);
	metrics_write(&e, s);
	ck_assert(!e.failed);
	return e.text;
}

static void assert_line(const char *text, const char *line)
{
	char whole[512];

	snprintf(whole, sizeof(whole), "\n%s\n", line);
	ck_assert_msg(strstr(text, whole), "no line %s", line);
}

static unsigned lines_with(const char *text, const char *part)
{
	unsigned n = 0;

	for (text = strstr(text, part); text; text = strstr(text + 1, part))
		n++;
	return n;
}

#define FIGURE(name, field)                                                                        \
	{                                                                                          \
		"\nkvbroker_" name, offsetof(struct stats_segment, field),                         \
			sizeof(((struct stats_segment *)0)->field)                                 \
	}

/* Each says its own field: of a daemon that runs, most are 0. */
START_TEST(figures_are_those_of_their_fields)
{
	static const struct {
		const char *name;
		size_t at, bytes;
	} figure[] = {
		FIGURE("stale_pages", pages_stale),
		FIGURE("spaces", spaces_n),
		FIGURE("clients_reclaiming", reaping),
		FIGURE("slabs_draining", draining),
		FIGURE("loop_turns_total", turns),
		FIGURE("loop_sleeps_total", sleeps),
		FIGURE("connections_accepted_total", accepted),
		FIGURE("connections_refused_total", refused),
		FIGURE("protocol_errors_total", protocol_errors),
		FIGURE("attach_timeouts_total", attach_timeouts),
		FIGURE("clients_kicked_total", kicked),
		FIGURE("clients_attached_total", n.clients_opened),
		FIGURE("clients_reclaimed_total", n.clients_reaped),
		FIGURE("log_lines_dropped_total", log_dropped),
		FIGURE("allocations_total", n.allocs),
		FIGURE("allocation_failures_total", n.alloc_short),
		FIGURE("allocated_pages_total", n.alloc_pages),
		FIGURE("freed_pages_total", n.frees),
		FIGURE("sealed_pages_total", n.seals),
		FIGURE("sealed_duplicates_total", n.seal_dups),
		FIGURE("lookups_total", n.lookups),
		FIGURE("lookup_keys_total", n.lookup_keys),
		FIGURE("released_leases_total", n.releases),
		FIGURE("loads_total", n.loads),
		FIGURE("load_keys_total", n.load_keys),
		FIGURE("load_hits_total", n.load_hits),
		FIGURE("load_failures_total", n.load_failed),
		FIGURE("stale_pages_swept_total", n.stale_swept),
		FIGURE("revocations_overdue_total", n.revocations_overdue),
		FIGURE("store_written_pages_total", n.stored),
		FIGURE("store_written_bytes_total", n.stored_bytes),
		FIGURE("store_read_pages_total", n.fetched),
		FIGURE("store_read_bytes_total", n.fetched_bytes),
		FIGURE("store_lost_pages_total", n.store_lost),
		FIGURE("store_refused_pages_total", n.store_refused),
		FIGURE("store_unwanted_pages_total", n.store_unwanted),
		FIGURE("arriving_bytes", device[0].arriving_bytes),
		FIGURE("idle_bytes", device[0].free_bytes),
		FIGURE("draining_bytes", device[0].draining_bytes),
		FIGURE("warm_bytes", device[0].warm_bytes),
		FIGURE("pages", device[0].pages),
		FIGURE("free_pages", device[0].pages_free),
		FIGURE("ripe_pages", device[0].ripe),
		FIGURE("io_inflight_requests", device[0].flights),
		FIGURE("dropped_pages_total", device[0].dropped),
		FIGURE("slab_grants_total", device[0].grants),
		FIGURE("slab_revocations_total", device[0].revocations),
		FIGURE("slabs_retired_total", device[0].retired),
		FIGURE("tier_transfer_failures_total", device[0].transfers_failed),
		FIGURE("tier_checksum_failures_total", device[0].checksum_misses),
		FIGURE("mover_restarts_total", device[0].mover_restarts),
		FIGURE("tenant_draining_bytes", tenant[0].budget[0].draining_bytes),
		FIGURE("tenant_high_bytes", tenant[0].budget[0].high_bytes),
		FIGURE("tenant_leases", tenant[0].leases),
		FIGURE("tenant_pins", tenant[0].pins),
		FIGURE("tenant_lookups_total", tenant[0].lookups),
		FIGURE("tenant_lookup_keys_total", tenant[0].lookup_keys),
		FIGURE("tenant_lookup_hits_total", tenant[0].lookup_hits),
		FIGURE("tenant_refusals_total", tenant[0].refusals),
		FIGURE("namespace_clients", ns[0].refs),
		FIGURE("namespace_lookup_keys_total", ns[0].lookup_keys),
		FIGURE("namespace_lookup_hits_total", ns[0].lookup_hits),
		FIGURE("namespace_stale_seals_total", ns[0].stale_seals),
		FIGURE("client_held_pages", client[0].held),
		FIGURE("client_pins", client[0].pins),
		FIGURE("client_ring_submissions_waiting", client[0].sq_fill),
		FIGURE("client_ring_completions_waiting", client[0].cq_fill),
		FIGURE("client_ring_entries_total", client[0].entries),
		FIGURE("client_ring_invalid_entries_total", client[0].invalid),
	};
	const unsigned n = sizeof(figure) / sizeof(figure[0]);
	struct source s = source_new();
	char *text;

	s.seg->tenants_n = s.seg->namespaces_n = s.seg->clients_n = 1;
	for (uint64_t i = 0, value = 1000; i < n; i++, value++)
		memcpy((char *)s.seg + figure[i].at, &value, figure[i].bytes);
	s.seg->device[0].below = 0;
	text = written(&s);
	for (unsigned i = 0; i < n; i++) {
		size_t length = strlen(figure[i].name);
		const char *at = text, *space;

		while ((at = strstr(at, figure[i].name)) && at[length] != ' ' && at[length] != '{')
			at++;
		ck_assert_msg(at, "no %s", figure[i].name + 1);
		space = strchr(at, ' ');
		ck_assert_msg(strtoull(space, NULL, 10) == 1000 + i, "%.80s", at + 1);
	}
	assert_line(text, "kvbroker_tier_ready{device=\"host:0\",tier=\"device\"} 0");
	free(text);
	s.seg->device[0].below_ready = 1;
	text = written(&s);
	assert_line(text, "kvbroker_tier_ready{device=\"host:0\",tier=\"device\"} 1");
	free(text);
	source_free(&s);
}
END_TEST

START_TEST(tenants_above_the_limit_are_summed_up)
{
	struct source s = source_new();
	char *text;

	s.seg->tenants_n = METRICS_TENANTS_MAX + 2;
	for (uint32_t i = 0; i < s.seg->tenants_n; i++) {
		struct stats_tenant *t = &s.seg->tenant[i];

		snprintf(t->name, sizeof(t->name), "t%u", i);
		t->index = i;
		t->seals = 10 + i;
		t->budget[0].used_bytes = 100 + i;
		t->budget[0].weight = i;
		t->budget[0].max_bytes = i == METRICS_TENANTS_MAX ? UINT64_MAX : 7;
	}
	text = written(&s);
	assert_line(text, "kvbroker_tenant_sealed_pages_total{tenant=\"t63\"} 73");
	assert_line(text, "kvbroker_tenant_sealed_pages_total{tenant=\"all others\"} 149");
	assert_line(text, "kvbroker_tenant_usage_bytes{tenant=\"t63\",device=\"host:0\"} 163");
	assert_line(text,
		    "kvbroker_tenant_usage_bytes{tenant=\"all others\",device=\"host:0\"} 329");
	assert_line(text, "kvbroker_tenant_weight{tenant=\"all others\",device=\"host:0\"} 129");
	assert_line(text, "kvbroker_tenant_max_bytes{tenant=\"t0\",device=\"host:0\"} 7");
	assert_line(text,
		    "kvbroker_tenant_max_bytes{tenant=\"all others\",device=\"host:0\"} +Inf");
	ck_assert_ptr_null(strstr(text, "t64"));
	ck_assert_uint_eq(lines_with(text, "# TYPE kvbroker_tenant_usage_bytes gauge"), 1);
	free(text);
	source_free(&s);
}
END_TEST

START_TEST(as_many_as_the_limit_have_no_others)
{
	struct source s = source_new();
	char *text;

	s.seg->clients_n = METRICS_CLIENTS_MAX;
	for (uint32_t i = 0; i < s.seg->clients_n; i++)
		s.seg->client[i].id = i;
	text = written(&s);
	ck_assert_ptr_null(strstr(text, "all others"));
	ck_assert_uint_eq(lines_with(text, "kvbroker_client_leases{"), METRICS_CLIENTS_MAX);
	free(text);
	s.seg->clients_n++;
	s.seg->client[METRICS_CLIENTS_MAX].leases = 3;
	text = written(&s);
	assert_line(text, "kvbroker_client_leases{client=\"all others\"} 3");
	/* What can't be summed is not. */
	ck_assert_ptr_null(strstr(text, "kvbroker_client_connected{client=\"all others\""));
	free(text);
	source_free(&s);
}
END_TEST

START_TEST(namespaces_that_begin_alike_are_told_apart)
{
	struct source s = source_new();
	char name[65];

	s.seg->namespaces_n = 3;
	s.seg->ns[1].digest[31] = 1;
	s.seg->ns[2].tenant = 1;
	metrics_namespace_name(s.seg, 0, name);
	ck_assert_uint_eq(strlen(name), 64);
	metrics_namespace_name(s.seg, 1, name);
	ck_assert_str_eq(name + 60, "0001");
	metrics_namespace_name(s.seg, 2, name); /* another tenant's */
	ck_assert_str_eq(name, "00000000");
	source_free(&s);
}
END_TEST

START_TEST(what_a_device_does_not_have_is_left_out)
{
	struct source s = source_new();
	char *text;

	s.seg->devices_n = 3; /* the second is none */
	strcpy(s.seg->device[2].name, "arena:0");
	s.seg->device[2].kind = CORE_KIND_ARENA;
	s.seg->device[2].below = STATS_NONE;
	s.seg->device[2].unseen_error = -1;
	s.seg->device[0].below = 2;
	s.seg->device[0].demoted = 5;
	s.seg->device[0].promoted = 6;
	text = written(&s);
	ck_assert_uint_eq(lines_with(text, "\nkvbroker_capacity_bytes{"), 2);
	ck_assert_uint_eq(lines_with(text, "\nkvbroker_tier_filled_bytes{"), 1);
	ck_assert_ptr_null(strstr(text, "kvbroker_numa_misplaced_bytes"));
	ck_assert_ptr_null(strstr(text, "kvbroker_device_unused_bytes"));
	ck_assert_ptr_null(strstr(text, "kvbroker_gpu_info"));
	assert_line(text, "kvbroker_tier_transfer_pages_total{device=\"host:0\",from=\"device\","
			  "to=\"host\"} 5");
	assert_line(text, "kvbroker_tier_transfer_pages_total{device=\"host:0\",from=\"host\","
			  "to=\"device\"} 6");
	free(text);
	s.seg->published_ns = 0;
	text = written(&s);
	ck_assert_ptr_null(strstr(text, "kvbroker_capacity_bytes"));
	assert_line(text, "kvbroker_up 1");
	free(text);
	source_free(&s);
}
END_TEST

START_TEST(pages_escape_what_others_named)
{
	struct source s = source_new();
	struct expo e;

	s.seg->clients_n = 1;
	strcpy(s.seg->client[0].name, "<script>&\"\x01\xff");
	strcpy(s.seg->device[0].why, "<b>");
	s.seg->device[0].failed = 1;
	expo_init(&e);
	page_write(&e, &s);
	ck_assert_ptr_nonnull(strstr(e.text, "<td>&lt;script&gt;&amp;&quot;?"
					     "?</td>"));
	ck_assert_ptr_nonnull(strstr(e.text, "<td>&lt;b&gt;</td>"));
	ck_assert_ptr_null(strstr(e.text, "<script"));
	expo_free(&e);
	source_free(&s);
}
END_TEST

/* ---- the living and the dead --------------------------------------------------------------- */

static char path[] = "/tmp/kvb-exporter-XXXXXX";

static struct stats_segment *segment_new(void)
{
	struct stats_segment *seg;
	struct timespec now;
	int fd = mkstemp(path);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, sizeof(*seg)), 0);
	seg = mmap(NULL, sizeof(*seg), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(seg, MAP_FAILED);
	close(fd);
	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	seg->magic = STATS_MAGIC;
	seg->version = STATS_VERSION;
	seg->bytes = sizeof(*seg);
	seg->pid = getpid();
	seg->started_ns = (uint64_t)now.tv_sec * 1000000000u;
	seg->published_ns = seg->started_ns;
	seg->ready = 1;
	return seg;
}

static void assert_down(struct source *s, const char *why)
{
	source_read(s);
	ck_assert(!s->up);
	ck_assert_msg(strstr(s->why, why), "%s", s->why);
}

START_TEST(figures_are_of_the_living)
{
	struct stats_segment *seg = segment_new();
	struct source s;
	pid_t child;

	ck_assert_int_eq(source_init(&s, path), 0);
	source_read(&s);
	ck_assert_msg(s.up, "%s", s.why);
	ck_assert_str_eq(source_state(&s), "ready");
	seg->started_ns -= 5000000000u; /* this process is younger than that daemon */
	assert_down(&s, "has ended");
	seg->started_ns += 5000000000u;
	seg->ready = 3;
	assert_down(&s, "stopped");
	seg->ready = 1;
	seg->seq = 1;
	assert_down(&s, "half written");
	child = fork();
	if (child == 0)
		_exit(0);
	seg->pid = child; /* a zombie, then nothing; and not waited for as a writer */
	while (waitid(P_PID, (id_t)child, NULL, WEXITED | WNOWAIT) < 0)
		;
	assert_down(&s, "has ended");
	(void)waitpid(child, NULL, 0);
	assert_down(&s, "has ended");
	seg->seq = 0;
	seg->pid = 0;
	assert_down(&s, "has ended");
	seg->pid = getpid();
	seg->version = STATS_VERSION + 1;
	assert_down(&s, "version");
	seg->magic = 0;
	assert_down(&s, "no stats segment");
	unlink(path);
	assert_down(&s, "no daemon has run here");
	s.path = "/";
	assert_down(&s, "no stats segment");
	source_free(&s);
}
END_TEST

START_TEST(files_are_replaced_whole)
{
	struct stats_segment *seg = segment_new();
	struct source s;
	char file[64], beside[80], text[65536];
	struct stat st;
	mode_t mask = umask(077);
	int fd;

	snprintf(file, sizeof(file), "%s.prom", path);
	snprintf(beside, sizeof(beside), "%s.new", file);
	ck_assert_int_eq(source_init(&s, path), 0);
	ck_assert_int_eq(textfile_write(file, &s), 0);
	ck_assert_int_eq(stat(file, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0644);
	seg->ready = 3;
	ck_assert_int_eq(mkdir(beside, 0700), 0); /* it can't be written: the old one stays */
	ck_assert_int_lt(textfile_write(file, &s), 0);
	ck_assert_int_eq(stat(file, &st), 0);
	ck_assert_int_eq(rmdir(beside), 0);
	ck_assert_int_eq(textfile_write(file, &s), 0);
	ck_assert_int_lt(stat(beside, &st), 0);
	fd = open(file, O_RDONLY | O_CLOEXEC);
	memset(text, 0, sizeof(text));
	ck_assert_int_gt(read(fd, text, sizeof(text) - 1), 0);
	close(fd);
	assert_line(text, "kvbroker_up 0");
	ck_assert_ptr_null(strstr(text, "kvbroker_capacity_bytes"));
	unlink(file);
	unlink(path);
	(void)umask(mask);
	source_free(&s);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &families_have_one_head_and_only_with_samples, 0, 0 },
		{ &histograms_count_upwards, 0, 0 },
		{ &labels_are_escaped_and_fit, 0, 0 },
		{ &tenants_above_the_limit_are_summed_up, 0, 0 },
		{ &figures_are_those_of_their_fields, 0, 0 },
		{ &as_many_as_the_limit_have_no_others, 0, 0 },
		{ &namespaces_that_begin_alike_are_told_apart, 0, 0 },
		{ &what_a_device_does_not_have_is_left_out, 0, 0 },
		{ &pages_escape_what_others_named, 0, 0 },
		{ &figures_are_of_the_living, 10, 0 },
		{ &files_are_replaced_whole, 0, 0 },
		{ NULL, 0, 0 },
	};

	return suite_run("exporter", cases);
}
