/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Memory: geometry of spaces, grants, revocation and what clients answer.
 */

#include <stdlib.h>

#include "tests/unit/fixture.h"
#include "tests/unit/suite.h"

static struct fixture f;

static const struct core_limits many_pages = { .pages = 65536,
					       .slabs = 1024,
					       .spaces = 8,
					       .clients = 4,
					       .members = 16,
					       .tenants = 2,
					       .namespaces = 2 };

/* Opens a space; returns its record. */
static const struct core_space *open_space(unsigned client, uint32_t regions, uint64_t stride_bytes)
{
	int r = core_space_open(&f.c, client,
				&(struct core_space_spec){ .kind = KVB_DEVICE_HOST,
							   .regions = regions,
							   .stride_bytes = stride_bytes });

	ck_assert_msg(r >= 0, "%u regions of %llu bytes: %d", regions,
		      (unsigned long long)stride_bytes, r);
	return &f.c.spaces[core_member_get(&f.c, client, (uint32_t)r)->space];
}

START_TEST(geometry_of_strides_that_do_not_divide_a_handle)
{
	static const struct {
		uint32_t regions;
		uint64_t stride_bytes;
		uint32_t pages_per_slab, handles;
	} shapes[] = {
		{ 1, 64 << 10, 32, 1 },   { 1, 192 << 10, 32, 3 }, { 1, 320 << 10, 32, 5 },
		{ 32, 192 << 10, 32, 3 }, { 1, 2 << 20, 1, 1 },    { 1, 4 << 20, 1, 2 },
		{ 1, 3 << 20, 2, 3 },     { 1, 4160, 32768, 65 },
	};

	fixture_start(&f, &many_pages, 512);
	unsigned client = fixture_client(&f, fixture_tenant(&f, "t", 0, UINT64_MAX));
	for (unsigned i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		const struct core_space *s =
			open_space(client, shapes[i].regions, shapes[i].stride_bytes);
		ck_assert_uint_eq(s->pages_per_slab, shapes[i].pages_per_slab);
		ck_assert_uint_eq(s->handles_per_region, shapes[i].handles);
		/* no gap and no rest: a slab's part of a region is whole pages and whole handles */
		ck_assert_uint_eq(s->pages_per_slab * s->stride_bytes,
				  s->handles_per_region * s->handle_bytes);
		ck_assert_uint_eq(s->slab_bytes,
				  s->regions * s->handles_per_region * s->handle_bytes);
		ck_assert_uint_eq(s->slots, 512 * HANDLE_BYTES / s->slab_bytes);
	}
	fixture_end(&f);
}
END_TEST

START_TEST(page_ids_of_tiny_pages_fit_32_bits)
{
	fixture_start(&f, &many_pages, 8);
	ck_assert_int_eq(
		core_device_add(&f.c, KVB_DEVICE_HOST, 1, "host:1", 512ull << 30, 512ull << 20), 1);
	unsigned client = fixture_client(&f, fixture_tenant(&f, "t", 0, UINT64_MAX));
	int handle = core_space_open(
		&f.c, client,
		&(struct core_space_spec){
			.kind = KVB_DEVICE_HOST, .ordinal = 1, .regions = 1, .stride_bytes = 64 });
	ck_assert_int_ge(handle, 0);
	const struct core_space *s =
		&f.c.spaces[core_member_get(&f.c, client, (uint32_t)handle)->space];
	ck_assert_uint_eq(s->pages_per_slab, 8u << 20);
	ck_assert_uint_eq(s->slots, 511);
	fixture_end(&f);
}
END_TEST

static void fill_2g(uint32_t regions)
{
	uint64_t stride_bytes = (64 << 10) / regions; /* 64 KiB a page in all */
	kvb_page_t *page = calloc(32769, sizeof(*page));
	uint32_t slabs;

	fixture_start(&f, &many_pages, 1024);
	unsigned client = fixture_client(&f, fixture_tenant(&f, "t", 0, UINT64_MAX));
	const struct core_space *s = open_space(client, regions, stride_bytes);
	struct core_member *m = core_member_get(&f.c, client, 0);
	slabs = s->slots;
	ck_assert_uint_eq(slabs * s->pages_per_slab, 32768);
	fixture_grow(&f, m, slabs);
	ck_assert_int_eq(core_space_grow(&f.c, m, 1, NULL), -ENOSPC);
	ck_assert_uint_eq(f.c.h->device[0].granted_bytes, 2048 * MIB);
	ck_assert_uint_eq(s->pages, 32768);
	struct core_batch b = core_alloc(&f.c, m, 32769, 0, page);
	assert_batch(b, 32768, 0);
	for (uint32_t i = 0; i < 32768; i++)
		ck_assert_uint_eq(KVB_PAGE_ID(page[i]), i);
	free(page);
	fixture_end(&f);
}

