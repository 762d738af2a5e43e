/* SPDX-License-Identifier: Apache-2.0 */

/*
 * doctor on machines that are not here: files of each below a directory, a segment of a daemon's,
 * and what was tried. Each finding is looked for by its check, its verdict and a word of it.
 */

#include <errno.h>
#include <linux/io_uring.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "broker/core/core.h"
#include "tests/unit/suite.h"
#include "tools/broker-ctl/ctl.h"
#include "tools/broker-ctl/doctor.h"

#define PID 4711

static char root[64];
static struct doctor d;
static struct stats_segment *seg;

/* The library of broker-ctl wants one; the checks say findings instead. */
int ctl_fail(const struct ctl *ctl, int code, const char *what, const char *hint, const char *fmt,
	     ...)
{
	return code;
}

static void begin(void)
{
	strcpy(root, "/tmp/kvb-doctor-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
	seg = calloc(1, sizeof(*seg));
	ck_assert_ptr_nonnull(seg);
	seg->pid = PID;
	seg->ready = 1;
	strcpy(seg->daemon_version, KVB_VERSION);
	d = (struct doctor){ .root = root, .findings = cJSON_CreateArray() };
}

static void end(void)
{
	char command[128];

	(void)snprintf(command, sizeof(command), "rm -rf %s", root);
	ck_assert_int_eq(system(command), 0);
	cJSON_Delete(d.findings);
	free(seg);
}

static void path_of(char ret[256], const char *name)
{
	(void)snprintf(ret, 256, "%s/%s", root, name);
}

static void put_bytes(const char *name, const char *text, size_t n)
{
	char path[256];
	FILE *file;

	path_of(path, name);
	for (char *c = path + strlen(root) + 1; (c = strchr(c, '/')); c++) {
		*c = '\0';
		ck_assert(mkdir(path, 0755) == 0 || errno == EEXIST);
		*c = '/';
	}
	file = fopen(path, "we");
	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(text, 1, n, file), n);
	ck_assert_int_eq(fclose(file), 0);
}

static void put(const char *name, const char *text)
{
	put_bytes(name, text, strlen(text));
}

static bool has(const cJSON *o, const char *key, const char *word)
{
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(o, key));

	return text && strstr(text, word);
}

/* The one finding there is now; then there is none. What is not ok has a way out of it. */
static void expect(const char *check, const char *verdict, const char *word)
{
	const cJSON *o = cJSON_GetArrayItem(d.findings, 0);
	char *seen = cJSON_Print(d.findings);

	ck_assert_msg(cJSON_GetArraySize(d.findings) == 1, "%s", seen);
	ck_assert_msg(has(o, "check", check) && has(o, "verdict", verdict) && has(o, "text", word),
		      "%s is not %s: %s in %s", check, verdict, word, seen);
	ck_assert_msg(cJSON_IsNull(cJSON_GetObjectItem(o, "fix")) == (strcmp(verdict, "ok") == 0),
		      "%s", seen);
	free(seen);
	cJSON_Delete(d.findings);
	d.findings = cJSON_CreateArray();
}

/* The first of them, and then the others. */
static void expect_first(const char *check, const char *verdict, const char *word)
{
	cJSON *rest = cJSON_CreateArray();

	while (cJSON_GetArraySize(d.findings) > 1)
		cJSON_AddItemToArray(rest, cJSON_DetachItemFromArray(d.findings, 1));
	expect(check, verdict, word);
	cJSON_Delete(d.findings);
	d.findings = rest;
}

