/* SPDX-License-Identifier: Apache-2.0 */

/*
 * libkvbroker against a daemon of straw (fake_daemon.h): lower tiers.
 *
 * The first word of a key says where the daemon has it: 0 nowhere, a page's name on the device,
 * KVB_PAGE_IN(tier) below. The daemon counts the leases it gives and takes back. What must hold in
 * whatever pieces a call is sent: exactly what the caller is told of is leased, and every call
 * ends, also when the broker does while bytes are on their way.
 */

#include "tests/unit/suite.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "broker/io/shm.h"
#include "tests/unit/fake_daemon.h"
#include "uapi/internal.h"

#define MS 1000000ull
#define PIECE 64u /* keys in one entry, with operand_bytes of 4096 */
#define MANY 200u

static struct fake fake;
static uint32_t leases;
static uint32_t arrives; /* keys of one LOAD that come up */
static uint64_t load_arg;
static uint32_t flags; /* of the next completion */

static const struct kvb_hash *operands(const struct kvb_sqe *sqe)
{
	return (const struct kvb_hash *)(void *)(fake.sub + fake.reply.sub_operands + sqe->operand);
}

static kvb_page_t *results(const struct kvb_sqe *sqe)
{
	return (kvb_page_t *)(void *)(fake.ctl + fake.reply.ctl_results + sqe->operand);
}

static void complete(const struct kvb_sqe *sqe, uint32_t res, uint32_t done)
{
	const struct kvb_cqe cqe = {
		.user_data = sqe->user_data,
		.res = (int32_t)res,
		.done = done,
		.aux = 7,
		.flags = flags,
	};

	flags = 0;
	fake_complete(&fake, &cqe);
}

/* As kvbroker.h has it: leases until the first key below, then says where each one is. */
static void look_up(const struct kvb_sqe *sqe)
{
	const struct kvb_hash *key = operands(sqe);
	uint32_t done = 0, res = 0;

	ck_assert_uint_eq(sqe->flags, KVB_LOOKUP_TIERS);
	for (; done < sqe->count && key[done].w[0]; done++) {
		const kvb_page_t page = key[done].w[0];

		if (res == done && KVB_PAGE_GEN(page)) {
			results(sqe)[done] = page;
			res++;
			leases++;
		} else {
			results(sqe)[done] = KVB_PAGE_IN(KVB_PAGE_TIER(page));
		}
	}
	complete(sqe, res, done);
}

static void load(const struct kvb_sqe *sqe)
{
	const struct kvb_hash *key = operands(sqe);
	uint32_t n = 0;

	load_arg = sqe->arg;
	for (; n < sqe->count && arrives && key[n].w[0]; n++, arrives--)
		results(sqe)[n] = KVB_PAGE(2, key[n].w[1]);
	leases += n;
	complete(sqe, n, n);
}

static bool serve_tiers(struct fake *f, const struct kvb_sqe *sqe)
{
	switch (sqe->opcode) {
	case KVB_OP_LOOKUP:
		look_up(sqe);
		return true;
	case KVB_OP_LOAD:
		load(sqe);
		return true;
	case KVB_OP_PREFETCH:
	case KVB_OP_STORE:
		complete(sqe, sqe->count, sqe->count);
		return true;
	case KVB_OP_RELEASE:
		leases -= sqe->count;
		complete(sqe, sqe->count, sqe->count);
		return true;
	default:
		return false;
	}
}

static struct kvb *client(uint64_t timeout_ns, struct kvb_space **ret)
{
	const struct kvb_params p = {
		.socket = fake.path,
		.sq_entries = 4,
		.operand_bytes = 4096,
		.timeout_ns = timeout_ns,
	};
	const struct kvb_space_params space = { .stride_bytes = FAKE_PAGE_BYTES };
	struct kvb *kvb = NULL;
	char text[256] = "";

