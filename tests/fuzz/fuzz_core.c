/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Any bytes as a client's requests: every argument that a client writes, fed to the core raw.
 *
 * The world is fixed: two clients of one tenant in one space with three slabs of eight pages, the
 * last not mapped by the second client, above an arena of two slabs. The input is the mover too: it
 * says when a transfer ends and how. An input is a run of records: one byte that picks client
 * and operation, one that gives the count, then operands as they come. Page names that a call
 * returned can be named again by number, or no input would ever get beyond -ENOENT. At the end the
 * tables must be whole and no batch may have done more than it was asked.
 */

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/core.h"
#include "broker/policy/policy.h"

#define BATCH 16u
#define SLABS 3u
#define TRANSFERS 4u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const struct core_limits limits = {
	.pages = 512,
	.leases = 24,
	.slabs = 8,
	.spaces = 2,
	.transfers = TRANSFERS,
	.clients = 2,
	.members = 4,
	.tenants = 1,
	.namespaces = 2,
};

struct input {
	const uint8_t *at;
	size_t left;
};

struct fuzz {
	struct core c;
	struct core_member *member[2];
	kvb_page_t names[256];
	uint8_t names_n;
	unsigned flight[TRANSFERS]; /* given out and not ended */
	unsigned flights;
	struct input in;
};

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "broken: %s\n", #cond);                                    \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static void take(struct input *in, void *to, size_t bytes)
{
	size_t n = bytes < in->left ? bytes : in->left;

	memset(to, 0, bytes);
	memcpy(to, in->at, n);
	in->at += n;
	in->left -= n;
}

static uint8_t take_byte(struct input *in)
{
	uint8_t byte;

	take(in, &byte, 1);
	return byte;
}

/* A page name: one seen before, or eight bytes of the input. */
static kvb_page_t take_name(struct fuzz *f)
{
	uint8_t i = take_byte(&f->in);
	kvb_page_t name;

	if (i != 0xff)
		return f->names[i];
	take(&f->in, &name, sizeof(name));
	return name;
}

static void start(struct fuzz *f, void *mem)
{
	static const uint64_t secret[4] = { 1, 2, 3, 4 };
	struct core_tenant_spec tenant = { .name = "t",
					   .device = -1,
					   .high_bytes = UINT64_MAX,
					   .max_bytes = UINT64_MAX,
					   .weight = 1 };
	struct kvb_ns_open open = { .flags = KVB_NS_ADMIN };
	struct kvb_ns_info info;
	char why[128];

	core_init(&f->c, mem, &limits, secret, 1, &policy_lru);
	core_set_time(&f->c, 1000000000);
	MUST(core_device_add(&f->c, KVB_DEVICE_HOST, 0, "host:0", SLABS * (2ull << 20), 2 << 20) ==
	     0);
	MUST(core_arena_add(&f->c, 0, 2 * (2ull << 20), 2 << 20) == 1);
	core_device_below(&f->c, 0, 1);
	core_device_below_ready(&f->c, 0, true);
	MUST(core_tenant_set(&f->c, &tenant, false, why, sizeof(why)) == 0);
	for (unsigned i = 0; i < 2; i++) {
		MUST(core_client_open(&f->c, 0, 0, 1, "c") == (int)i);
		MUST(core_space_open(&f->c, i,
				     &(struct core_space_spec){ .kind = KVB_DEVICE_HOST,
								.regions = 1,
								.stride_bytes = 256 << 10 }) == 0);
		f->member[i] = core_member_get(&f->c, i, 0);
		MUST(core_ns_open(&f->c, i, &open, &info) == 0);
	}
	MUST(core_space_grow(&f->c, f->member[0], SLABS, NULL) == (int)SLABS);
	for (unsigned slab; (slab = core_next_slab(&f->c)) != CORE_NONE16;)
		core_slab_created(&f->c, slab);
	for (unsigned slot = 0; slot < SLABS; slot++) {
		for (unsigned i = 0; i < 2; i++) {
			core_grant_sent(&f->c, f->member[i], slot);
			if (!i || slot + 1 < SLABS)
				core_grant_acked(&f->c, f->member[i], slot, true);
		}
	}
}

/* The devices make and take back what they are asked for. */
static void serve(struct fuzz *f)
{
	for (unsigned slab; (slab = core_next_slab(&f->c)) != CORE_NONE16;) {
		if (f->c.slabs[slab].state == CORE_SLAB_CREATING)
			core_slab_created(&f->c, slab);
		else
			core_slab_closed(&f->c, slab);
	}
}

