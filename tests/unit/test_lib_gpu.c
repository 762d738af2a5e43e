/* SPDX-License-Identifier: Apache-2.0 */

/*
 * libkvbroker on GPUs of the stand-in driver, against a daemon of straw (fake_daemon.h): which GPU
 * a space is on, and streams that meet fence words.
 *
 * What must hold: the GPU is the one whose UUID the broker names, however this process numbers it;
 * and a stream that waits for a LOAD goes on, also when the broker is gone.
 */

#include "tests/unit/suite.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/cuda_roles.h"
#include "tests/unit/fake_daemon.h"
#include "uapi/internal.h"

#define MS 1000000ull

static struct fake fake;
static const struct cuda_api *api;

static bool serve_never(struct fake *f, const struct kvb_sqe *sqe)
{
	return true;
}

static void hang_up(struct fake *f, void *arg)
{
	close(f->fd);
	f->fd = -1;
}

/* A daemon whose handles a GPU can map, and a connection to it. */
static struct kvb *start(void)
{
	struct kvb_params p = { .timeout_ns = 2000 * MS };
	struct kvb *kvb = NULL;
	char text[256] = "";

	fake_set(2, "");
	ck_assert_msg(cuda_load(&api) == 0, "%s", cuda_load_error());
	ck_assert_int_eq(api->init(0), CU_OK);
	fake_init(&fake);
	fake.handle_bytes = 2 * MIB;
	fake_start(&fake);
	p.socket = fake.path;
	ck_assert_msg(kvb_connect(&p, &kvb, text) == 0, "%s", text);
	return kvb;
}

static void finish(struct kvb *kvb)
{
	kvb_disconnect(kvb);
	fake_stop(&fake);
}

static int open_space(struct kvb *kvb, struct kvb_space **ret)
{
	const struct kvb_space_params p = {
		.device_kind = KVB_DEVICE_CUDA,
		.stride_bytes = FAKE_PAGE_BYTES,
	};

	return kvb_space_open(kvb, &p, ret);
}

/* Has this thread use a context of a GPU from now on. */
static void enter(int gpu)
{
	cu_context context;

	ck_assert_int_eq(api->primary_ctx_retain(&context, gpu), CU_OK);
	ck_assert_int_eq(api->ctx_set_current(context), CU_OK);
}

/* ---- which GPU ----------------------------------------------------------------------------- */

START_TEST(space_is_on_the_gpu_of_the_brokers_uuid)
{
	struct kvb_space *space;
	struct cu_uuid uuid;

	struct kvb *kvb = start();
	/* The broker's cuda:0 is this process's second. */
	ck_assert_int_eq(api->device_get_uuid(&uuid, 1), CU_OK);
	memcpy(fake.device_uuid, &uuid, sizeof(uuid));
	enter(1);
	ck_assert_msg(open_space(kvb, &space) == 0, "%s", kvb_error_text(kvb));
	ck_assert_int_eq(kvb_space_close(space), 0);
	enter(0);
	ck_assert_int_eq(open_space(kvb, &space), -EXDEV);
	finish(kvb);
}
END_TEST

START_TEST(space_without_a_uuid_goes_by_number)
{
	struct kvb_space *space;

	struct kvb *kvb = start();
	enter(0);
	ck_assert_msg(open_space(kvb, &space) == 0, "%s", kvb_error_text(kvb));
	ck_assert_int_eq(kvb_space_close(space), 0);
	enter(1);
	ck_assert_int_eq(open_space(kvb, &space), -EXDEV);
	finish(kvb);
}
END_TEST

START_TEST(gpu_that_this_process_does_not_see_is_refused)
{
	struct kvb_space *space;

	struct kvb *kvb = start();
	memset(fake.device_uuid, 0xee, sizeof(fake.device_uuid));
	ck_assert_int_eq(open_space(kvb, &space), -ENODEV);
	ck_assert_ptr_nonnull(strstr(kvb_error_text(kvb), "does not see"));
	ck_assert_int_eq(kvb_nop(kvb), 0); /* the connection stands */
	finish(kvb);
}
END_TEST