START_TEST(kernels_are_judged)
{
	static const struct {
		const char *release, *verdict, *text;
	} kernel[] = {
		{ "5.2.99\n", "fail", "needs 5.3" },
		{ "5.10.0-28-amd64\n", "warn", "5.14" },
		{ "5.15.0\n", "warn", "before 6.1" },
		{ "6.0.19\n", "warn", "before 6.1" },
		{ "6.1.0-18-amd64\n", "ok", "6.1.0-18-amd64" },
		{ "rubbish\n", "warn", "not told" },
	};

	begin();
	doctor_check_kernel(&d);
	expect("kernel", "warn", "not told");
	for (unsigned i = 0; i < sizeof(kernel) / sizeof(kernel[0]); i++) {
		put("proc/sys/kernel/osrelease", kernel[i].release);
		doctor_check_kernel(&d);
		expect("kernel", kernel[i].verdict, kernel[i].text);
	}
	end();
}
END_TEST

START_TEST(clocks_and_pressure_are_judged)
{
	const char *source = "sys/devices/system/clocksource/clocksource0/current_clocksource";

	begin();
	doctor_check_clock(&d);
	expect("clock", "ok", "not told");
	put(source, "tsc\n");
	doctor_check_clock(&d);
	expect("clock", "ok", "tsc");
	put(source, "hpet\n");
	doctor_check_clock(&d);
	expect("clock", "warn", "hpet");
	doctor_check_pressure(&d);
	expect("pressure", "ok", "not available");
	put("proc/pressure/memory", "some avg10=90.00 avg60=80.00 avg300=0.00 total=1\n"
				    "full avg10=0.00 avg60=4.99 avg300=0.00 total=1\n");
	doctor_check_pressure(&d);
	expect("pressure", "ok", "5.0 %");
	put("proc/pressure/memory", "full avg10=0.00 avg60=7.25 avg300=0.00 total=1\n");
	doctor_check_pressure(&d);
	expect("pressure", "warn", "7.2 %");
	put("proc/pressure/memory", "rubbish");
	doctor_check_pressure(&d);
	expect("pressure", "ok", "not available");
	end();
}
END_TEST

static struct stats_device *arena(uint64_t filled_bytes)
{
	struct stats_device *a = &seg->device[seg->devices_n++];

	strcpy(a->name, "arena:0");
	a->kind = CORE_KIND_ARENA;
	a->below = STATS_NONE;
	a->capacity_bytes = a->filled_bytes = filled_bytes;
	return a;
}