START_TEST(two_gib_are_exactly_32768_pages_in_one_region)
{
	fill_2g(1);
}
END_TEST

START_TEST(two_gib_are_exactly_32768_pages_in_32_regions)
{
	fill_2g(32);
}
END_TEST

START_TEST(fault_038_bad_geometry_is_einval)
{
	static const struct {
		uint32_t regions;
		uint64_t stride_bytes;
	} bad[] = {
		{ 0, 64 << 10 },
		{ KVB_REGIONS_MAX + 1, 64 },
		{ 1, 0 },
		{ 1, 63 },
		{ 1, 96 },
		{ 1, UINT64_MAX },
		{ 1, 1ull << 63 },
		{ 1, UINT64_MAX & ~63ull },
		{ 256, 1ull << 56 },
		{ 9, 2 << 20 },
		{ UINT32_MAX, 64 },
		{ 1, 17 << 20 },
		{ 1, (16 << 20) + 64 },
	};

	fixture_start(&f, NULL, 8);
	unsigned client = fixture_client(&f, fixture_tenant(&f, "t", 0, UINT64_MAX));
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_int_eq(core_space_open(&f.c, client,
						 &(struct core_space_spec){
							 .kind = KVB_DEVICE_HOST,
							 .regions = bad[i].regions,
							 .stride_bytes = bad[i].stride_bytes }),
				 -EINVAL);
	ck_assert_int_eq(core_space_open(&f.c, client,
					 &(struct core_space_spec){ .kind = KVB_DEVICE_CUDA,
								    .regions = 1,
								    .stride_bytes = 64 << 10 }),
			 -ENODEV);
	ck_assert_int_eq(core_space_open(&f.c, client,
					 &(struct core_space_spec){ .kind = KVB_DEVICE_HOST,
								    .ordinal = 1,
								    .regions = 1,
								    .stride_bytes = 64 << 10 }),
			 -ENODEV);
	ck_assert_int_eq(core_space_open(&f.c, client,
					 &(struct core_space_spec){ .kind = 99,
								    .regions = 1,
								    .stride_bytes = 64 << 10 }),
			 -ENODEV);
	ck_assert_ptr_null(core_member_get(&f.c, client, 0));
	ck_assert_ptr_null(core_member_get(&f.c, client, UINT32_MAX));
	fixture_end(&f);
}
END_TEST

START_TEST(grow_goes_through_its_states)
{
	uint64_t slots[CORE_SLOT_WORDS] = { 0 };
	kvb_page_t page[8];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 0);
	ck_assert_int_eq(core_slot_state(&f.c, m, 0), CORE_SLOT_EMPTY);
	ck_assert_int_eq(core_space_grow(&f.c, m, 1, slots), 1);
	ck_assert_uint_eq(slots[0], 1);
	ck_assert_int_eq(core_slot_state(&f.c, m, 0), CORE_SLOT_PENDING);
	unsigned slab = core_next_slab(&f.c);
	ck_assert_uint_ne(slab, CORE_NONE16);
	ck_assert_uint_eq(core_next_slab(&f.c), CORE_NONE16);
	assert_batch(core_alloc(&f.c, m, 1, 0, page), 0, 0);
	core_slab_created(&f.c, slab);
	ck_assert_ptr_eq(core_next_member(&f.c), m);
	ck_assert_ptr_null(core_next_member(&f.c));
	core_member_kick(&f.c, m);
	ck_assert_ptr_eq(core_next_member(&f.c), m);
	core_grant_sent(&f.c, m, 0);
	ck_assert_int_eq(core_slot_state(&f.c, m, 0), CORE_SLOT_PENDING);
	core_grant_acked(&f.c, m, 0, true);
	ck_assert_int_eq(core_slot_state(&f.c, m, 0), CORE_SLOT_READY);
	fixture_alloc(&f, m, 8, page);
	fixture_end(&f);
}
END_TEST

