/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Trust domains (I2) and faults 52, 85, 93 to 95: nothing of one tenant reaches another, neither by
 * key nor by memory, though the attacker keeps every fd and every mapping it ever had.
 *
 * The memory tests use a device so small that the second tenant can only get what the first had.
 */

#include "tests/proto/harness.h"
#include "tests/proto/raw.h"
#include "tests/unit/suite.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define STRIDE 65536u
#define SLAB_PAGES 32u

/* ---- keys ---------------------------------------------------------------------------------- */

static void attach_all(struct raw *r, const struct broker *b, const char *tenant)
{
	raw_attach(r, b, tenant, NULL);
	raw_space(r, STRIDE, 1);
	raw_ns(r, 1, 0);
	ck_assert_int_eq(raw_grow(r, 1, 5000), 1);
}

static void fill_and_seal(struct raw *r, unsigned char byte, uint64_t first, kvb_page_t *pages)
{
	ck_assert_int_eq(raw_alloc(r, 4, pages), 4);
	for (unsigned i = 0; i < 4; i++)
		memset(raw_page(r, pages[i]), byte, STRIDE);
	ck_assert_int_eq(raw_seal(r, 4, pages, first, pages), 4);
}

static bool all_bytes(const void *mem, unsigned char byte, size_t bytes)
{
	const unsigned char *at = mem;

	for (size_t i = 0; i < bytes; i++) {
		if (at[i] != byte)
			return false;
	}
	return true;
}

static void same_keys(void *arg)
{
	kvb_page_t mine[4], theirs[4], again[4];
	const struct broker *b = arg;
	struct raw a, c, x;

	attach_all(&a, b, "default");
	fill_and_seal(&a, 0xaa, 0, mine);
	attach_all(&c, b, "default");
	ck_assert_int_eq(raw_lookup(&c, 4, 0, again), 4); /* the control: its own domain hits */
	attach_all(&x, b, "other");
	ck_assert_int_eq(raw_lookup(&x, 4, 0, again), 0);
	ck_assert_uint_eq(x.ns.epoch, a.ns.epoch);
	/* Wrong bytes under the victim's keys: in the liar's namespace only. */
	fill_and_seal(&x, 0x66, 0, theirs);
	ck_assert_int_eq(raw_lookup(&x, 4, 0, again), 4);
	ck_assert_int_eq(raw_lookup(&c, 4, 0, again), 4);
	for (unsigned i = 0; i < 4; i++)
		ck_assert(all_bytes(raw_page(&c, again[i]), 0xaa, STRIDE));
	raw_leave(&a);
	raw_leave(&c);
	raw_leave(&x);
}

START_TEST(fault_093_keys_of_another_domain)
{
	struct scene s;

	scene_open(&s, OPTIONS());
	child_join(child_start(same_keys, &s.b));
	scene_close(&s);
}
END_TEST

static const struct stats_tenant *tenant_stats(const struct broker *b, const char *name)
{
	const struct stats_segment *st = broker_stats(b);

	for (uint32_t i = 0; i < st->tenants_n; i++) {
		if (strcmp(st->tenant[i].name, name) == 0)
			return &st->tenant[i];
	}
	ck_abort_msg("there is no tenant %s", name);
}

/* What a client can see of itself, and what is counted for its tenant, is its own doing. */
START_TEST(fault_094_counters_of_a_domain)
{
	const struct stats_tenant *t;
	kvb_page_t pages[4];
	struct raw a, x;
	struct scene s;
	uint64_t keys;

	scene_open(&s, OPTIONS());
	attach_all(&x, &s.b, "other");
	attach_all(&a, &s.b, "default");
	fill_and_seal(&a, 1, 0, pages);
	keys = tenant_stats(&s.b, "default")->lookup_keys;
	for (unsigned i = 0; i < 10; i++)
		raw_lookup(&a, 4, 0, pages);
	ck_assert_uint_eq(tenant_stats(&s.b, "default")->lookup_keys, keys + 40);
	t = tenant_stats(&s.b, "other");
	ck_assert(!t->lookups && !t->lookup_keys && !t->lookup_hits && !t->seals && !t->leases);
	ck_assert_uint_eq(raw_ctl(&x)->leases, 0);
	raw_leave(&a);
	raw_leave(&x);
	scene_close(&s);
}
END_TEST

/* Keys that differ from a sealed one in one bit of hash, salt or namespace. */
static void near_keys(void *arg)
{
	struct kvb_sqe sqe = { .opcode = KVB_OP_LOOKUP, .count = 1 };
	struct kvb_hash *hash;
	kvb_page_t pages[4];
	struct raw r;

	attach_all(&r, arg, "other");
	fill_and_seal(&r, 1, 0, pages);
	hash = raw_operand(&r, 0);
	sqe.space = (uint16_t)r.geo.space;
	sqe.ns = (uint16_t)r.ns.ns;
	*hash = raw_hash(0);
	ck_assert_int_eq(raw_call(&r, &sqe).res, 1);
	for (unsigned bit = 0; bit < 128; bit++) {
		*hash = raw_hash(0);
		hash->w[bit / 64] ^= 1ull << bit % 64;
		ck_assert_int_eq(raw_call(&r, &sqe).res, 0);
	}
	*hash = raw_hash(0);
	for (unsigned bit = 0; bit < 64; bit++) {
		sqe.salt = 1ull << bit;
		ck_assert_int_eq(raw_call(&r, &sqe).res, 0);
	}
	raw_ns(&r, 2, 0);
	sqe.salt = 0;
	sqe.ns = (uint16_t)r.ns.ns;
	*hash = raw_hash(0);
	ck_assert_int_eq(raw_call(&r, &sqe).res, 0);
	raw_leave(&r);
}

