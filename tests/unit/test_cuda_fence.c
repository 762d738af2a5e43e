/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Fence words of a client, over the stand-in driver: streams write them and wait for them, other
 * processes see it, and what cannot be is refused.
 */

#include "tests/unit/cuda_roles.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORDS 64u
#define STRIDE_BYTES 64u
#define WORDS_BYTES (WORDS * STRIDE_BYTES)
#define SECONDS_MAX 10
#define TIMEOUT_S 60

struct fenced {
	struct roles r;
	const struct cuda_stream_api *streams;
	int fd; /* of the words */
	uint8_t *words;
};

static uint64_t *word_at(const struct fenced *f, uint32_t i)
{
	return (uint64_t *)(f->words + i * STRIDE_BYTES);
}

static uint64_t word_read(const struct fenced *f, uint32_t i)
{
	return __atomic_load_n(word_at(f, i), __ATOMIC_ACQUIRE);
}

static void word_write(const struct fenced *f, uint32_t i, uint64_t value)
{
	__atomic_store_n(word_at(f, i), value, __ATOMIC_RELEASE);
}

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

static void word_expect(const struct fenced *f, uint32_t i, uint64_t value)
{
	for (uint32_t ms = 0; word_read(f, i) != value && ms < SECONDS_MAX * 1000; ms++)
		nap();
	ck_assert_uint_eq(word_read(f, i), value);
}