	leases = flags = 0;
	arrives = UINT32_MAX;
	ck_assert_msg(kvb_connect(&p, &kvb, text) == 0, "%s", text);
	ck_assert_uint_eq(kvb->call_bytes / sizeof(struct kvb_hash), PIECE);
	ck_assert_msg(kvb_space_open(kvb, &space, ret) == 0, "%s", kvb_error_text(kvb));
	return kvb;
}

static struct kvb *start(struct kvb_space **ret)
{
	fake_init(&fake);
	fake.serve = serve_tiers;
	fake_start(&fake);
	return client(2000 * MS, ret);
}

static void finish(struct kvb *kvb)
{
	kvb_disconnect(kvb);
	fake_stop(&fake);
}

/* Keys of a run: `device` on the device, then below, but on the device again in [again, end). */
static void fill(struct kvb_hash *key, uint32_t n, uint32_t device, uint32_t again, uint32_t end)
{
	for (uint32_t i = 0; i < n; i++) {
		const bool above = i < device || (i >= again && i < end);

		key[i].w[0] = above ? KVB_PAGE(1, i) : KVB_PAGE_IN(KVB_TIER_HOST);
		key[i].w[1] = i;
	}
}

/* ---- lookup -------------------------------------------------------------------------------- */

START_TEST(lookup_says_where_each_key_of_the_run_is)
{
	struct kvb_hash key[8];
	kvb_page_t page[8];
	struct kvb_space *space;
	uint32_t device = 99;
	uint64_t epoch = 0;

	struct kvb *kvb = start(&space);
	fill(key, 8, 3, 5, 6);
	key[7].w[0] = 0;
	key[4].w[0] = KVB_PAGE_IN(KVB_TIER_STORE);
	ck_assert_int_eq(kvb_lookup_tiers(space, 0, 0, key, page, 8, &device, &epoch), 7);
	ck_assert_uint_eq(device, 3);
	ck_assert_uint_eq(epoch, 7);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_uint_eq(page[i], KVB_PAGE(1, i));
	ck_assert_uint_eq(page[3], KVB_PAGE_IN(KVB_TIER_HOST));
	ck_assert_uint_eq(page[4], KVB_PAGE_IN(KVB_TIER_STORE));
	ck_assert_uint_eq(page[5], KVB_PAGE_IN(KVB_TIER_DEVICE));
	ck_assert_uint_eq(page[6], KVB_PAGE_IN(KVB_TIER_HOST));
	ck_assert_uint_eq(leases, 3);
	finish(kvb);
}
END_TEST

/* Whatever the pieces begin with, what lies behind the device's run is not leased. */
START_TEST(lookup_in_pieces_leases_the_run_alone)
{
	static const uint32_t device[] = { 0, 1, 10, PIECE - 1, PIECE, PIECE + 1, 150, MANY };
	struct kvb_hash key[MANY];
	kvb_page_t page[MANY];
	struct kvb_space *space;
	uint32_t got = 99;

	struct kvb *kvb = start(&space);
	for (unsigned i = 0; i < sizeof(device) / sizeof(device[0]); i++) {
		const uint32_t d = device[i];

		leases = 0;
		fill(key, MANY, d, 2 * PIECE, 2 * PIECE + 20);
		ck_assert_int_eq(kvb_lookup_tiers(space, 0, 0, key, page, MANY, &got, NULL), MANY);
		ck_assert_uint_eq(got, d);
		ck_assert_uint_eq(leases, d);
		for (uint32_t k = d; k < MANY; k++)
			ck_assert_uint_eq(KVB_PAGE_GEN(page[k]), 0);
	}
	finish(kvb);
}
END_TEST

START_TEST(lookup_of_nothing_is_a_run_of_nothing)
{
	struct kvb_hash key = { { 0, 0 } };
	struct kvb_space *space;
	kvb_page_t page;
	uint32_t device = 99;

	struct kvb *kvb = start(&space);
	ck_assert_int_eq(kvb_lookup_tiers(space, 0, 0, &key, &page, 1, &device, NULL), 0);
	ck_assert_uint_eq(device, 0);
	ck_assert_uint_eq(leases, 0);
	finish(kvb);
}
END_TEST