START_TEST(fault_095_keys_nearly_the_same)
{
	struct scene s;

	scene_open(&s, OPTIONS());
	child_join(child_start(near_keys, &s.b));
	scene_close(&s);
}
END_TEST

/* ---- memory -------------------------------------------------------------------------------- */

/* Grows until the device has no more; how many slabs. */
static uint32_t grow_all(struct raw *r)
{
	uint32_t n = 0;

	while (raw_grow(r, 1, 0) == 1)
		n++;
	return n;
}

static void write_all(struct raw *r, unsigned char byte)
{
	for (unsigned slot = 0; slot < RAW_SLOTS_MAX; slot++) {
		if (r->slab_fd[slot] >= 0)
			memset(r->base + slot * r->geo.handle_bytes, byte, r->geo.handle_bytes);
	}
}

static unsigned slabs_of_bytes(struct raw *r, unsigned char byte)
{
	unsigned n = 0;

	for (unsigned slot = 0; slot < RAW_SLOTS_MAX; slot++) {
		if (r->slab_fd[slot] >= 0)
			n += all_bytes(r->base + slot * r->geo.handle_bytes, byte,
				       r->geo.handle_bytes);
	}
	return n;
}

/* Answers every revocation, though fds and mappings stay. */
static void give_back_on_paper(struct raw *r)
{
	raw_poll(r);
	while (r->revokes) {
		struct kvb_sqe ack = { .opcode = KVB_OP_RECLAIM_ACK,
				       .space = (uint16_t)r->geo.space,
				       .arg = r->revoked[--r->revokes] };

		ck_assert_int_eq(raw_call(r, &ack).res, 0);
	}
}

static void shrink(struct raw *r, uint32_t slabs)
{
	struct kvb_sqe sqe = { .opcode = KVB_OP_SPACE_SHRINK,
			       .space = (uint16_t)r->geo.space,
			       .count = slabs };

	/* Fewer where the other's asking has started a revocation before. */
	ck_assert_int_ge(raw_call(r, &sqe).res, 1);
}

static const char *const small[] = { "--device", "host:0=16M", "--revoke-grace", "200", NULL };

/* The new owner sees zeros and keeps its bytes; the old one sees nothing of them. */
static void look_through_old_eyes(struct raw *old, struct raw *fresh, uint32_t slabs)
{
	ck_assert_uint_eq(slabs_of_bytes(fresh, 0), slabs);
	write_all(fresh, 0x5e);
	ck_assert_uint_eq(slabs_of_bytes(old, 0x5e), 0);
	for (unsigned slot = 0; slot < RAW_SLOTS_MAX; slot++) {
		unsigned char byte = 0;

		if (old->slab_fd[slot] < 0)
			continue;
		/* By mapping, by fd, by a new mapping of the fd, and by holes. */
		ck_assert_int_eq(pread(old->slab_fd[slot], &byte, 1, 4097), 1);
		ck_assert_uint_ne(byte, 0x5e);
		ck_assert_int_eq(pwrite(old->slab_fd[slot], "!", 1, 4097), 1);
		fallocate(old->slab_fd[slot], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			  (off_t)old->geo.handle_bytes);
	}
	write_all(old, 0x01);
	ck_assert_uint_eq(slabs_of_bytes(fresh, 0x5e), slabs);
}

/* Revoked and granted anew, while the first tenant keeps all it had. */
static void revoked_and_regranted(void *arg)
{
	struct raw old, fresh;
	uint32_t slabs;

	raw_attach(&old, arg, "other", NULL);
	raw_space(&old, STRIDE, 1);
	slabs = grow_all(&old);
	ck_assert_uint_gt(slabs, 4);
	write_all(&old, 0xaa);
	ck_assert_uint_eq(slabs_of_bytes(&old, 0xaa), slabs);
	raw_attach(&fresh, arg, "default", NULL);
	raw_space(&fresh, STRIDE, 1);
	ck_assert_int_le(raw_grow(&fresh, 1, 0), 0); /* the control: there is none beside it */
	shrink(&old, slabs);
	EVENTUALLY((give_back_on_paper(&old), raw_grow(&fresh, 1, 50) == 1));
	EVENTUALLY((give_back_on_paper(&old), raw_grow(&fresh, 1, 50) == 1));
	EVENTUALLY((give_back_on_paper(&old), raw_grow(&fresh, 1, 50) == 1));
	look_through_old_eyes(&old, &fresh, 3);
	raw_leave(&fresh);
}