/* Takes what is queued and ends up to n transfers, in an order and with errors of the input. */
static void move(struct fuzz *f, uint32_t n, uint64_t arg)
{
	static const int errors[] = { 0, 0, -EIO, -EBADMSG };

	for (unsigned t; (t = core_next_transfer(&f->c, 0)) != CORE_NONE16;) {
		MUST(f->flights < TRANSFERS);
		f->flight[f->flights++] = t;
	}
	for (; n && f->flights; n--, arg >>= 4) {
		unsigned at = (arg >> 2 & 3) % f->flights, t = f->flight[at];

		f->flight[at] = f->flight[--f->flights];
		core_transfer_done(&f->c, t, errors[arg & 3], t);
	}
}

static void expect_whole(struct fuzz *f)
{
	char why[256] = "";

	if (core_check(&f->c, why, sizeof(why))) {
		fprintf(stderr, "core_check: %s\n", why);
		abort();
	}
}

static void step(struct fuzz *f)
{
	uint8_t what = take_byte(&f->in), n = take_byte(&f->in) % (BATCH + 1);
	struct core_member *m = f->member[what & 1];
	struct core_batch b = { .done = 0 };
	struct kvb_seal seal[BATCH];
	kvb_page_t page[BATCH], ret[BATCH];
	struct kvb_hash hash[BATCH];
	struct core_lookup lk = { .ns = 0 };
	uint64_t arg;
	uint32_t busy;
	bool failed;

	take(&f->in, &arg, sizeof(arg));
	for (unsigned i = 0; i < n; i++) {
		page[i] = take_name(f);
		hash[i] = (struct kvb_hash){ { take_byte(&f->in), 0 } };
		seal[i] = (struct kvb_seal){ .page = page[i],
					     .hash = hash[i],
					     .depth = (uint32_t)arg };
	}
	memset(ret, 0, sizeof(ret));
	switch ((what >> 1 & 0x3f) % 16) {
	case 0:
		b = core_alloc(&f->c, m, n,
			       (what & 0x80 ? KVB_ALLOC_MAGAZINE : 0) |
				       (what & 0x40 ? KVB_ALLOC_DROP : 0),
			       ret);
		break;
	case 1:
		b = core_free(&f->c, m, page, n);
		break;
	case 2:
		b = core_seal(&f->c, m, 0, arg & 7, arg >> 60, seal, n, ret);
		break;
	case 3:
		lk.salt = arg >> 60;
		lk.all = arg & 1;
		lk.tiers = !lk.all && arg & 2;
		b = core_lookup(&f->c, m, &lk, hash, n, ret);
		MUST(lk.lead <= b.done);
		break;
	case 4:
		b = core_release(&f->c, m, page, n);
		break;
	case 5:
		b = core_pin(&f->c, m, page, n, what & 0x80);
		break;
	case 6:
		b = core_hint(&f->c, m, page, n, arg);
		break;
	case 7:
		(void)core_reclaim_ack(&f->c, m, arg, &busy);
		break;
	case 8:
		(void)core_epoch_bump(&f->c, what & 1, (uint32_t)arg, &arg);
		core_set_time(&f->c, f->c.now_ns + (arg & 0xffffffff));
		(void)core_work(&f->c, n);
		break;
	case 9:
		(void)core_space_shrink(&f->c, arg >> 1 & 1, arg & 1, arg >> 8);
		(void)core_work(&f->c, n);
		break;
	case 10:
		lk.salt = arg >> 60;
		b = core_load(&f->c, m, &lk, hash, n, ret);
		MUST(lk.lead <= b.done);
		break;
	case 11:
		lk.salt = arg >> 60;
		b = core_prefetch(&f->c, m, &lk, hash, n);
		break;
	case 12:
		b = core_store(&f->c, m, page, n);
		break;
	case 13:
		(void)core_load_arrived(&f->c, m, page, n, &failed);
		break;
	case 14:
		core_device_below_ready(&f->c, 0, arg & 3);
		serve(f);
		break;
	default:
		serve(f);
		move(f, n, arg);
		expect_whole(f);
		break;
	}
	MUST(b.done <= n);
	for (uint32_t i = 0; i < b.done; i++) {
		if (ret[i])
			f->names[f->names_n++] = ret[i];
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	uint64_t need = core_bytes(&limits);
	void *mem = aligned_alloc(4096, need);
	struct fuzz *f = calloc(1, sizeof(*f));

	MUST(mem && f);
	memset(mem, 0, need);
	f->in = (struct input){ data, bytes };
	start(f, mem);
	while (f->in.left)
		step(f);
	expect_whole(f);
	free(f);
	free(mem);
	return 0;
}
