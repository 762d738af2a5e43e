/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What only trying tells: whether io_uring is allowed to us, and whether the GPU driver works. See
 * doctor.h.
 *
 * A ring is made by the system call itself, so that broker-ctl needs no library for it, and closed
 * at once. The driver is entered in a process of its own: it can crash, and hang for ever. No
 * context is made there, so engines do not notice.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cuda_driver/cuda_api.h"
#include "cuda_driver/cuda_error.h"
#include "cuda_driver/nvml.h"
#include "tools/broker-ctl/doctor.h"

#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1u << 12) /* Linux 6.0 */
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1u << 13) /* Linux 6.1 */
#endif

#define GPU_ANSWER_MS_MAX 10000
#define STAND_IN "fakecuda" /* how the tests' driver names its devices */

/* ---- io_uring ------------------------------------------------------------------------------ */

static int ring_try(unsigned flags, uint32_t *ret_features)
{
	struct io_uring_params params = { .flags = flags };
	int fd = (int)syscall(__NR_io_uring_setup, 4, &params);

	if (fd < 0)
		return -errno;
	(void)close(fd);
	*ret_features = params.features;
	return 0;
}

void doctor_probe_uring(struct doctor_uring *ret)
{
	*ret = (struct doctor_uring){ 0 };
	ret->error =
		ring_try(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, &ret->features);
	ret->deferred = ret->error == 0;
	if (ret->error == -EINVAL)
		ret->error = ring_try(0, &ret->features);
}

void doctor_check_uring(struct doctor *d, const struct doctor_uring *uring)
{
	char path[SYSFS_PATH_BYTES];
	uint64_t disabled = 0;
	bool daemon_polls = d->seg && strcmp(d->seg->engine, "epoll") == 0;
	bool daemon_rings = d->seg && !daemon_polls;

	if (sysfs_path(path, d->root, "proc/sys/kernel/io_uring_disabled") == 0)
		(void)sysfs_read_number(path, 2, &disabled);
	/* What the daemon may need not be what this user may: 1 forbids it to some only. */
	if (daemon_rings && (disabled || uring->error))
		doctor_say(d, DOCTOR_OK, "io_uring", NULL, "not for all here; the daemon uses it");
	else if (disabled && (disabled != 1 || uring->error))
		doctor_say(d, DOCTOR_WARN, "io_uring",
			   "sysctl kernel.io_uring_disabled=0, or 1 and the daemon's group in "
			   "kernel.io_uring_group",
			   "kernel.io_uring_disabled is %u: the daemon falls back to epoll, the "
			   "store to threads",
			   (unsigned)disabled);
	else if (uring->error)
		doctor_say(d, DOCTOR_WARN, "io_uring",
			   "allow io_uring_setup, io_uring_enter and io_uring_register in the "
			   "seccomp profile of the container",
			   "not to be had here: %s; the daemon falls back to epoll, the store to "
			   "threads",
			   strerror(-uring->error));
	else if (!(uring->features & IORING_FEAT_EXT_ARG))
		doctor_say(d, DOCTOR_WARN, "io_uring", "use Linux 6.1 or later",
			   "too old for the daemon (no waiting with a time limit): it uses epoll");
	else if (daemon_polls)
		doctor_say(d, DOCTOR_WARN, "io_uring",
			   "start it without --io epoll, and allow io_uring to it",
			   "allowed here, and the daemon uses epoll");
	else if (!uring->deferred)
		doctor_say(d, DOCTOR_WARN, "io_uring", "use Linux 6.1 or later",
			   "allowed, without DEFER_TASKRUN: completions interrupt");
	else
		doctor_say(d, DOCTOR_OK, "io_uring", NULL, "allowed, with DEFER_TASKRUN%s",
			   d->seg ? "; the daemon uses it" : "");
}

/* ---- the GPU driver ------------------------------------------------------------------------ */

static int gpu_failed(struct doctor_gpu *ret, const char *call, enum cu_result result)
{
	(void)snprintf(ret->why, sizeof(ret->why), "%s: %s", call, cuda_error_name(result));
	return cuda_error_errno(result);
}

/* In a process of its own. */
static int gpu_try(struct doctor_gpu *ret)
{
	const struct cuda_api *cu;
	struct cu_uuid uuid;
	struct nvml *nvml;
	cu_device device;
	enum cu_result r;
	int error = cuda_load(&cu);

	if (error) {
		(void)snprintf(ret->why, sizeof(ret->why), "%s", cuda_load_error());
		return error;
	}
	r = cu->driver_get_version(&ret->version);
	if (r == CU_OK)
		r = cu->init(0);
	if (r != CU_OK)
		return gpu_failed(ret, "cuInit", r);
	r = cu->device_get_count(&ret->devices);
	if (r != CU_OK || ret->devices == 0)
		return r == CU_OK ? 0 : gpu_failed(ret, "cuDeviceGetCount", r);
	r = cu->device_get(&device, 0);
	if (r == CU_OK)
		r = cu->device_get_name(ret->name, sizeof(ret->name), device);
	if (r == CU_OK)
		r = cu->device_get_uuid(&uuid, device);
	if (r != CU_OK)
		return gpu_failed(ret, "cuDeviceGetName", r);
	ret->nvml_error = nvml_open(&uuid, &nvml, ret->nvml_why, sizeof(ret->nvml_why));
	if (ret->nvml_error == 0)
		(void)nvml_close(nvml);
	return 0;
}

