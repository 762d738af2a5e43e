/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Memory made ahead of need, over a back end that only counts: what is ready, what is handed out,
 * and that the two together stay within the device.
 */

#include "broker/owner/warm.h"
#include "tests/unit/suite.h"

#include <errno.h>
#include <stdlib.h>

#define MIB (1ull << 20)

/* Gives numbers for fds; they are never used as such. */
static struct {
	struct gpu_device dev;
	uint64_t bytes, most_bytes;
	unsigned creates, closes;
	int next_fd;
	uint64_t full_bytes; /* what it really has */
	bool finished, rested, cancelled, looked;
} fake;

static int fake_create(struct gpu_device *dev, uint32_t n, uint64_t handle_bytes, int *ret_fds,
		       uint64_t *ret_token)
{
	if (fake.bytes + n * handle_bytes > fake.full_bytes)
		return -ENOMEM;
	fake.bytes += n * handle_bytes;
	if (fake.bytes > fake.most_bytes)
		fake.most_bytes = fake.bytes;
	for (uint32_t i = 0; i < n; i++)
		ret_fds[i] = fake.next_fd++;
	*ret_token = ++fake.creates;
	return 0;
}

static void fake_close(struct gpu_device *dev, uint32_t n, uint64_t handle_bytes, const int *fds,
		       uint64_t token)
{
	fake.closes++;
	fake.bytes -= n * handle_bytes;
}

static void fake_info(struct gpu_device *dev, struct gpu_info *ret)
{
	*ret = (struct gpu_info){ .driver = "fake" };
}

static void fake_rest(struct gpu_device *dev, bool rest)
{
	fake.rested = rest;
}

static void fake_look(struct gpu_device *dev)
{
	fake.looked = true;
}

static void fake_cancel(struct gpu_device *dev)
{
	fake.cancelled = true;
}

static void fake_finish(struct gpu_device *dev)
{
	fake.finished = true;
}

static const struct gpu_ops fake_ops = {
	.create = fake_create,
	.close = fake_close,
	.info = fake_info,
	.look = fake_look,
	.rest = fake_rest,
	.cancel = fake_cancel,
	.finish = fake_finish,
};

static struct gpu_device *start(uint64_t capacity_bytes, uint64_t warm_bytes)
{
	struct gpu_device *ret;

	memset(&fake, 0, sizeof(fake));
	fake.dev.ops = &fake_ops;
	fake.next_fd = 1000;
	fake.full_bytes = UINT64_MAX;
	ck_assert_int_eq(warm_open(&fake.dev, capacity_bytes, warm_bytes, &ret), 0);
	return ret;
}

static uint64_t ready_bytes(struct gpu_device *dev)
{
	struct gpu_info info;

	dev->ops->info(dev, &info);
	return info.warm_bytes;
}

static void make_ahead(struct gpu_device *dev)
{
	unsigned steps = 0;

	while (dev->ops->ahead(dev))
		ck_assert_uint_lt(++steps, 1000);
}

START_TEST(nothing_is_made_before_somebody_asks)
{
	struct gpu_device *dev = start(64 * MIB, 64 * MIB);

	make_ahead(dev);
	ck_assert_uint_eq(fake.creates, 0);
	gpu_device_close(dev);
	ck_assert(fake.finished);
}
END_TEST

START_TEST(the_next_of_the_same_shape_is_there)
{
	struct gpu_device *dev = start(64 * MIB, 8 * MIB);
	int fds[2], again[2];
	uint64_t token, second;

	ck_assert_int_eq(dev->ops->create(dev, 2, 2 * MIB, fds, &token), 0);
	make_ahead(dev);
	ck_assert_uint_eq(fake.creates, 3);
	ck_assert_uint_eq(ready_bytes(dev), 8 * MIB);
	ck_assert_int_eq(dev->ops->create(dev, 2, 2 * MIB, again, &second), 0);
	ck_assert_uint_eq(fake.creates, 3);
	ck_assert_uint_eq(ready_bytes(dev), 4 * MIB);
	ck_assert_int_ne(again[0], fds[0]);
	ck_assert_int_ne(again[0], again[1]);
	ck_assert_uint_ne(second, token);
	dev->ops->close(dev, 2, 2 * MIB, fds, token);
	dev->ops->close(dev, 2, 2 * MIB, again, second);
	ck_assert_uint_eq(fake.bytes, 4 * MIB);
	gpu_device_close(dev);
	ck_assert_uint_eq(fake.bytes, 0);
}
END_TEST