START_TEST(space_tells_its_tiers)
{
	const uint64_t tiers = 1ull << KVB_TIER_DEVICE | 1ull << KVB_TIER_HOST;
	struct kvb_space *space;

	fake_init(&fake);
	fake.tiers = tiers;
	fake_start(&fake);
	struct kvb *kvb = client(0, &space);
	ck_assert_uint_eq(kvb_space_tiers(space), tiers);
	finish(kvb);
}
END_TEST

/* ---- load, prefetch, store ----------------------------------------------------------------- */

START_TEST(load_names_and_leases_what_came)
{
	struct kvb_hash key[MANY];
	kvb_page_t page[MANY];
	struct kvb_space *space;
	bool nothing = true;

	struct kvb *kvb = start(&space);
	fill(key, MANY, 0, 0, 0);
	ck_assert_int_eq(kvb_load(space, 0, 0, key, page, MANY, &nothing), MANY);
	ck_assert(!nothing);
	for (uint32_t i = 0; i < MANY; i++)
		ck_assert_uint_eq(page[i], KVB_PAGE(2, i));
	ck_assert_uint_eq(leases, MANY);
	finish(kvb);
}
END_TEST

START_TEST(load_that_comes_back_short_is_a_shorter_run)
{
	static const uint32_t come[] = { 0, 5, PIECE, PIECE + 1, 150 };
	struct kvb_hash key[MANY];
	kvb_page_t page[MANY];
	struct kvb_space *space;

	struct kvb *kvb = start(&space);
	fill(key, MANY, 0, 0, 0);
	for (unsigned i = 0; i < sizeof(come) / sizeof(come[0]); i++) {
		leases = 0;
		arrives = come[i];
		ck_assert_int_eq(kvb_load(space, 0, 0, key, page, MANY, NULL), come[i]);
		ck_assert_uint_eq(leases, come[i]);
	}
	finish(kvb);
}
END_TEST

START_TEST(load_is_less_patient_than_its_connection)
{
	struct kvb_hash key = { { KVB_PAGE_IN(KVB_TIER_HOST), 1 } };
	struct kvb_space *space;
	kvb_page_t page;

	struct kvb *kvb = start(&space);
	ck_assert_int_eq(kvb_load(space, 0, 0, &key, &page, 1, NULL), 1);
	ck_assert_uint_eq(load_arg, 1000 * MS);
	finish(kvb);

	fake_init(&fake);
	fake.serve = serve_tiers;
	fake_start(&fake);
	kvb = client(0, &space); /* ten seconds: the broker's own five will do */
	ck_assert_int_eq(kvb_load(space, 0, 0, &key, &page, 1, NULL), 1);
	ck_assert_uint_eq(load_arg, 0);
	finish(kvb);
}
END_TEST

START_TEST(nothing_below_is_said)
{
	struct kvb_hash key = { { KVB_PAGE(1, 1), 1 } };
	struct kvb_space *space;
	kvb_page_t page;
	bool nothing = false;

	struct kvb *kvb = start(&space);
	flags = KVB_CQE_NOTHING_BELOW;
	ck_assert_int_eq(kvb_load(space, 0, 0, &key, &page, 1, &nothing), 1);
	ck_assert(nothing);
	flags = KVB_CQE_NOTHING_BELOW;
	nothing = false;
	ck_assert_int_eq(kvb_prefetch(space, 0, 0, &key, 1, &nothing), 1);
	ck_assert(nothing);
	flags = KVB_CQE_NOTHING_BELOW;
	nothing = false;
	ck_assert_int_eq(kvb_store(space, &page, 1, &nothing), 1);
	ck_assert(nothing);
	ck_assert_int_eq(kvb_store(space, &page, 1, &nothing), 1);
	ck_assert(!nothing);
	finish(kvb);
}
END_TEST

