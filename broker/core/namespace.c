/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Namespaces: what cached bytes are bytes of, and in which version.
 *
 * A namespace belongs to a tenant and is named by a digest. Its epoch is part of every key, so a
 * bump makes all its pages unreachable at once: one increment, which cannot fail (I6). The pages
 * themselves go when they are evicted, when their last lease ends, or when the sweep that a bump
 * starts (work.c) comes by.
 */

#include "broker/core/internal.h"

static int ns_find(const struct core *c, unsigned tenant, const uint8_t digest[32])
{
	for (unsigned i = 0; i < c->h->limits.namespaces; i++) {
		const struct core_ns *ns = &c->namespaces[i];

		if (ns->used && ns->tenant == tenant &&
		    !memcmp(ns->digest, digest, sizeof(ns->digest)))
			return (int)i;
	}
	return -ENOENT;
}

/* A record nobody uses: never used, else the one longest unused that has no page and no client.
 * -ENOSPC: there is none, or the tenant has its share. */
static int ns_take(struct core *c, unsigned tenant)
{
	uint32_t used = 0, mine = 0;
	int best = -ENOSPC;

	for (unsigned i = 0; i < c->h->limits.namespaces; i++) {
		const struct core_ns *ns = &c->namespaces[i];

		if (ns->used && (ns->refs || ns->pages)) {
			used++;
			mine += ns->tenant == tenant;
		} else if (best < 0 || (c->namespaces[best].used &&
					(!ns->used || ns->used_ns < c->namespaces[best].used_ns))) {
			best = (int)i;
		}
	}
	return core_share_fits(c, mine, used, c->h->limits.namespaces) ? best : -ENOSPC;
}

void core_ns_remove(struct core *c, unsigned index)
{
	struct core_ns *ns = &c->namespaces[index];

	assert(ns->used && !ns->refs && !ns->pages);
	if (ns->epoch > c->h->epoch_floor)
		c->h->epoch_floor = ns->epoch;
	ns->used = 0;
}

/* Its first epoch is later than any of a namespace that is gone, which may have been this one: who
 * remembers an epoch from then cannot take it for one of now. */
static int ns_create(struct core *c, unsigned tenant, const uint8_t digest[32])
{
	int i = ns_take(c, tenant);
	struct core_ns *ns;

	if (i < 0)
		return i;
	ns = &c->namespaces[i];
	if (ns->used)
		core_ns_remove(c, (unsigned)i);
	memset(ns, 0, sizeof(*ns));
	ns->used = 1;
	ns->tenant = (uint16_t)tenant;
	ns->epoch = c->h->epoch_floor + 1;
	memcpy(ns->digest, digest, sizeof(ns->digest));
	return i;
}

int core_ns_open(struct core *c, unsigned client, const struct kvb_ns_open *open,
		 struct kvb_ns_info *ret)
{
	struct core_client *cl = &c->clients[client];
	int handle = -ENOSPC, i;

	if (open->flags & ~KVB_NS_ADMIN || open->resv)
		return -EINVAL;
	i = ns_find(c, cl->tenant, open->digest);
	for (int h = KVB_NS_MAX - 1; h >= 0; h--) {
		if (i >= 0 && cl->ns[h].ns == i) {
			handle = h;
			break;
		}
		if (cl->ns[h].ns == CORE_NONE16)
			handle = h;
	}
	if (handle < 0)
		return handle;
	if (i < 0)
		i = ns_create(c, cl->tenant, open->digest);
	if (i < 0)
		return i;

	if (cl->ns[handle].ns == CORE_NONE16) {
		cl->ns[handle].ns = (uint16_t)i;
		cl->ns[handle].flags = 0;
		c->namespaces[i].refs++;
	}
	cl->ns[handle].flags |= (uint16_t)open->flags;
	c->namespaces[i].used_ns = c->now_ns;
	ret->ns = (uint32_t)handle;
	ret->flags = cl->ns[handle].flags;
	ret->epoch = c->namespaces[i].epoch;
	return 0;
}

int core_ns_get(const struct core *c, unsigned client, uint32_t handle)
{
	const struct core_client *cl = &c->clients[client];

	if (handle >= KVB_NS_MAX || cl->ns[handle].ns == CORE_NONE16)
		return -ENOENT;
	return cl->ns[handle].ns;
}

int core_epoch_bump(struct core *c, unsigned client, uint32_t handle, uint64_t *ret_epoch)
{
	int ns = core_ns_get(c, client, handle);

	if (ns < 0)
		return ns;
	if (!(c->clients[client].ns[handle].flags & KVB_NS_ADMIN))
		return -EPERM;
	core_ns_bump(c, (unsigned)ns);
	*ret_epoch = c->namespaces[ns].epoch;
	return 0;
}

static void ns_set_epoch(struct core *c, struct core_ns *ns, uint32_t epoch)
{
	ns->epoch = epoch;
	c->h->pages_stale += ns->pages_current;
	ns->pages_current = 0;
	c->h->sweep_left = c->h->units_high * CORE_UNIT_PAGES;
}

void core_ns_bump(struct core *c, unsigned ns)
{
	assert(c->namespaces[ns].used);
	ns_set_epoch(c, &c->namespaces[ns], c->namespaces[ns].epoch + 1);
}

void core_ns_advance(struct core *c, unsigned ns, uint32_t epoch)
{
	assert(c->namespaces[ns].used);
	if (epoch > c->namespaces[ns].epoch)
		ns_set_epoch(c, &c->namespaces[ns], epoch);
}