/* ---- streams ------------------------------------------------------------------------------- */

static const struct cuda_stream_api *streams(cu_stream *ret)
{
	const struct cuda_stream_api *s;

	ck_assert_msg(cuda_load_streams(&s) == 0, "%s", cuda_load_streams_error());
	ck_assert_int_eq(s->stream_create(ret, CU_FLAG_STREAM_NON_BLOCKING), CU_OK);
	return s;
}

static uint64_t word(struct kvb *kvb, uint32_t fence)
{
	return __atomic_load_n(&kvb_fence_word(kvb, fence)->value, __ATOMIC_ACQUIRE);
}

START_TEST(stream_writes_and_waits_for_words)
{
	struct kvb_space *space;
	cu_stream stream;

	struct kvb *kvb = start();
	enter(0);
	ck_assert_msg(open_space(kvb, &space) == 0, "%s", kvb_error_text(kvb));
	const struct cuda_stream_api *s = streams(&stream);
	const uint32_t in = (uint32_t)kvb_fence_get(kvb), out = (uint32_t)kvb_fence_get(kvb);
	ck_assert_int_eq(kvb_fence_stream_wait(space, stream, in, 2), 0);
	ck_assert_int_eq(kvb_fence_stream_write(space, stream, out, 7), 0);
	usleep(20000);
	ck_assert_int_eq(s->stream_query(stream), CU_ERROR_NOT_READY);
	ck_assert_uint_eq(word(kvb, out), 0);
	__atomic_store_n(&kvb_fence_word(kvb, in)->value, 2, __ATOMIC_RELEASE);
	ck_assert_int_eq(s->stream_synchronize(stream), CU_OK);
	ck_assert_uint_eq(word(kvb, out), 7);
	ck_assert_int_eq(kvb_fence_stream_wait(space, stream, KVB_FENCES, 1), -EINVAL);
	ck_assert_int_eq(s->stream_destroy(stream), CU_OK);
	finish(kvb);
}
END_TEST

START_TEST(stream_that_waits_for_a_load_outlives_the_broker)
{
	const struct kvb_cqe *cqe;
	struct kvb_space *space;
	cu_stream stream;

	struct kvb *kvb = start();
	enter(0);
	ck_assert_msg(open_space(kvb, &space) == 0, "%s", kvb_error_text(kvb));
	const struct cuda_stream_api *s = streams(&stream);
	const uint32_t fence = (uint32_t)kvb_fence_get(kvb);
	fake.serve = serve_never;
	struct kvb_sqe *sqe = kvb_get_sqe(kvb);
	kvb_prep_load(sqe, space, 0, 0, 0, 1, 0);
	kvb_prep_fence(sqe, fence, 1);
	ck_assert_int_eq(kvb_submit(kvb), 1);
	ck_assert_int_eq(kvb_fence_stream_wait(space, stream, fence, 1), 0);
	usleep(20000);
	ck_assert_int_eq(s->stream_query(stream), CU_ERROR_NOT_READY);
	fake_do(&fake, hang_up, NULL);
	ck_assert_int_eq(kvb_wait_cqe(kvb, &cqe, 2000 * MS), -ENOTCONN);
	ck_assert_int_eq(s->stream_synchronize(stream), CU_OK);
	ck_assert(kvb_fence_failed(kvb, fence));
	ck_assert_int_eq(s->stream_destroy(stream), CU_OK);
	finish(kvb);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &space_is_on_the_gpu_of_the_brokers_uuid, 0 },
		{ &space_without_a_uuid_goes_by_number, 0 },
		{ &gpu_that_this_process_does_not_see_is_refused, 0 },
		{ &stream_writes_and_waits_for_words, 20 },
		{ &stream_that_waits_for_a_load_outlives_the_broker, 20 },
		{ NULL, 0 },
	};

	return roles_run("lib-gpu", cases);
}
