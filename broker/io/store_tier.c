/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Between the core and the store; see store_tier.h.
 *
 * A transfer, once the core has given it out, is with the store or is `held`: one at most, which
 * the store had no room for. A page is named to the store by its pieces, one a region, in the order
 * of the regions, whether it lies on a device or in an arena (mover/wire.h says how): so the store
 * does not know where a page came from, and may give it back to the other place.
 *
 * What went down from a device by its mover has a checksum already, the store's own kind: it is
 * handed on, and not made again.
 */

#include "broker/io/store_tier.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/io/log.h"
#include "broker/io/server.h"
#include "broker/io/tiers.h"
#include "broker/policy/admit.h"
#include "broker/store/store.h"

#define STORE_TIER_REPORTS 64u
#define STORE_TIER_HOT_NS (300ull * 1000) /* a read of a good drive takes a third of it */
#define STORE_TIER_PART 2u                /* of the store's pages are remembered by admission */

_Static_assert(STORE_PIECES_MAX >= KVB_REGIONS_MAX, "a page has a piece a region");

/* A namespace of the core, as the store knows it. */
struct tier_ns {
	bool known;
	uint16_t row; /* the store's; STORE_NS_NONE */
	uint16_t tenant;
	uint8_t digest[32];
	uint32_t bumps; /* on their way */
	int bump_error; /* of the last that failed */
};

struct store_tier {
	struct store *store;
	struct loop_source event;
	bool rung;
	unsigned held;  /* transfer that the store had no room for; CORE_NONE16 */
	uint32_t reads; /* that the store has */
	uint32_t writes;
	uint64_t read_ns;   /* when it was last given one, or ended one */
	char **slab;        /* by core slab: where it is mapped; NULL */
	struct tier_ns *ns; /* by core namespace */
	struct admit admit;
	uint64_t *admit_bits[2];
	struct log_limit limit;
};

/* ---- memory of pages ----------------------------------------------------------------------- */

static bool is_lower(const struct server *s, const struct core_space *space)
{
	return s->core.h->device[space->device].kind == CORE_KIND_ARENA;
}