START_TEST(fault_088_a_slab_the_device_cannot_create_costs_nothing)
{
	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 0);
	for (unsigned i = 0; i < 1000; i++) {
		ck_assert_int_eq(core_space_grow(&f.c, m, 2, NULL), 2);
		for (unsigned slab; (slab = core_next_slab(&f.c)) != CORE_NONE16;)
			core_slab_failed(&f.c, slab);
		ck_assert_int_eq(core_slot_state(&f.c, m, 0), CORE_SLOT_EMPTY);
	}
	ck_assert_uint_eq(f.c.tenants[0].budget[0].used_bytes, 0);
	ck_assert_uint_eq(f.c.h->device[0].granted_bytes, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(revoked_slab_waits_for_what_its_clients_hold)
{
	kvb_page_t page, sealed;
	uint32_t busy;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, 0, &busy), -ENOENT); /* not revoked */
	sealed = fixture_seal(&f, m, 1);
	fixture_alloc(&f, m, 1, &page);
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 9, 0), 1);
	ck_assert_int_eq(core_slot_state(&f.c, m, 0), CORE_SLOT_REVOKED);
	ck_assert_ptr_eq(core_next_member(&f.c), m);
	ck_assert_uint_eq(m->revoke[0], 1);
	m->revoke[0] = 0;
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, 0, &busy), -EBUSY);
	ck_assert_uint_eq(busy, 2);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), KVB_PAGE_NONE); /* no new leases there */
	assert_batch(core_free(&f.c, m, &page, 1), 1, 0);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, 0, &busy), -EBUSY);
	ck_assert_uint_eq(busy, 1);
	ck_assert_int_eq(fixture_release(&f, m, sealed), 0);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, KVB_SLOTS_MAX, &busy), -ENOENT);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, UINT64_MAX, &busy), -ENOENT);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, 0, &busy), 0);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, 0, &busy), -ENOENT);
	fixture_settle(&f);
	ck_assert_int_eq(core_slot_state(&f.c, m, 0), CORE_SLOT_EMPTY);
	ck_assert_uint_eq(f.c.h->device[0].granted_bytes, 0);
	fixture_grow(&f, m, 1);
	fixture_alloc(&f, m, 1, &page);
	fixture_end(&f);
}
END_TEST

/* One that does not give back is not walked again, turn after turn. */
START_TEST(revoked_slab_is_walked_once)
{
	kvb_page_t page;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	fixture_alloc(&f, m, 1, &page);
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 1, 1), 1);
	ck_assert_uint_eq(f.c.h->slabs_undrained, 1);
	fixture_check(&f);
	while (core_work(&f.c, 1))
		;
	ck_assert_uint_eq(f.c.h->slabs_draining, 1);
	ck_assert_uint_eq(f.c.h->slabs_undrained, 0);
	assert_batch(core_free(&f.c, m, &page, 1), 1, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(revoked_slab_drains_cached_pages_in_slices)
{
	kvb_page_t page[16];
	unsigned slices = 0;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 2);
	for (unsigned i = 0; i < 16; i++)
		page[i] = fixture_seal(&f, m, i);
	assert_batch(core_release(&f.c, m, page, 16), 16, 0);
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 2, 0), 2);
	while (core_work(&f.c, 1)) {
		fixture_check(&f);
		ck_assert_uint_lt(++slices, 100);
	}
	ck_assert_uint_ge(slices, 8);
	ck_assert_uint_eq(f.c.h->indexed, 0);
	ck_assert_uint_eq(f.c.slabs[0].free, 8);
	ck_assert_uint_eq(f.c.slabs[1].free, 8);
	fixture_end(&f);
}
END_TEST

/* Slabs that are there, and one that is being made, go; what a client holds waits for it. */
START_TEST(drained_device_is_emptied_and_makes_no_slab)
{
	kvb_page_t page;
	uint32_t busy;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 2);
	fixture_alloc(&f, m, 1, &page);
	ck_assert_int_eq(core_space_grow(&f.c, m, 1, NULL), 1);
	core_device_drain(&f.c, 0, true);
	ck_assert_int_eq(core_space_grow(&f.c, m, 1, NULL), -ENOSPC);
	fixture_settle(&f);
	fixture_check(&f);
	ck_assert_uint_eq(f.c.h->device[0].granted_bytes, 2 * HANDLE_BYTES);
	for (unsigned slot = 0; slot < 2; slot++)
		(void)core_reclaim_ack(&f.c, m, slot, &busy);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.h->device[0].granted_bytes, HANDLE_BYTES);
	assert_batch(core_free(&f.c, m, &page, 1), 1, 0);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, KVB_PAGE_ID(page) / 8, &busy), 0);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.h->device[0].granted_bytes, 0);
	ck_assert_int_eq(core_space_grow(&f.c, m, 1, NULL), -ENOSPC);
	core_device_drain(&f.c, 0, false);
	fixture_grow(&f, m, 1);
	fixture_alloc(&f, m, 1, &page);
	fixture_end(&f);
}
END_TEST

