/* SPDX-License-Identifier: Apache-2.0 */

/* The index of a store; see index.h. */

#include "broker/store/index.h"

#include <string.h>

#define HOT (1u << 20)
#define MORE_SHIFT 21
#define MORE_BITS 11
#define SEGMENT_MASK (INDEX_SEGMENTS_MAX - 1)

static uint64_t table_entries(uint64_t pages_max)
{
	return pages_max * INDEX_FILL_DEN / INDEX_FILL_NUM + 16;
}

uint64_t index_table_bytes(uint64_t pages_max)
{
	return table_entries(pages_max) * sizeof(struct index_entry);
}

void index_table_init(struct store_index *x, void *mem, uint64_t pages_max)
{
	*x = (struct store_index){ .entry = mem,
				   .entries = table_entries(pages_max),
				   .used_max = pages_max };
}

/* The high bits choose the place, so that the order of places is the order of tags. */
static uint64_t home_of(const struct store_index *x, uint64_t tag)
{
	return (uint64_t)(((unsigned __int128)tag * x->entries) >> 64);
}

static uint64_t tag_of(const struct index_entry *e)
{
	return (uint64_t)e->tag[1] << 32 | e->tag[0];
}

static uint32_t more_of(const struct index_entry *e)
{
	return (e->segment >> MORE_SHIFT) << MORE_BITS | e->more;
}

static bool is_free(const struct index_entry *e)
{
	return (e->tag[0] | e->tag[1]) == 0;
}

static uint64_t next_of(const struct store_index *x, uint64_t i)
{
	return i + 1 == x->entries ? 0 : i + 1;
}

/* Where it is, or the free entry where it would be put. */
static uint64_t slot_of(const struct store_index *x, const struct index_tag *t)
{
	uint64_t i = home_of(x, t->tag);

	while (!is_free(&x->entry[i]) &&
	       (tag_of(&x->entry[i]) != t->tag || more_of(&x->entry[i]) != t->more))
		i = next_of(x, i);
	return i;
}

bool index_table_find(const struct store_index *x, const struct index_tag *t,
		      struct index_place *ret)
{
	const struct index_entry *e = &x->entry[slot_of(x, t)];

	if (is_free(e))
		return false;
	*ret = (struct index_place){ .segment = e->segment & SEGMENT_MASK,
				     .unit = e->unit,
				     .crc = e->crc,
				     .hot = (e->segment & HOT) != 0 };
	return true;
}

bool index_table_put(struct store_index *x, const struct index_tag *t, const struct index_place *p)
{
	struct index_entry *e = &x->entry[slot_of(x, t)];

	if (is_free(e)) {
		if (x->used == x->used_max)
			return false;
		x->used++;
	}
	e->tag[0] = (uint32_t)t->tag;
	e->tag[1] = (uint32_t)(t->tag >> 32);
	e->crc = p->crc;
	e->unit = p->unit;
	e->more = (uint16_t)(t->more & ((1u << MORE_BITS) - 1));
	e->segment = (p->segment & SEGMENT_MASK) | (p->hot ? HOT : 0) |
		     (t->more >> MORE_BITS) << MORE_SHIFT;
	return true;
}

/* What follows moves up, if its home allows, until a free entry ends the run. */
static void take_out(struct store_index *x, uint64_t hole)
{
	uint64_t i = hole;

	for (;;) {
		uint64_t home;

		i = next_of(x, i);
		if (is_free(&x->entry[i]))
			break;
		home = home_of(x, tag_of(&x->entry[i]));
		/* Distances from home, round the table: may it be where the hole is? */
		if ((i + x->entries - home) % x->entries < (i + x->entries - hole) % x->entries)
			continue;
		x->entry[hole] = x->entry[i];
		hole = i;
	}
	memset(&x->entry[hole], 0, sizeof(x->entry[hole]));
	x->used--;
}

bool index_table_remove_at(struct store_index *x, const struct index_tag *t, uint32_t segment,
			   uint16_t unit)
{
	const uint64_t i = slot_of(x, t);
	const struct index_entry *e = &x->entry[i];

	if (is_free(e) || (e->segment & SEGMENT_MASK) != segment || e->unit != unit)
		return false;
	take_out(x, i);
	return true;
}

void index_table_heat(struct store_index *x, const struct index_tag *t)
{
	struct index_entry *e = &x->entry[slot_of(x, t)];

	if (!is_free(e))
		e->segment |= HOT;
}

void index_table_cool(struct store_index *x, const struct index_tag *t)
{
	struct index_entry *e = &x->entry[slot_of(x, t)];

	if (!is_free(e))
		e->segment &= ~HOT;
}

void index_table_prefetch(const struct store_index *x, const struct index_tag *t)
{
	__builtin_prefetch(&x->entry[home_of(x, t->tag)], 1);
}

uint64_t index_table_sweep(struct store_index *x, uint32_t segment)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < x->entries;) {
		if (!is_free(&x->entry[i]) && (x->entry[i].segment & SEGMENT_MASK) == segment) {
			take_out(x, i); /* another may be here now */
			n++;
		} else {
			i++;
		}
	}
	return n;
}