static void fenced_map(struct fenced *f)
{
	f->fd = memfd_create("fence", MFD_CLOEXEC);
	ck_assert_int_ge(f->fd, 0);
	ck_assert_int_eq(ftruncate(f->fd, WORDS_BYTES), 0);
	f->words = mmap(NULL, WORDS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	ck_assert_ptr_ne(f->words, MAP_FAILED);
}

/* The context is current, as an engine has it: streams are made by the engine. */
static void fenced_open(struct fenced *f, const char *more)
{
	cu_context context;

	memset(f, 0, sizeof(*f));
	fenced_map(f);
	roles_open(&f->r, more);
	ck_assert_msg(cuda_load_streams(&f->streams) == 0, "%s", cuda_load_streams_error());
	ck_assert_int_eq(f->r.api->primary_ctx_retain(&context, 0), CU_OK);
	ck_assert_int_eq(f->r.api->ctx_set_current(context), CU_OK);
}

static int fenced_register(struct fenced *f)
{
	return cuda_client_fences_register(f->r.client, f->words, WORDS, STRIDE_BYTES);
}

static void fenced_close(struct fenced *f)
{
	roles_close(&f->r);
	ck_assert_int_eq(f->r.api->primary_ctx_release(0), CU_OK);
	munmap(f->words, WORDS_BYTES);
	close(f->fd);
}

START_TEST(fence_stream_writes_a_word)
{
	struct fenced f;
	cu_stream stream;

	fenced_open(&f, "");
	ck_assert_int_eq(fenced_register(&f), 0);
	ck_assert_int_eq(f.streams->stream_create(&stream, CU_FLAG_STREAM_NON_BLOCKING), CU_OK);
	ck_assert_int_eq(cuda_client_stream_write(f.r.client, stream, WORDS - 1, 7), 0);
	ck_assert_int_eq(cuda_client_stream_write(f.r.client, NULL, 0, UINT64_MAX), 0);
	word_expect(&f, WORDS - 1, 7);
	word_expect(&f, 0, UINT64_MAX);
	ck_assert_uint_eq(word_read(&f, 1), 0);
	ck_assert_int_eq(f.streams->stream_destroy(stream), CU_OK);
	fenced_close(&f);
}
END_TEST

/* What a stream got after a wait comes after the word, compared modulo 2^64. */
START_TEST(fence_stream_waits_for_a_word)
{
	static const struct {
		uint64_t wanted, too_little, enough;
	} cases[] = { { 5, 4, 5 }, { 5, 4, 6 }, { 2, UINT64_MAX - 3, 3 } };
	struct fenced f;
	cu_stream stream;

	fenced_open(&f, "");
	ck_assert_int_eq(fenced_register(&f), 0);
	ck_assert_int_eq(f.streams->stream_create(&stream, CU_FLAG_STREAM_NON_BLOCKING), CU_OK);
	word_write(&f, 3, cases[_i].too_little);
	ck_assert_int_eq(cuda_client_stream_wait(f.r.client, stream, 3, cases[_i].wanted), 0);
	ck_assert_int_eq(cuda_client_stream_write(f.r.client, stream, 4, 1), 0);
	for (uint32_t i = 0; i < 20; i++)
		nap();
	ck_assert_uint_eq(word_read(&f, 4), 0);
	ck_assert_int_eq(f.streams->stream_query(stream), CU_ERROR_NOT_READY);
	word_write(&f, 3, cases[_i].enough);
	word_expect(&f, 4, 1);
	ck_assert_int_eq(f.streams->stream_synchronize(stream), CU_OK);
	ck_assert_int_eq(f.streams->stream_destroy(stream), CU_OK);
	fenced_close(&f);
}
END_TEST

/* The other end is another process, which has never called the driver. */
START_TEST(fence_crosses_processes)
{
	struct fenced f;
	int status;
	pid_t pid;

	fenced_map(&f);
	pid = fork();
	if (pid == 0) {
		for (uint32_t ms = 0; word_read(&f, 1) != 11 && ms < SECONDS_MAX * 1000; ms++)
			nap();
		word_write(&f, 2, 22);
		_exit(word_read(&f, 1) == 11 ? 0 : 1);
	}
	roles_open(&f.r, "");
	ck_assert_int_eq(fenced_register(&f), 0);
	ck_assert_int_eq(cuda_client_stream_write(f.r.client, NULL, 1, 11), 0);
	ck_assert_int_eq(cuda_client_stream_wait(f.r.client, NULL, 2, 22), 0);
	ck_assert_int_eq(cuda_client_stream_write(f.r.client, NULL, 5, 1), 0);
	word_expect(&f, 5, 1);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	roles_close(&f.r);
}
END_TEST

/* Two clients of a process have the same words, and either may go first. */
START_TEST(fence_words_are_for_every_client)
{
	struct cuda_client *other;
	struct fenced f;

	fenced_open(&f, "");
	ck_assert_int_eq(cuda_client_open(0, &other), 0);
	ck_assert_int_eq(fenced_register(&f), 0);
	ck_assert_int_eq(cuda_client_fences_register(other, f.words, WORDS, STRIDE_BYTES), 0);
	ck_assert_int_eq(cuda_client_stream_write(other, NULL, 1, 1), 0);
	ck_assert_int_eq(f.r.api->ctx_synchronize(), CU_OK);
	ck_assert_int_eq(cuda_client_fences_unregister(f.r.client), 0);
	ck_assert_int_eq(cuda_client_stream_write(f.r.client, NULL, 2, 2), -EINVAL);
	ck_assert_int_eq(cuda_client_stream_write(other, NULL, 2, 2), 0);
	word_expect(&f, 1, 1);
	word_expect(&f, 2, 2);
	ck_assert_ptr_null(cuda_client_close(other));
	ck_assert_int_eq(fenced_register(&f), 0);
	fenced_close(&f);
}
END_TEST

/* The mapping that was named goes away; the words are where they were, for who maps them anew. */
START_TEST(fence_outlives_the_mapping)
{
	struct fenced f;

	fenced_open(&f, "");
	ck_assert_int_eq(fenced_register(&f), 0);
	ck_assert_int_eq(munmap(f.words, WORDS_BYTES), 0);
	ck_assert_int_eq(cuda_client_stream_write(f.r.client, NULL, 6, 66), 0);
	ck_assert_int_eq(f.r.api->ctx_synchronize(), CU_OK);
	f.words = mmap(NULL, WORDS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, f.fd, 0);
	ck_assert_ptr_ne(f.words, MAP_FAILED);
	ck_assert_uint_eq(word_read(&f, 6), 66);
	fenced_close(&f);
}
END_TEST

START_TEST(fence_refuses_what_cannot_be)
{
	struct fenced f;
	void *private;

	fenced_open(&f, "");
	private =
		mmap(NULL, WORDS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_int_eq(cuda_client_stream_write(f.r.client, NULL, 0, 1), -EINVAL);
	ck_assert_int_eq(cuda_client_stream_wait(f.r.client, NULL, 0, 1), -EINVAL);
	ck_assert_int_eq(cuda_client_fences_unregister(f.r.client), 0);
	ck_assert_int_eq(cuda_client_fences_register(f.r.client, f.words, 0, 64), -EINVAL);
	ck_assert_int_eq(cuda_client_fences_register(f.r.client, f.words, WORDS, 0), -EINVAL);
	ck_assert_int_eq(cuda_client_fences_register(f.r.client, f.words, WORDS, 12), -EINVAL);
	ck_assert_int_eq(cuda_client_fences_register(f.r.client, f.words + 64, 1, 64), -EINVAL);
	ck_assert_int_eq(cuda_client_fences_register(f.r.client, private, WORDS, 64), -EINVAL);
	ck_assert_int_eq(fenced_register(&f), 0);
	ck_assert_int_eq(fenced_register(&f), -EBUSY);
	ck_assert_int_eq(cuda_client_stream_write(f.r.client, NULL, WORDS, 1), -EINVAL);
	ck_assert_int_eq(cuda_client_stream_wait(f.r.client, NULL, UINT32_MAX, 1), -EINVAL);
	munmap(private, WORDS_BYTES);
	fenced_close(&f);
}
END_TEST

static const char *const fence_calls[] = {
	"cuMemHostRegister_v2",   "cuMemHostGetDevicePointer_v2", "cuStreamWriteValue64_v2",
	"cuStreamWaitValue64_v2", "cuMemHostUnregister",
};
#define FENCE_CALLS ((int)(sizeof(fence_calls) / sizeof(fence_calls[0])))

/* 0, or once the error of the call that fails; then it works. */
static int fence_try(int *seen, int error)
{
	ck_assert(error == 0 || error == -EOPNOTSUPP);
	*seen += error != 0;
	return error;
}

START_TEST(fence_fails_cleanly)
{
	struct fenced f;
	char fail[96];
	int seen = 0;

	snprintf(fail, sizeof(fail), ",fail=%s:1:NOT_SUPPORTED", fence_calls[_i]);
	fenced_open(&f, fail);
	while (fence_try(&seen, fenced_register(&f)))
		ck_assert_int_eq(seen, 1);
	while (fence_try(&seen, cuda_client_stream_write(f.r.client, NULL, 1, 9)))
		ck_assert_int_eq(seen, 1);
	word_expect(&f, 1, 9);
	while (fence_try(&seen, cuda_client_stream_wait(f.r.client, NULL, 1, 9)))
		ck_assert_int_eq(seen, 1);
	ck_assert_int_eq(f.r.api->ctx_synchronize(), CU_OK);
	while (fence_try(&seen, cuda_client_fences_unregister(f.r.client)))
		ck_assert_int_eq(seen, 1);
	ck_assert_int_eq(seen, 1);
	fenced_close(&f);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &fence_stream_writes_a_word, TIMEOUT_S },
		{ &fence_stream_waits_for_a_word, TIMEOUT_S, 3 },
		{ &fence_crosses_processes, TIMEOUT_S },
		{ &fence_words_are_for_every_client, TIMEOUT_S },
		{ &fence_outlives_the_mapping, TIMEOUT_S },
		{ &fence_refuses_what_cannot_be, TIMEOUT_S },
		{ &fence_fails_cleanly, TIMEOUT_S, FENCE_CALLS },
		{ NULL, 0 },
	};

	return roles_run("cuda_fence", cases);
}