static bool serve_pending(struct fake *f, const struct kvb_sqe *sqe)
{
	if (sqe->opcode == KVB_OP_LOAD && !f->acks) {
		arrives = 3;
		flags = KVB_CQE_GRANT_PENDING;
		if (!f->grant_seq)
			fake_grant(f, 0);
		else
			arrives = 0;
	} else if (sqe->opcode == KVB_OP_LOAD) {
		arrives = UINT32_MAX;
	}
	return serve_tiers(f, sqe);
}

START_TEST(load_maps_what_waits_and_goes_on)
{
	struct kvb_hash key[10];
	kvb_page_t page[10];
	struct kvb_space *space;

	struct kvb *kvb = start(&space);
	fake.serve = serve_pending;
	fill(key, 10, 0, 0, 0);
	ck_assert_int_eq(kvb_load(space, 0, 0, key, page, 10, NULL), 10);
	ck_assert_uint_eq(fake.acks, 1);
	ck_assert_uint_eq(leases, 10);
	for (uint32_t i = 0; i < 10; i++)
		ck_assert_uint_eq(page[i], KVB_PAGE(2, i));
	finish(kvb);
}
END_TEST

/* ---- a broker that ends -------------------------------------------------------------------- */

static bool serve_hang_up(struct fake *f, const struct kvb_sqe *sqe)
{
	close(f->fd);
	f->fd = -1;
	return true;
}

static bool serve_broken(struct fake *f, const struct kvb_sqe *sqe)
{
	shm_store(&fake_ctl(f)->error, EPROTO);
	shm_store_release(&fake_ctl(f)->flags, shm_load(&fake_ctl(f)->flags) | KVB_CTL_BROKEN);
	fake_wake(f);
	return true;
}

static bool serve_never(struct fake *f, const struct kvb_sqe *sqe)
{
	return true;
}

START_TEST(load_under_way_ends_with_its_broker)
{
	static bool (*const ends[])(struct fake *, const struct kvb_sqe *) = {
		serve_hang_up,
		serve_broken,
		serve_never,
	};
	struct kvb_hash key = { { KVB_PAGE_IN(KVB_TIER_HOST), 1 } };
	struct kvb_space *space;
	kvb_page_t page;

	for (unsigned i = 0; i < 3; i++) {
		fake_init(&fake);
		fake_start(&fake);
		struct kvb *kvb = client(100 * MS, &space);
		fake.serve = ends[i];
		ck_assert_int_eq(kvb_load(space, 0, 0, &key, &page, 1, NULL),
				 i == 2 ? -ETIME : -ENOTCONN);
		ck_assert_int_eq(kvb_load(space, 0, 0, &key, &page, 1, NULL), -ENOTCONN);
		ck_assert_int_eq(kvb_prefetch(space, 0, 0, &key, 1, NULL), -ENOTCONN);
		ck_assert_int_eq(kvb_store(space, &page, 1, NULL), -ENOTCONN);
		uint32_t device;
		ck_assert_int_eq(kvb_lookup_tiers(space, 0, 0, &key, &page, 1, &device, NULL),
				 -ENOTCONN);
		finish(kvb);
	}
}
END_TEST

static bool serve_too_many(struct fake *f, const struct kvb_sqe *sqe)
{
	complete(sqe, 1, sqe->count + 1);
	return true;
}

START_TEST(run_longer_than_its_keys_ends_the_connection)
{
	struct kvb_hash key = { { KVB_PAGE(1, 1), 1 } };
	struct kvb_space *space;
	kvb_page_t page[2] = { 0, 42 };
	uint32_t device;

	struct kvb *kvb = start(&space);
	fake.serve = serve_too_many;
	ck_assert_int_eq(kvb_lookup_tiers(space, 0, 0, &key, page, 1, &device, NULL), -EPROTO);
	ck_assert_uint_eq(page[1], 42);
	finish(kvb);
}
END_TEST