START_TEST(pages_and_nodes_are_judged)
{
	struct stats_device *a;

	begin();
	doctor_check_huge_pages(&d);
	expect("hugepages", "warn", "no transparent ones");
	put("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
	doctor_check_huge_pages(&d);
	expect("hugepages", "warn", "are off");
	put("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
	doctor_check_huge_pages(&d);
	expect("hugepages", "ok", "madvise");
	d.seg = seg;
	a = arena(8 << 20);
	a->thp_bytes = 6 << 20;
	doctor_check_huge_pages(&d);
	expect_first("hugepages", "ok", "madvise");
	expect("hugepages", "warn", "2.0M of 8.0M lie on small pages");
	a->hugetlb_bytes = 2 << 20;
	doctor_check_huge_pages(&d);
	expect_first("hugepages", "ok", "madvise");
	expect("hugepages", "ok", "2.0M of it set aside");

	doctor_check_numa(&d);
	expect_first("numa", "fail", "cannot be read");
	cJSON_Delete(d.findings);
	d.findings = cJSON_CreateArray();
	put("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 500 kB\nMemAvailable: 500 kB\n");
	a->misplaced_bytes = 4096;
	doctor_check_numa(&d);
	expect_first("numa", "warn", "counts as node 0");
	expect("numa", "warn", "4.0K lie on another node");
	a->misplaced_bytes = 0;
	a->unplaced_error = -EPERM;
	doctor_check_numa(&d);
	expect_first("numa", "warn", "counts as node 0");
	expect("numa", "warn", "forbids placing");
	end();
}
END_TEST

START_TEST(rings_are_judged)
{
	const struct doctor_uring good = { .deferred = true, .features = IORING_FEAT_EXT_ARG };
	const struct doctor_uring old = { .features = IORING_FEAT_EXT_ARG };
	const struct doctor_uring ancient = { 0 };
	const struct doctor_uring refused = { .error = -EPERM };

	begin();
	doctor_check_uring(&d, &good);
	expect("io_uring", "ok", "DEFER_TASKRUN");
	doctor_check_uring(&d, &old);
	expect("io_uring", "warn", "without DEFER_TASKRUN");
	doctor_check_uring(&d, &ancient);
	expect("io_uring", "warn", "too old");
	doctor_check_uring(&d, &refused);
	expect("io_uring", "warn", "not permitted");
	d.seg = seg;
	strcpy(seg->engine, "epoll");
	doctor_check_uring(&d, &good);
	expect("io_uring", "warn", "the daemon uses epoll");
	strcpy(seg->engine, "io_uring");
	doctor_check_uring(&d, &good);
	expect("io_uring", "ok", "the daemon uses it");
	/* 1 lets some have it: the daemon, or whoever runs this. */
	put("proc/sys/kernel/io_uring_disabled", "1\n");
	doctor_check_uring(&d, &refused);
	expect("io_uring", "ok", "the daemon uses it");
	d.seg = NULL;
	doctor_check_uring(&d, &good);
	expect("io_uring", "ok", "DEFER_TASKRUN");
	doctor_check_uring(&d, &refused);
	expect("io_uring", "warn", "io_uring_disabled is 1");
	put("proc/sys/kernel/io_uring_disabled", "2\n");
	doctor_check_uring(&d, &refused);
	expect("io_uring", "warn", "io_uring_disabled is 2");
	end();
}
END_TEST

START_TEST(drivers_are_judged)
{
	struct doctor_gpu none = { .error = -ENOENT, .why = "no libcuda" };
	struct doctor_gpu sick = { .error = -EIO, .why = "cuInit: CUDA_ERROR_UNKNOWN" };
	struct doctor_gpu fine = { .version = 12040, .devices = 2, .name = "NVIDIA X" };

	begin();
	put("proc/driver/nvidia/version",
	    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\nGCC\n");
	doctor_check_gpu(&d, &none);
	expect("gpu", "ok", "DRAM alone");
	doctor_check_gpu(&d, &sick);
	expect("gpu", "fail", "CUDA_ERROR_UNKNOWN");
	doctor_check_gpu(&d, &fine);
	expect("gpu", "ok", "CUDA 12.4, module 550.54.15, 2 devices, the first NVIDIA X");
	fine.nvml_error = -ENOENT;
	strcpy(fine.nvml_why, "there is no libnvidia-ml.so.1");
	doctor_check_gpu(&d, &fine);
	expect_first("gpu", "ok", "CUDA 12.4");
	expect("gpu", "warn", "libnvidia-ml");
	fine.nvml_error = 0;
	fine.version = 11010;
	doctor_check_gpu(&d, &fine);
	expect("gpu", "fail", "CUDA 11.1");
	strcpy(fine.name, "fakecuda 0");
	doctor_check_gpu(&d, &fine);
	expect("gpu", "warn", "stand-in");
	put("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 500 kB\nMemAvailable: 500 kB\n");
	put("sys/bus/pci/devices/0000:3b:00.0/class", "0x030200\n");
	put("sys/bus/pci/devices/0000:3b:00.0/vendor", "0x10de\n");
	doctor_check_gpu(&d, &none);
	expect("gpu", "warn", "1 GPU and no driver");
	/* A daemon that serves one cannot do without. */
	d.seg = seg;
	seg->devices_n = 1;
	strcpy(seg->device[0].name, "cuda:0");
	seg->device[0].kind = KVB_DEVICE_CUDA;
	doctor_check_gpu(&d, &none);
	expect("gpu", "fail", "no libcuda");
	end();
}
END_TEST

#define LIMITS(files, locked)                                                                      \
	"Limit                     Soft Limit           Hard Limit           Units     \n"         \
	"Max open files            " files "                 files     \n"                         \
	"Max locked memory         " locked "              bytes     \n"

START_TEST(limits_are_judged)
{
	begin();
	doctor_check_limits(&d);
	expect("limits", "ok", "not told");
	put("proc/self/limits", LIMITS("1024 4096", "unlimited unlimited"));
	doctor_check_limits(&d);
	expect_first("memlock", "ok", "no limit");
	expect("files", "ok", "4096 may be open in a process started here");
	put("proc/self/limits", LIMITS("1024 1024", "65536 65536"));
	doctor_check_limits(&d);
	expect_first("memlock", "ok", "nothing needs more");
	expect("files", "warn", "1024 may be open");

	d.seg = seg;
	seg->files_needed = 3000;
	(void)arena(1 << 20);
	put("proc/4711/limits", LIMITS("2999 2999", "65536 65536"));
	doctor_check_limits(&d);
	expect_first("memlock", "ok", "nothing needs more"); /* without a store */
	expect("files", "warn", "3000 are needed");
	seg->store.parts = 1;
	doctor_check_limits(&d);
	expect_first("memlock", "warn", "64.0K may be locked and the host tier has 1.0M");
	expect("files", "warn", "3000 are needed");
	put("proc/4711/limits", LIMITS("3000 3000", "1048576 1048576"));
	doctor_check_limits(&d);
	expect_first("memlock", "ok", "1.0M");
	expect("files", "ok", "3000 are needed");
	put("proc/4711/limits", LIMITS("3000 3000", "65536 65536"));
	put("proc/4711/status", "Name:\tkvbrokerd\nCapEff:\t0000000000004000\n");
	doctor_check_limits(&d);
	expect_first("memlock", "ok", "CAP_IPC_LOCK");
	expect("files", "ok", "3000 are needed");
	end();
}
END_TEST

START_TEST(daemons_are_judged)
{
	struct stats_device *dev;

	begin();
	d.seg = seg;
	doctor_check_daemon(&d);
	expect("daemon", "ok", "ready");
	seg->ready = 2;
	seg->log_dropped = 3;
	strcpy(seg->daemon_version, "0.0.0");
	doctor_check_daemon(&d);
	expect_first("daemon", "warn", "draining");
	expect_first("daemon", "warn", "version 0.0.0");
	expect("daemon", "warn", "3 lines");
	seg->ready = 1;
	seg->log_dropped = 0;
	strcpy(seg->daemon_version, KVB_VERSION);
	dev = &seg->device[seg->devices_n++];
	strcpy(dev->name, "cuda:0");
	dev->below = STATS_NONE;
	dev->failed = 1;
	dev->checksum_misses = 2;
	strcpy(dev->why, "its owner does not start");
	doctor_check_daemon(&d);
	expect_first("daemon", "ok", "ready");
	expect_first("device", "fail", "its owner does not start");
	expect("device", "warn", "2 pages came back");
	dev->failed = 0;
	dev->checksum_misses = 0;
	dev->below = 1;
	strcpy(dev->below_why, "filling");
	doctor_check_daemon(&d);
	expect_first("daemon", "ok", "ready");
	expect("device", "warn", "without a tier below: filling");
	end();
}
END_TEST

static void listen_at(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, path);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
}

START_TEST(sockets_and_directories_are_judged)
{
	char path[256];

	begin();
	path_of(path, "sock");
	doctor_check_socket(&d, path);
	expect("socket", "ok", "there is none");
	listen_at(path);
	ck_assert_int_eq(chmod(path, 0660), 0);
	doctor_check_socket(&d, path);
	expect("socket", "ok", "mode 0660");
	ck_assert_int_eq(chmod(path, 0666), 0);
	doctor_check_socket(&d, path);
	expect("socket", "warn", "every user");
	ck_assert_int_eq(chmod(path, 0660), 0);
	ck_assert_int_eq(chmod(root, 0777), 0);
	doctor_check_socket(&d, path);
	expect_first("socket", "ok", "mode 0660");
	expect("socket", "fail", "in its place");
	ck_assert_int_eq(chmod(root, 0775), 0); /* its group is trusted */
	doctor_check_socket(&d, path);
	expect("socket", "ok", "mode 0660");
	ck_assert_int_eq(chmod(root, 01777), 0);
	doctor_check_socket(&d, path);
	expect("socket", "ok", "mode 0660");
	put("file", "");
	path_of(path, "file");
	doctor_check_socket(&d, path);
	expect("socket", "fail", "no socket");

	d.seg = seg;
	doctor_check_state_dir(&d);
	ck_assert_int_eq(cJSON_GetArraySize(d.findings), 0);
	strcpy(seg->state_dir, path);
	doctor_check_state_dir(&d);
	expect("state-dir", "fail", "no directory");
	strcpy(seg->state_dir, root);
	doctor_check_state_dir(&d);
	expect("state-dir", "fail", "others may write");
	ck_assert_int_eq(chmod(root, 0750), 0);
	doctor_check_state_dir(&d);
	expect("state-dir", "ok", "mode 0750");
	strcat(seg->state_dir, "/gone");
	doctor_check_state_dir(&d);
	expect("state-dir", "fail", "cannot be looked at");
	end();
}
END_TEST

static void add_part(const char *path, int failed)
{
	struct store_part_stats *part = &seg->store.part[seg->store.parts++];

	strcpy(part->path, path);
	part->failed = failed;
}

START_TEST(stores_are_found_and_judged)
{
	char part[256], gone[256];

	begin();
	d.seg = seg;
	doctor_check_store(&d);
	ck_assert_int_eq(cJSON_GetArraySize(d.findings), 0);
	put("part", "page");
	path_of(part, "part");
	path_of(gone, "gone");
	add_part(part, 0);
	add_part(gone, 0);
	add_part(root, 0);
	add_part("relative", 0);
	add_part(part, -EIO);
	add_part(gone, 0);
	seg->store.part[seg->store.parts - 1].left = true;
	doctor_check_store(&d);
	/* Whether this directory has direct I/O is not the test's to say. */
	if (has(cJSON_GetArrayItem(d.findings, 0), "text", "direct I/O"))
		cJSON_DeleteItemFromArray(d.findings, 0);
	ck_assert(has(cJSON_GetArrayItem(d.findings, 0), "text", part));
	ck_assert(has(cJSON_GetArrayItem(d.findings, 0), "text", "file system"));
	cJSON_DeleteItemFromArray(d.findings, 0);
	expect_first("store", "fail", "gone cannot be looked at");
	expect_first("store", "fail", "neither a file nor a block device");
	expect_first("store", "ok", "relative");
	expect("store", "fail", "taken off");
	end();
}
END_TEST

START_TEST(probes_of_this_machine_end)
{
	struct doctor_uring uring;
	struct doctor_gpu gpu;

	begin();
	doctor_probe_uring(&uring);
	ck_assert_int_le(uring.error, 0);
	ck_assert(!uring.deferred || uring.error == 0);
	doctor_probe_gpu(&gpu);
	ck_assert_int_le(gpu.error, 0);
	ck_assert(gpu.error == 0 || gpu.why[0]);
	end();
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &kernels_are_judged, 0, 0 },
		{ &clocks_and_pressure_are_judged, 0, 0 },
		{ &pages_and_nodes_are_judged, 0, 0 },
		{ &rings_are_judged, 0, 0 },
		{ &drivers_are_judged, 0, 0 },
		{ &limits_are_judged, 0, 0 },
		{ &daemons_are_judged, 0, 0 },
		{ &sockets_and_directories_are_judged, 0, 0 },
		{ &stores_are_found_and_judged, 0, 0 },
		{ &probes_of_this_machine_end, 30, 0 },
		{ NULL, 0, 0 },
	};

	return suite_run("ctl-doctor", cases);
}
