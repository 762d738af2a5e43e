/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Many copies in one call, in the form that the driver has, or in both; and how they are found.
 */

#include "tests/gpu/conformance.h"

#include <stdlib.h>
#include <string.h>

#define COPIES_MAX 257u
#define COPY_BYTES 8192u
#define STRIDE_BYTES 12288u /* what lies between copies stays as it was */
#define ROOM ((COPIES_MAX * STRIDE_BYTES / test_granule + 1) * test_granule)

enum { PROC_NOT_FOUND = 1, PROC_TOO_NEW = 2 };

struct batch_forms {
	cu_batch_12 form_12;
	cu_batch_13 form_13;
};

struct batch {
	cu_address to[COPIES_MAX], from[COPIES_MAX];
	size_t bytes[COPIES_MAX];
	size_t count;
	struct cu_copy_attributes attributes;
	size_t attribute_first;
	size_t attributes_count;
};

/* Both, of a driver that has both: programs that were built for the first still find it. */
static enum cu_result batch_find(struct batch_forms *ret)
{
	enum cu_result result;
	int version = 0;

	*ret = (struct batch_forms){ 0 };
	result = cu->driver_get_version(&version);
	if (result == CU_OK && version >= CU_BATCH_VERSION_12)
		result = cs->get_proc_address(CU_BATCH_SYMBOL, (void **)&ret->form_12,
					      CU_BATCH_VERSION_12, 0, NULL);
	if (result == CU_OK && version >= CU_BATCH_VERSION_13)
		result = cs->get_proc_address(CU_BATCH_SYMBOL, (void **)&ret->form_13,
					      CU_BATCH_VERSION_13, 0, NULL);
	return result;
}

static enum cu_result batch_start(const struct batch_forms *forms, struct batch *b,
				  size_t *ret_failed, cu_stream stream)
{
	*ret_failed = SIZE_MAX;
	return forms->form_12 ? forms->form_12(b->to, b->from, b->bytes, b->count, &b->attributes,
					       &b->attribute_first, b->attributes_count, ret_failed,
					       stream)
			      : forms->form_13(b->to, b->from, b->bytes, b->count, &b->attributes,
					       &b->attribute_first, b->attributes_count, stream);
}

/* n copies from places of the one to other places of the other. */
static void batch_make(struct batch *b, size_t n, cu_address to, cu_address from)
{
	*b = (struct batch){ .count = n, .attributes_count = 1 };
	b->attributes.order = CU_COPY_ORDER_STREAM;
	for (size_t i = 0; i < n; i++) {
		b->to[i] = to + i * STRIDE_BYTES;
		b->from[i] = from + (n - 1 - i) * STRIDE_BYTES;
		b->bytes[i] = COPY_BYTES;
	}
}

/* ---- how it is found ----------------------------------------------------------------------- */

static void test_find(void)
{
	int version = 0, status = -1;
	struct batch_forms forms;
	void *call = &version;

	EXPECT(OK, cu->driver_get_version(&version));
	EXPECT(OK, batch_find(&forms));
	CHECK(!forms.form_12 == (version < CU_BATCH_VERSION_12));
	CHECK(!forms.form_13 == (version < CU_BATCH_VERSION_13));
	CHECK(!forms.form_12 || (void *)forms.form_12 != (void *)forms.form_13);
	EXPECT(OK, cs->get_proc_address("cuMemcpyHtoDAsync", &call, 12000, 0, &status));
	CHECK(call && status == CU_PROC_FOUND);
	CHECK(!test_is_stand_in || call == (void *)cs->memcpy_htod_async);
	call = NULL;
	EXPECT_TOLD(OK, cs->get_proc_address("cuNoSuchCall", &call, 12000, 0, &status));
	CHECK(!call && status == PROC_NOT_FOUND);
	EXPECT_TOLD(INVALID_VALUE,
		    cs->get_proc_address(CU_BATCH_SYMBOL, &call, version + 10, 0, &status));
	if (version < CU_BATCH_VERSION_12) {
		test_skip("the driver has no batches");
		return;
	}
	call = NULL;
	EXPECT_TOLD(OK, cs->get_proc_address(CU_BATCH_SYMBOL, &call, 12000, 0, &status));
	CHECK(!call && status == PROC_TOO_NEW);
}

/* ---- copies -------------------------------------------------------------------------------- */