START_TEST(shrink_takes_the_emptiest_first)
{
	kvb_page_t page[24];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 3);
	fixture_alloc(&f, m, 24, page);
	assert_batch(core_free(&f.c, m, &page[8], 5), 5, 0);
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 1, 0), 1);
	ck_assert_int_eq(core_slot_state(&f.c, m, 0), CORE_SLOT_READY);
	ck_assert_int_eq(core_slot_state(&f.c, m, 1), CORE_SLOT_REVOKED);
	ck_assert_int_eq(core_slot_state(&f.c, m, 2), CORE_SLOT_READY);
	fixture_end(&f);
}
END_TEST

START_TEST(overdue_after_the_deadline_and_extended)
{
	kvb_page_t page;
	unsigned slab;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	fixture_alloc(&f, m, 1, &page);
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 1, 5000000000ull), 1);
	fixture_seconds(&f, 4);
	ck_assert_uint_eq(core_slab_overdue(&f.c, 0), CORE_NONE16);
	fixture_seconds(&f, 1);
	slab = core_slab_overdue(&f.c, 0);
	ck_assert_uint_ne(slab, CORE_NONE16);
	ck_assert_uint_eq(core_slab_overdue(&f.c, slab + 1), CORE_NONE16);
	core_slab_extend(&f.c, slab, 1000000000ull);
	ck_assert_uint_eq(core_slab_overdue(&f.c, 0), CORE_NONE16);
	fixture_seconds(&f, 1);
	ck_assert_uint_eq(core_slab_overdue(&f.c, 0), slab);
	fixture_end(&f);
}
END_TEST

START_TEST(fault_085_memory_mapped_by_anybody_is_not_taken_back)
{
	uint32_t busy;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	struct core_member *idle = fixture_space(&f, fixture_client(&f, 0), STRIDE_8);
	unsigned idle_client = idle->client;
	fixture_serve(&f);
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 1, 0), 1);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, 0, &busy), 0);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.slabs[0].state, CORE_SLAB_DRAINING);
	core_client_close(&f.c, idle_client); /* it may still have the memory mapped */
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.slabs[0].state, CORE_SLAB_DRAINING);
	core_client_dead(&f.c, idle_client);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.slabs[0].state, CORE_SLAB_FREE);
	fixture_end(&f);
}
END_TEST

START_TEST(grant_unacknowledged_at_revocation)
{
	uint32_t busy;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 0);
	ck_assert_int_eq(core_space_grow(&f.c, m, 1, NULL), 1);
	core_slab_created(&f.c, core_next_slab(&f.c));
	core_grant_sent(&f.c, m, 0);
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 1, 0), 1);
	ck_assert_uint_eq(m->revoke[0], 1);
	core_grant_acked(&f.c, m, 0, true); /* the answers have crossed */
	fixture_check(&f);
	kvb_page_t page;
	assert_batch(core_alloc(&f.c, m, 1, 0, &page), 0, 0);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, 0, &busy), 0);
	core_grant_acked(&f.c, m, 0, true); /* given up meanwhile */
	core_grant_acked(&f.c, m, UINT32_MAX, true);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.h->device[0].granted_bytes, 0);
	fixture_end(&f);
}
END_TEST

static const struct suite_case cases[] = {
	{ &geometry_of_strides_that_do_not_divide_a_handle },
	{ &two_gib_are_exactly_32768_pages_in_one_region },
	{ &two_gib_are_exactly_32768_pages_in_32_regions },
	{ &fault_038_bad_geometry_is_einval },
	{ &grow_goes_through_its_states },
	{ &fault_088_a_slab_the_device_cannot_create_costs_nothing },
	{ &revoked_slab_waits_for_what_its_clients_hold },
	{ &page_ids_of_tiny_pages_fit_32_bits },
	{ &revoked_slab_is_walked_once },
	{ &revoked_slab_drains_cached_pages_in_slices },
	{ &drained_device_is_emptied_and_makes_no_slab },
	{ &shrink_takes_the_emptiest_first },
	{ &overdue_after_the_deadline_and_extended },
	{ &fault_085_memory_mapped_by_anybody_is_not_taken_back },
	{ &grant_unacknowledged_at_revocation },
	{ NULL },
};

int main(void)
{
	return suite_run("slab", cases);
}
