/* SPDX-License-Identifier: Apache-2.0 */

/*
 * See cuda_roles.h.
 */

#include "tests/unit/cuda_roles.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of the stand-in's devices; a case that ends while memory is held leaves its own behind. */
static char fake_dir[] = "/dev/shm/kvb-cuda.XXXXXX";

static void fake_dir_remove(void)
{
	DIR *d = opendir(fake_dir);

	for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d))
		unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	rmdir(fake_dir);
}

void fake_set(unsigned int gpus, const char *more)
{
	char text[256];

	snprintf(text, sizeof(text), "gpus=%u,mem=64M,lat=*:0us,dir=%s,node=p%d%s", gpus, fake_dir,
		 (int)getpid(), more);
	ck_assert_int_eq(setenv("FAKECUDA", text, 1), 0);
}

void roles_open(struct roles *r, const char *more)
{
	memset(r, 0, sizeof(*r));
	fake_set(1, more);
	ck_assert_msg(cuda_load(&r->api) == 0, "%s", cuda_load_error());
	ck_assert_int_eq(cuda_owner_open(0, &r->owner), 0);
	ck_assert_int_eq(cuda_client_open(0, &r->client), 0);
	ck_assert_int_eq(cuda_client_reserve(r->client, DEVICE_BYTES, &r->base), 0);
	for (uint32_t i = 0; i < HANDLES; i++)
		r->addresses[i] = r->base + i * HANDLE_BYTES;
}

void roles_create(struct roles *r, uint32_t n)
{
	ck_assert_int_eq(cuda_owner_create(r->owner, n, HANDLE_BYTES, r->tokens, r->fds), 0);
}

void roles_drop(struct roles *r, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		close(r->fds[i]);
	ck_assert_int_eq(cuda_owner_release(r->owner, n, r->tokens), 0);
}

/* The whole device can be had, so nobody holds any of it. */
static void roles_expect_all_free(struct roles *r)
{
	roles_create(r, HANDLES);
	roles_drop(r, HANDLES);
	ck_assert_uint_eq(cuda_owner_count(r->owner), 0);
}

void roles_close(struct roles *r)
{
	r->client = cuda_client_close(r->client);
	roles_expect_all_free(r);
	r->owner = cuda_owner_close(r->owner);
	ck_assert_ptr_null(r->client);
	ck_assert_ptr_null(r->owner);
}

int roles_map(struct roles *r, uint32_t n)
{
	return cuda_client_map(r->client, n, HANDLE_BYTES, r->fds, r->addresses);
}

uint64_t roles_read(struct roles *r, uint64_t address)
{
	uint64_t word = 0;

	ck_assert_int_eq(cuda_client_copy_from(r->client, &word, address, sizeof(word)), 0);
	return word;
}

void roles_write(struct roles *r, uint64_t address, uint64_t word)
{
	ck_assert_int_eq(cuda_client_copy_to(r->client, address, &word, sizeof(word)), 0);
}

int roles_run(const char *name, const struct suite_case *cases)
{
	int status;

	if (!mkdtemp(fake_dir)) {
		perror(fake_dir);
		return EXIT_FAILURE;
	}
	status = suite_run(name, cases);
	fake_dir_remove();
	return status;
}