static void gpu_child(int to)
{
	struct doctor_gpu gpu = { 0 };
	int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);

	/* What a driver prints is no part of the answer. */
	(void)dup2(nowhere, STDOUT_FILENO);
	(void)dup2(nowhere, STDERR_FILENO);
	gpu.error = gpu_try(&gpu);
	/* One piece: the pipe takes that much at once. */
	_exit(write(to, &gpu, sizeof(gpu)) == (ssize_t)sizeof(gpu) ? 0 : 1);
}

void doctor_probe_gpu(struct doctor_gpu *ret)
{
	struct pollfd pfd = { .events = POLLIN };
	int ends[2];
	pid_t child;

	*ret = (struct doctor_gpu){ .error = -EIO };
	(void)snprintf(ret->why, sizeof(ret->why), "no process to try it in");
	if (pipe(ends) < 0)
		return;
	(void)fflush(stdout);
	child = fork();
	if (child == 0)
		gpu_child(ends[1]);
	(void)close(ends[1]);
	pfd.fd = ends[0];
	if (child > 0 && poll(&pfd, 1, GPU_ANSWER_MS_MAX) == 0) {
		(void)snprintf(ret->why, sizeof(ret->why), "it does not answer within %d s",
			       GPU_ANSWER_MS_MAX / 1000);
		(void)kill(child, SIGKILL);
	} else if (child > 0 && read(ends[0], ret, sizeof(*ret)) != (ssize_t)sizeof(*ret)) {
		*ret = (struct doctor_gpu){ .error = -EIO };
		(void)snprintf(ret->why, sizeof(ret->why), "the process that tried it crashed");
		(void)waitpid(child, NULL, 0);
	} else if (child > 0) {
		(void)waitpid(child, NULL, 0);
	}
	(void)close(ends[0]);
}

/* Version of the kernel's part: "NVRM version: ... Kernel Module  550.54.15  Tue ...". */
static void module_version(const struct doctor *d, char ret[32])
{
	char path[SYSFS_PATH_BYTES], text[SYSFS_TEXT_BYTES];
	const char *at = NULL;

	if (sysfs_path(path, d->root, "proc/driver/nvidia/version") == 0 &&
	    sysfs_read(path, text) == 0)
		at = strstr(text, "Kernel Module ");
	if (!at || sscanf(at + strlen("Kernel Module "), " %31s", ret) != 1)
		(void)snprintf(ret, 32, "?");
}

static bool gpus_are_served(const struct doctor *d)
{
	for (uint32_t i = 0; d->seg && i < d->seg->devices_n; i++) {
		if (d->seg->device[i].kind == KVB_DEVICE_CUDA && d->seg->device[i].name[0])
			return true;
	}
	return false;
}

static unsigned gpus_there(const struct doctor *d)
{
	struct topology *t;
	unsigned n = 0;

	if (topology_read(d->root, &t) < 0)
		return 0;
	for (unsigned i = 0; i < t->devices; i++)
		n += t->device[i].kind == TOPOLOGY_GPU;
	topology_free(t);
	return n;
}

void doctor_check_gpu(struct doctor *d, const struct doctor_gpu *gpu)
{
	char module[32];
	unsigned there;

	if (gpu->error == -ENOENT && !gpus_are_served(d)) {
		there = gpus_there(d);
		if (there) {
			doctor_say(
				d, DOCTOR_WARN, "gpu",
				"install NVIDIA's driver, or give the container its libraries",
				"%u GPU%s and no driver (libcuda.so.1): DRAM alone can be served",
				there, there == 1 ? "" : "s");
			return;
		}
		doctor_say(d, DOCTOR_OK, "gpu", NULL,
			   "no driver here (libcuda.so.1), so DRAM alone can be served");
		return;
	}
	if (gpu->error) {
		doctor_say(d, DOCTOR_FAIL, "gpu",
			   "try nvidia-smi; after an update of the driver, reboot; in a container, "
			   "give it the driver's libraries and devices",
			   "the driver does not work: %s", gpu->why);
		return;
	}
	module_version(d, module);
	if (strncmp(gpu->name, STAND_IN, strlen(STAND_IN)) == 0)
		doctor_say(d, DOCTOR_WARN, "gpu", "take it out of LD_LIBRARY_PATH",
			   "the driver is the stand-in of the tests: its GPUs do not exist");
	else if (gpu->version < 11020)
		doctor_say(d, DOCTOR_FAIL, "gpu", "install a driver for CUDA 11.2 or later",
			   "the driver is for CUDA %d.%d", gpu->version / 1000,
			   gpu->version % 1000 / 10);
	else
		doctor_say(d, DOCTOR_OK, "gpu", NULL, "CUDA %d.%d, module %s, %d device%s%s%s",
			   gpu->version / 1000, gpu->version % 1000 / 10, module, gpu->devices,
			   gpu->devices == 1 ? "" : "s", gpu->name[0] ? ", the first " : "",
			   gpu->name);
	if (gpu->devices && gpu->nvml_error)
		doctor_say(d, DOCTOR_WARN, "gpu",
			   "install libnvidia-ml.so.1 beside libcuda.so.1, of the same driver",
			   "what others take of its memory is not known: %s", gpu->nvml_why);
}