/* One batch up, one down, mirrored twice; what lies between the copies is not touched. */
static enum cu_result batch_round(const struct batch_forms *forms, size_t n, cu_stream stream,
				  cu_address device, struct pinned *up, struct pinned *down,
				  bool *ret_right)
{
	struct batch *b = malloc(sizeof(*b));
	enum cu_result result = CU_ERROR_OPERATING_SYSTEM;
	size_t failed;

	*ret_right = true;
	if (!b)
		return result;
	for (size_t i = 0; i < n; i++)
		pattern_fill(up->memory + i * STRIDE_BYTES, STRIDE_BYTES, (uint32_t)(1000 + i));
	memset(down->memory, 0, down->bytes);
	batch_make(b, n, device, up->address);
	result = batch_start(forms, b, &failed, stream);
	if (result == CU_OK) {
		batch_make(b, n, down->address, device);
		result = batch_start(forms, b, &failed, stream);
	}
	memset(b, 0xff, sizeof(*b)); /* the driver has its own by now */
	if (result == CU_OK)
		result = cs->stream_synchronize(stream);
	for (size_t i = 0; i < n; i++) {
		const uint8_t *at = down->memory + i * STRIDE_BYTES;

		*ret_right &= pattern_equals(at, COPY_BYTES, (uint32_t)(1000 + i)) &&
			      pattern_equals(at + COPY_BYTES, STRIDE_BYTES - COPY_BYTES, 0);
	}
	free(b);
	return result;
}

static void batch_test(const struct batch_forms *forms)
{
	static const size_t counts[] = { 1, 2, COPIES_MAX };
	struct pinned up, down;
	cu_handle handle;
	cu_stream stream;
	cu_address at;
	bool right;

	EXPECT(OK, context_enter());
	EXPECT(OK, pinned_open(&up, ROOM, -1));
	EXPECT(OK, pinned_open(&down, ROOM, -1));
	EXPECT(OK, allocation_create(ROOM, &handle));
	EXPECT(OK, window_open(handle, ROOM, &at));
	EXPECT(OK, cs->stream_create(&stream, CU_FLAG_STREAM_NON_BLOCKING));
	for (uint32_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		EXPECT(OK, batch_round(forms, counts[i], stream, at, &up, &down, &right));
		CHECK(right);
	}
	EXPECT(OK, cs->stream_destroy(stream));
	EXPECT(OK, window_close(at, ROOM));
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, pinned_close(&down));
	EXPECT(OK, pinned_close(&up));
	EXPECT(OK, context_leave());
}

static void test_copies_12(void)
{
	struct batch_forms forms;

	EXPECT(OK, batch_find(&forms));
	forms.form_13 = NULL;
	if (forms.form_12)
		batch_test(&forms);
	else
		test_skip("the driver is older than 12.8");
}

static void test_copies_13(void)
{
	struct batch_forms forms;

	EXPECT(OK, batch_find(&forms));
	forms.form_12 = NULL;
	if (forms.form_13)
		batch_test(&forms);
	else
		test_skip("the driver is older than 13.0");
}

/* ---- refused ------------------------------------------------------------------------------- */

static void batch_test_refused(struct batch *b, const struct batch_forms *forms)
{
	struct pinned host;
	cu_handle handle;
	cu_stream stream;
	cu_address at;
	size_t failed;

	EXPECT(OK, context_enter());
	EXPECT(OK, pinned_open(&host, ROOM, -1));
	EXPECT(OK, allocation_create(ROOM, &handle));
	EXPECT(OK, window_open(handle, ROOM, &at));
	EXPECT(OK, cs->stream_create(&stream, CU_FLAG_STREAM_NON_BLOCKING));
	batch_make(b, 8, at, host.address);
	EXPECT(INVALID_VALUE, batch_start(forms, b, &failed, NULL));
	b->attributes_count = 0;
	EXPECT_TOLD(INVALID_VALUE, batch_start(forms, b, &failed, stream));
	b->attributes_count = 1;
	b->attribute_first = 1;
	EXPECT_TOLD(INVALID_VALUE, batch_start(forms, b, &failed, stream));
	b->attribute_first = 0;
	b->attributes.order = 0;
	EXPECT(INVALID_VALUE, batch_start(forms, b, &failed, stream));
	batch_make(b, 8, at, host.address);
	b->count = 0;
	EXPECT_TOLD(INVALID_VALUE, batch_start(forms, b, &failed, stream));
	batch_make(b, 8, at, host.address);
	b->bytes[5] = 0;
	EXPECT(INVALID_VALUE, batch_start(forms, b, &failed, stream));
	batch_make(b, 8, at, host.address);
	EXPECT(OK, batch_start(forms, b, &failed, stream));
	EXPECT(OK, cs->stream_synchronize(stream)); /* a refusal is no fault */
	EXPECT(OK, cs->stream_destroy(stream));
	EXPECT(OK, window_close(at, ROOM));
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, pinned_close(&host));
	EXPECT(OK, context_leave());
}

static void test_refused(void)
{
	struct batch_forms forms;
	struct batch *b;

	EXPECT(OK, batch_find(&forms));
	if (!forms.form_12) {
		test_skip("the driver has no batches");
		return;
	}
	b = malloc(sizeof(*b));
	CHECK(b);
	batch_test_refused(b, &forms);
	free(b);
}

const struct test tests_batch[] = {
	{ "a call is found by name and version", test_find },
	{ "1, 2 and 257 copies in one call, of 12.8", test_copies_12 },
	{ "1, 2 and 257 copies in one call, of 13.0", test_copies_13 },
	{ "batches without order, copies, bytes or a stream are refused", test_refused },
	{ NULL, NULL },
};