START_TEST(i2_old_fds_and_mappings_after_revocation)
{
	struct scene s;

	scene_open(&s, small);
	child_join(child_start(revoked_and_regranted, &s.b));
	scene_close(&s);
}
END_TEST

/* The space closes and its client says goodbye, and lies: it has unmapped nothing. */
static void goodbye_and_stay(void *arg)
{
	const struct kvb_msg_header bye = { .magic = KVB_MAGIC,
					    .type = KVB_MSG_BYE,
					    .length = sizeof(bye) };
	kvb_page_t pages[SLAB_PAGES];
	struct raw old, fresh;
	uint32_t slabs;

	raw_attach(&old, arg, "other", NULL);
	raw_space(&old, STRIDE, 1);
	slabs = grow_all(&old);
	write_all(&old, 0xaa);
	ck_assert_int_eq(raw_alloc(&old, SLAB_PAGES, pages), SLAB_PAGES);
	ck_assert_int_eq(raw_send(old.sock, &bye, sizeof(bye), NULL, 0), 0);
	raw_wait_end(dup(old.sock));
	raw_attach(&fresh, arg, "default", NULL);
	raw_space(&fresh, STRIDE, 1);
	for (uint32_t i = 0; i < slabs; i++)
		ck_assert_int_eq(raw_grow(&fresh, 1, 10000), 1);
	look_through_old_eyes(&old, &fresh, slabs);
	raw_leave(&fresh);
}

START_TEST(i2_goodbye_that_is_a_lie)
{
	struct scene s;

	scene_open(&s, small);
	child_join(child_start(goodbye_and_stay, &s.b));
	scene_close(&s);
}
END_TEST

struct stay {
	const struct broker *b;
	int pipe[2];
};

static void disconnect_and_stay(void *arg)
{
	struct stay *t = arg;
	kvb_page_t pages[512];
	struct raw old;
	uint32_t slabs;

	raw_attach(&old, t->b, "other", NULL);
	raw_space(&old, STRIDE, 1);
	slabs = grow_all(&old);
	write_all(&old, 0xaa);
	ck_assert_int_eq(raw_alloc(&old, slabs * SLAB_PAGES, pages), (int)(slabs * SLAB_PAGES));
	close(old.sock);
	ck_assert_int_eq(write(t->pipe[1], &slabs, sizeof(slabs)), sizeof(slabs));
	for (;;) {
		write_all(&old, 0xab);
		sleep_ms(1);
	}
}

/* Gone from the socket, alive and writing: its memory is nobody's until it is dead. */
START_TEST(fault_085_memory_of_one_that_left_alive)
{
	struct scene s;
	struct stay t;
	struct raw fresh;
	uint32_t slabs;
	pid_t pid;

	scene_open(&s, small);
	t.b = &s.b;
	ck_assert_int_eq(pipe(t.pipe), 0);
	pid = child_start(disconnect_and_stay, &t);
	ck_assert_int_eq(read(t.pipe[0], &slabs, sizeof(slabs)), sizeof(slabs));
	raw_attach(&fresh, &s.b, "other", NULL);
	raw_space(&fresh, STRIDE, 2);
	ck_assert_int_le(raw_grow(&fresh, 1, 600), 0);
	bystander_cycle(&s.by);
	child_kill(pid);
	EVENTUALLY(raw_grow(&fresh, 1, 100) == 1);
	ck_assert_uint_eq(slabs_of_bytes(&fresh, 0), 1);
	raw_leave(&fresh);
	scene_close(&s);
}
END_TEST

static void fill_and_die(void *arg)
{
	struct raw r;

	raw_attach(&r, arg, "other", NULL);
	raw_space(&r, STRIDE, 1);
	grow_all(&r);
	write_all(&r, 0xaa);
}

START_TEST(fault_052_fresh_memory_is_zero)
{
	struct raw fresh;
	struct scene s;
	uint32_t n;

	scene_open(&s, small);
	child_join(child_start(fill_and_die, &s.b));
	EVENTUALLY(broker_stats(&s.b)->clients_n == 1);
	raw_attach(&fresh, &s.b, "default", NULL);
	raw_space(&fresh, STRIDE, 1);
	for (n = 0; n < 5; n++)
		EVENTUALLY(raw_grow(&fresh, 1, 1000) == 1);
	ck_assert_uint_eq(slabs_of_bytes(&fresh, 0), n);
	raw_leave(&fresh);
	scene_close(&s);
}
END_TEST

#define CASE(name)                                                                                 \
	{                                                                                          \
		&name, 90                                                                          \
	}

int main(void)
{
	static const struct suite_case cases[] = {
		CASE(fault_052_fresh_memory_is_zero),
		CASE(fault_085_memory_of_one_that_left_alive),
		CASE(fault_093_keys_of_another_domain),
		CASE(fault_094_counters_of_a_domain),
		CASE(fault_095_keys_nearly_the_same),
		CASE(i2_old_fds_and_mappings_after_revocation),
		CASE(i2_goodbye_that_is_a_lie),
		{ NULL, 0 },
	};

	return suite_run("domains", cases);
}
