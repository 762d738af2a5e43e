/* SPDX-License-Identifier: Apache-2.0 */

/* See test_process.h. */

#include "tests/fakecuda/test_process.h"

#include "tests/unit/suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const struct cuda_api *cu;

/* Runs of one program beside each other have machines of their own. */
static int process_run;

static void __attribute__((constructor)) process_number_run(void)
{
	process_run = getpid();
}

void fake_node(char *ret, size_t bytes, const char *node)
{
	snprintf(ret, bytes, "test-%s-%d", node, process_run);
}

void fake_load(const char *node, const char *settings)
{
	char name[64], text[512];

	fake_node(name, sizeof(name), node);
	snprintf(text, sizeof(text), "node=%s,%s", name, settings);
	setenv("FAKECUDA", text, 1);
	ck_assert_int_eq(cuda_load(&cu), 0);
}

void fake_start(const char *node, const char *settings)
{
	fake_load(node, settings);
	ck_assert_int_eq(cu->init(0), CU_OK);
}

enum cu_result fake_create(int ordinal, uint64_t bytes, cu_handle *ret)
{
	struct cu_allocation prop = {
		.type = CU_ALLOCATION_PINNED,
		.handle_types = CU_HANDLE_POSIX_FD,
		.location = { .type = CU_LOCATION_DEVICE, .id = ordinal },
	};

	return cu->mem_create(ret, bytes, &prop, 0);
}

int child_run(bool (*what)(const char *settings), const char *settings)
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0) {
		close(STDOUT_FILENO);
		exit(what(settings) ? 0 : 1);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status;
}

uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}