/* The handles of a slab side by side, a region behind the other. */
static char *map_handles(const struct server *s, unsigned index, const struct core_space *space)
{
	unsigned n = 0;
	const int *fds = grants_slab_fds(s, index, &n);
	char *mem = mmap(NULL, space->slab_bytes, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		return NULL;
	for (unsigned i = 0; i < n; i++) {
		if (mmap(mem + i * space->handle_bytes, space->handle_bytes, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, fds[i], 0) != MAP_FAILED)
			continue;
		munmap(mem, space->slab_bytes);
		return NULL;
	}
	return mem;
}

/* Arenas are filled and stay as they are: it pays to register them. */
static char *map_piece(struct server *s, unsigned index, const struct core_space *space)
{
	uint64_t offset;
	int fd = tiers_slab_memory(s, index, &offset);
	char *mem = mmap(NULL, space->slab_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			 (off_t)offset);

	if (mem == MAP_FAILED)
		return NULL;
	(void)store_memory_add(s->store->store, mem, space->slab_bytes);
	return mem;
}

static char *slab_memory(struct server *s, unsigned index)
{
	struct store_tier *t = s->store;
	const struct core_space *space = &s->core.spaces[s->core.slabs[index].space];

	if (t->slab[index] || fault_fails("store-map"))
		return t->slab[index];
	t->slab[index] =
		is_lower(s, space) ? map_piece(s, index, space) : map_handles(s, index, space);
	if (t->slab[index])
		madvise(t->slab[index], space->slab_bytes, MADV_DONTDUMP);
	else if (log_limit_pass(&t->limit, s->now_ns, 10))
		log_warn("store: memory of pages cannot be mapped: %s (their copies fail)",
			 strerror(errno));
	return t->slab[index];
}

void store_tier_slab_close(struct server *s, unsigned index)
{
	struct store_tier *t = s->store;

	if (!t || !t->slab[index])
		return;
	store_memory_remove(t->store, t->slab[index]);
	munmap(t->slab[index], s->core.spaces[s->core.slabs[index].space].slab_bytes);
	t->slab[index] = NULL;
}

/*
 * The pieces of a page. How many; 0: its memory is not to be had. A slab is its regions one behind
 * the other; on a device whole handles each, in an arena as long as the strides of its pages.
 */
static uint32_t page_pieces(struct server *s, uint32_t page, struct iovec *ret)
{
	unsigned index = s->core.units[page / CORE_UNIT_PAGES];
	const struct core_slab *slab = &s->core.slabs[index];
	const struct core_space *space = &s->core.spaces[slab->space], *upper = space;
	uint64_t region_bytes = space->handles_per_region * space->handle_bytes;
	char *mem = slab_memory(s, index);

	if (!mem)
		return 0;
	if (is_lower(s, space)) {
		upper = &s->core.spaces[space->above];
		region_bytes = space->pages_per_slab * upper->stride_bytes;
	}
	for (uint32_t r = 0; r < upper->regions; r++)
		ret[r] = (struct iovec){
			.iov_base =
				mem + r * region_bytes + (page - slab->base) * upper->stride_bytes,
			.iov_len = upper->stride_bytes,
		};
	return upper->regions;
}

/* ---- keys ---------------------------------------------------------------------------------- */

static void make_place(const struct server *s, unsigned tenant, const uint8_t digest[32],
		       const struct core_space *space, struct store_place *ret)
{
	const struct core_tenant *t = &s->core.tenants[tenant];
	char domain[KVB_NAME_BYTES + 16];
	struct store_identity id = { .domain = domain };

	/* The next tenant of that name may be another user's. */
	snprintf(domain, sizeof(domain), "%s/%u", t->name, t->uid);
	memcpy(id.ns_digest, digest, sizeof(id.ns_digest));
	if (space) {
		id.regions = space->regions;
		id.stride_bytes = space->stride_bytes;
		id.tag = space->tag;
	}
	store_place_make(s->store->store, &id, ret);
}

/* False: the store has no row for the namespace. */
static bool make_key(const struct server *s, const struct core_key *key, struct store_key *ret)
{
	const struct tier_ns *ns = &s->store->ns[key->ns];
	struct store_place place;

	if (!ns->known || ns->row == STORE_NS_NONE)
		return false;
	make_place(s, ns->tenant, ns->digest, &s->core.spaces[key->space], &place);
	store_key_make(s->store->store, &place, ns->row, key->epoch, key->salt, key->hash.w, ret);
	return true;
}

/* ---- what the core asks -------------------------------------------------------------------- */

static bool store_tier_has(void *arg, const struct core_key *key)
{
	const struct server *s = arg;
	struct store_key k;

	return make_key(s, key, &k) && store_find(s->store->store, &k);
}

static bool store_tier_admit(void *arg, const struct core_page *page, const struct core_key *key)
{
	const struct server *s = arg;

	return admit_page(&s->store->admit, page, key);
}

static const struct core_store_ops store_tier_all = { .has = store_tier_has };
static const struct core_store_ops store_tier_filtered = { .has = store_tier_has,
							   .admit = store_tier_admit };

/* ---- namespaces ---------------------------------------------------------------------------- */

/*
 * Its row in the store. Two tenants may have namespaces of one digest, whose epochs are their own:
 * the row is of the digest mixed with what the store makes of the tenant, which nobody can know.
 */
static void ns_bind(struct server *s, unsigned index)
{
	const struct core_ns *ns = &s->core.namespaces[index];
	struct tier_ns *t = &s->store->ns[index];
	struct store_place place;
	uint8_t row[32];
	uint32_t epoch;

	*t = (struct tier_ns){ .known = true, .tenant = ns->tenant };
	memcpy(t->digest, ns->digest, sizeof(t->digest));
	make_place(s, ns->tenant, ns->digest, NULL, &place);
	memcpy(row, ns->digest, sizeof(row));
	for (unsigned i = 0; i < 8; i++)
		row[i] ^= (uint8_t)(place.half[0] >> (8 * i));
	t->row = store_ns_open(s->store->store, row, ns->epoch, &epoch);
	if (t->row != STORE_NS_NONE)
		core_ns_advance(&s->core, index, epoch);
	else if (log_limit_pass(&s->store->limit, s->now_ns, 10))
		log_warn("store: it knows as many namespaces as it can; pages of more are not "
			 "stored (kvb-store wipe empties it)");
}

void store_tier_ns_opened(struct server *s, unsigned index)
{
	const struct core_ns *ns = &s->core.namespaces[index];
	const struct tier_ns *t;

	if (!s->store)
		return;
	t = &s->store->ns[index];
	if (!t->known || t->tenant != ns->tenant ||
	    memcmp(t->digest, ns->digest, sizeof(t->digest)) != 0)
		ns_bind(s, index);
}

/* What a report is of: a transfer, or the bump of a namespace. */
#define USER_BUMP ((uintptr_t)1 << 16)

void store_tier_ns_bumped(struct server *s, unsigned index)
{
	struct tier_ns *t = s->store ? &s->store->ns[index] : NULL;

	if (!t || !t->known || t->row == STORE_NS_NONE)
		return;
	t->bumps++;
	t->bump_error = 0;
	store_bump(s->store->store, t->row, s->core.namespaces[index].epoch,
		   (void *)(USER_BUMP | index)); /* NOLINT(performance-no-int-to-ptr) */
}

int store_tier_ns_settled(const struct server *s, unsigned index)
{
	const struct tier_ns *t = s->store ? &s->store->ns[index] : NULL;

	if (!t)
		return 1;
	return t->bumps ? 0 : t->bump_error ? t->bump_error : 1;
}

/* ---- transfers ----------------------------------------------------------------------------- */

/* 0: the store has it, or what refused it. */
static int submit(struct server *s, unsigned index)
{
	struct store_tier *t = s->store;
	const bool up = s->core.transfers[index].direction == CORE_UP;
	void *user = (void *)(uintptr_t)index; /* NOLINT(performance-no-int-to-ptr) */
	struct iovec piece[KVB_REGIONS_MAX];
	struct store_key key;
	struct core_key k;
	uint32_t page = core_store_page(&s->core, index, &k);
	uint32_t n = page_pieces(s, page, piece);
	bool summed =
		is_lower(s, &s->core.spaces[s->core.slabs[s->core.units[page / CORE_UNIT_PAGES]]
						    .space]) &&
		s->cfg.mover_sums;
	int error;

	if (!n)
		return -ENOMEM;
	if (!make_key(s, &k, &key))
		return -ENOENT;
	if (up)
		error = store_get(t->store, &key, piece, n, 0, user);
	else
		error = store_put(t->store, &key, piece, n, summed ? &s->core.sums[page] : NULL,
				  user);
	if (error)
		return error;
	if (up)
		t->read_ns = s->now_ns;
	*(up ? &t->reads : &t->writes) += 1;
	return 0;
}

static void transfer_end(struct server *s, unsigned index, int error, uint32_t sum)
{
	core_transfer_done(&s->core, index, error, sum);
	s->parked_look_ns = s->now_ns; /* whoever waits for it is looked at now */
}

static bool submit_all(struct server *s)
{
	struct store_tier *t = s->store;
	bool did = false;

	while (t->held != CORE_NONE16 ||
	       (t->held = core_next_store_transfer(&s->core)) != CORE_NONE16) {
		unsigned index = t->held;
		int error = submit(s, index);

		if (error == -EAGAIN)
			break;
		t->held = CORE_NONE16;
		did = true;
		if (error)
			transfer_end(s, index, error, 0);
	}
	return did;
}

static void bump_done(struct server *s, unsigned index, int status)
{
	struct tier_ns *t = &s->store->ns[index];

	if (t->bumps) /* else it is another one's by now */
		t->bumps--;
	if (status) {
		t->bump_error = -EIO;
		log_error("store: an epoch's end could not be written: %s (after a restart what it "
			  "ended may be found again; wipe the store, or bump again)",
			  strerror(-status));
	}
	s->parked_look_ns = s->now_ns;
}

static void done(struct server *s, const struct store_done *d)
{
	struct store_tier *t = s->store;
	const uintptr_t user = (uintptr_t)d->user;

	if (d->kind == STORE_DONE_BUMP) {
		bump_done(s, (unsigned)(user & ~USER_BUMP), d->status);
		return;
	}
	if (d->kind == STORE_DONE_GET)
		t->read_ns = s->now_ns;
	*(d->kind == STORE_DONE_GET ? &t->reads : &t->writes) -= 1;
	transfer_end(s, (unsigned)user, d->status, d->crc);
}

bool store_tier_turn(struct server *s)
{
	struct store_done reports[STORE_TIER_REPORTS];
	struct store_tier *t = s->store;
	uint32_t n, all = 0;
	bool did;

	if (!t)
		return false;
	did = submit_all(s);
	if (!did && !t->rung && !store_pending(t->store) && s->now_ns < store_next_ns(t->store))
		return false;
	t->rung = false;
	n = store_poll(t->store, s->now_ns, reports, STORE_TIER_REPORTS);
	for (uint32_t i = 0; i < n; i++)
		done(s, &reports[i]);
	all += n;
	return did || all || store_pending(t->store);
}

bool store_tier_hot(const struct server *s)
{
	return s->store && s->store->reads && s->now_ns - s->store->read_ns < STORE_TIER_HOT_NS;
}

uint64_t store_tier_next_ns(const struct server *s)
{
	return s->store ? store_next_ns(s->store->store) : UINT64_MAX;
}

/* The count of it is nothing that anybody reads; but while it is not zero the loop is woken. */
static void event_ready(struct loop_source *source, uint32_t events)
{
	struct store_tier *t =
		(struct store_tier *)((char *)source - offsetof(struct store_tier, event));
	uint64_t count;

	(void)!read(source->fd, &count, sizeof(count));
	t->rung = true;
}

/* ---- life ---------------------------------------------------------------------------------- */

static void opening(void *arg, uint64_t read, uint64_t total)
{
	struct server *s = arg;
	uint64_t now_ns = server_clock_ns();

	if (now_ns - s->now_ns < 1000000000ull)
		return;
	s->now_ns = now_ns;
	log_info("store: reading what is there: %llu of %llu segments", (unsigned long long)read,
		 (unsigned long long)total);
}

static int open_store(struct server *s)
{
	struct store_cfg cfg = {
		.parts = s->cfg.stores,
		.progress = opening,
		.arg = s,
	};
	char why[512] = "";
	int error;

	for (unsigned i = 0; i < s->cfg.stores; i++)
		cfg.part[i] =
			(struct store_part_cfg){ s->cfg.store[i].path, s->cfg.store[i].bytes };
	error = fault_point("store");
	if (error == 0)
		error = store_open(&cfg, &s->store->store, why, sizeof(why));
	if (error)
		log_error("store: %s", why[0] ? why : strerror(-error));
	return error;
}

static void say_open(const struct server *s)
{
	struct store_stats st;

	store_stats(s->store->store, &st);
	if (st.reset)
		log_warn("store: no two superblocks of a part agreed: it is taken for empty");
	log_info("store: %u parts of %s together by %s, %llu pages found in %llu ms, %s is written",
		 st.parts, core_size(st.bytes).text, st.engine, (unsigned long long)st.pages,
		 (unsigned long long)(st.recovery_ns / 1000000),
		 s->cfg.store_admit ? "what was wanted twice" : "whatever goes");
}

static int make_filter(struct server *s)
{
	struct store_tier *t = s->store;
	struct store_stats st;
	uint64_t pages;
	uint32_t keys;

	store_stats(t->store, &st);
	pages = st.pages_max / STORE_TIER_PART;
	keys = pages < ADMIT_KEYS_MAX ? (uint32_t)pages : ADMIT_KEYS_MAX;
	for (unsigned i = 0; i < 2; i++) {
		t->admit_bits[i] = fault_calloc("store", admit_words(keys), sizeof(uint64_t));
		if (!t->admit_bits[i])
			return -ENOMEM;
	}
	admit_init(&t->admit, keys, t->admit_bits[0], t->admit_bits[1]);
	return 0;
}

int store_tier_new(struct server *s)
{
	const struct core_limits *limits = &s->core.h->limits;
	struct store_tier *t;
	int error;

	if (!s->cfg.stores)
		return 0;
	s->store = t = fault_calloc("store", 1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->event = LOOP_SOURCE_NULL;
	t->held = CORE_NONE16;
	t->slab = fault_calloc("store", limits->slabs, sizeof(*t->slab));
	t->ns = fault_calloc("store", limits->namespaces, sizeof(*t->ns));
	error = t->slab && t->ns ? open_store(s) : -ENOMEM;
	if (error == 0 && s->cfg.store_admit)
		error = make_filter(s);
	if (error == 0)
		error = loop_add(s->loop, &t->event, store_event(t->store), LOOP_IN, event_ready);
	if (error)
		return error;
	say_open(s);
	core_store_attach(&s->core, s->cfg.store_admit ? &store_tier_filtered : &store_tier_all, s);
	return 0;
}

void store_tier_free(struct server *s)
{
	struct store_tier *t = s->store;

	if (!t)
		return;
	loop_del(s->loop, &t->event);
	t->store = store_close(t->store);
	for (uint32_t i = 0; t->slab && i < s->core.h->limits.slabs; i++) {
		if (t->slab[i])
			munmap(t->slab[i], s->core.spaces[s->core.slabs[i].space].slab_bytes);
	}
	free(t->admit_bits[0]);
	free(t->admit_bits[1]);
	free(t->slab);
	free(t->ns);
	free(t);
	s->store = NULL;
}

bool store_tier_get_stats(const struct server *s, struct store_stats *ret)
{
	if (!s->store)
		return false;
	store_stats(s->store->store, ret);
	return true;
}