/* ---- entries ------------------------------------------------------------------------------- */

START_TEST(entries_say_what_they_were_given)
{
	struct kvb_sqe tiers = { 0 }, load = { 0 }, prefetch = { 0 }, store = { 0 };
	struct kvb_space *space;

	struct kvb *kvb = start(&space);
	kvb_prep_lookup_tiers(&tiers, space, 2, 3, 64, 4);
	kvb_prep_load(&load, space, 2, 3, 64, 4, 5);
	kvb_prep_prefetch(&prefetch, space, 2, 3, 64, 4);
	kvb_prep_store(&store, space, 64, 4);
	ck_assert_uint_eq(tiers.opcode, KVB_OP_LOOKUP);
	ck_assert_uint_eq(tiers.flags, KVB_LOOKUP_TIERS);
	ck_assert_uint_eq(load.opcode, KVB_OP_LOAD);
	ck_assert_uint_eq(load.arg, 5);
	ck_assert_uint_eq(prefetch.opcode, KVB_OP_PREFETCH);
	ck_assert_uint_eq(prefetch.arg, 0);
	ck_assert_uint_eq(store.opcode, KVB_OP_STORE);
	ck_assert_uint_eq(store.ns, 0);
	const struct kvb_sqe *all[] = { &tiers, &load, &prefetch, &store };
	for (unsigned i = 0; i < 4; i++) {
		ck_assert_uint_eq(all[i]->space, FAKE_SPACE);
		ck_assert_uint_eq(all[i]->operand, 64);
		ck_assert_uint_eq(all[i]->count, 4);
		ck_assert_uint_eq(all[i]->ns, i < 3 ? 2 : 0);
		ck_assert_uint_eq(all[i]->salt, i < 3 ? 3 : 0);
	}
	finish(kvb);
}
END_TEST

static bool serve_bump(struct fake *f, const struct kvb_sqe *sqe)
{
	const struct kvb_cqe moved = { .user_data = sqe->user_data, .res = -EIO, .aux = 8 };

	if (sqe->opcode != KVB_OP_EPOCH_BUMP)
		return serve_tiers(f, sqe);
	fake_complete(f, &moved);
	return true;
}

START_TEST(bump_that_no_store_records_tells_the_epoch)
{
	struct kvb_space *space;
	uint64_t epoch = 0;

	struct kvb *kvb = start(&space);
	fake.serve = serve_bump;
	ck_assert_int_eq(kvb_epoch_bump(kvb, 1, &epoch), -EIO);
	ck_assert_uint_eq(epoch, 8);
	ck_assert_ptr_nonnull(strstr(kvb_error_text(kvb), "a store could not record it"));
	ck_assert_int_eq(kvb_epoch_bump(kvb, 1, NULL), -EIO);
	finish(kvb);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &lookup_says_where_each_key_of_the_run_is, 0 },
		{ &lookup_in_pieces_leases_the_run_alone, 20 },
		{ &lookup_of_nothing_is_a_run_of_nothing, 0 },
		{ &space_tells_its_tiers, 0 },
		{ &load_names_and_leases_what_came, 0 },
		{ &load_that_comes_back_short_is_a_shorter_run, 0 },
		{ &load_is_less_patient_than_its_connection, 0 },
		{ &nothing_below_is_said, 0 },
		{ &load_maps_what_waits_and_goes_on, 0 },
		{ &load_under_way_ends_with_its_broker, 20 },
		{ &run_longer_than_its_keys_ends_the_connection, 0 },
		{ &entries_say_what_they_were_given, 0 },
		{ &bump_that_no_store_records_tells_the_epoch, 0 },
		{ NULL, 0 },
	};

	return suite_run("lib-tiers", cases);
}