START_TEST(what_is_ready_gives_way_to_another_shape)
{
	struct gpu_device *dev = start(64 * MIB, 32 * MIB);
	int fds[4];
	uint64_t token;

	ck_assert_int_eq(dev->ops->create(dev, 2, 2 * MIB, fds, &token), 0);
	make_ahead(dev);
	ck_assert_uint_eq(ready_bytes(dev), 32 * MIB);
	ck_assert_int_eq(dev->ops->create(dev, 4, 2 * MIB, fds, &token), 0);
	ck_assert_uint_eq(ready_bytes(dev), 0);
	ck_assert_uint_eq(fake.bytes, 12 * MIB);
	gpu_device_close(dev);
}
END_TEST

START_TEST(ready_and_handed_out_stay_within_the_device)
{
	struct gpu_device *dev = start(16 * MIB, 64 * MIB);
	int fds[4];
	uint64_t token;

	for (unsigned i = 0; i < 4; i++) {
		ck_assert_int_eq(dev->ops->create(dev, 2, 2 * MIB, fds, &token), 0);
		make_ahead(dev);
	}
	ck_assert_uint_eq(fake.most_bytes, 16 * MIB);
	ck_assert_uint_eq(ready_bytes(dev), 0);
	gpu_device_close(dev);
}
END_TEST

START_TEST(a_device_that_has_no_more_is_not_asked_again_and_again)
{
	struct gpu_device *dev = start(64 * MIB, 64 * MIB);
	int fds[2];
	uint64_t token;

	fake.full_bytes = 8 * MIB;
	ck_assert_int_eq(dev->ops->create(dev, 2, 2 * MIB, fds, &token), 0);
	make_ahead(dev);
	ck_assert_uint_eq(fake.creates, 2);
	ck_assert(!dev->ops->ahead(dev));
	/* what lies ready is handed out, and then there is none */
	ck_assert_int_eq(dev->ops->create(dev, 2, 2 * MIB, fds, &token), 0);
	ck_assert_int_eq(dev->ops->create(dev, 2, 2 * MIB, fds, &token), -ENOMEM);
	ck_assert_uint_eq(fake.bytes, 8 * MIB);
	gpu_device_close(dev);
}
END_TEST

START_TEST(at_rest_nothing_is_kept)
{
	struct gpu_device *dev = start(64 * MIB, 64 * MIB);
	int fds[2];
	uint64_t token;

	ck_assert_int_eq(dev->ops->create(dev, 2, 2 * MIB, fds, &token), 0);
	make_ahead(dev);
	dev->ops->close(dev, 2, 2 * MIB, fds, token);
	dev->ops->rest(dev, true);
	ck_assert(fake.rested);
	ck_assert_uint_eq(fake.bytes, 0);
	make_ahead(dev);
	ck_assert_uint_eq(fake.bytes, 0);
	dev->ops->cancel(dev);
	ck_assert(fake.cancelled);
	dev->ops->look(dev);
	ck_assert(fake.looked);
	gpu_device_close(dev);
}
END_TEST

static const struct suite_case cases[] = {
	{ &nothing_is_made_before_somebody_asks },
	{ &the_next_of_the_same_shape_is_there },
	{ &what_is_ready_gives_way_to_another_shape },
	{ &ready_and_handed_out_stay_within_the_device },
	{ &a_device_that_has_no_more_is_not_asked_again_and_again },
	{ &at_rest_nothing_is_kept },
	{ NULL },
};

int main(void)
{
	return suite_run("warm", cases);
}
