/* SPDX-License-Identifier: Apache-2.0 */

/* Looking through a store; see check.h. */

#include "broker/store/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/internal.h"

struct check {
	struct store *s;
	const struct store_check_cfg *cfg;
	struct store_check *ret;
	char *page;
};

static void damage(struct check *c, const struct segment *g, uint32_t unit, const char *what)
{
	if (c->ret->first[0])
		return;
	snprintf(c->ret->first, sizeof(c->ret->first), "%s: segment %u, unit %u: %s",
		 c->s->part[g->part].path, g->index, unit, what);
}

/* Reads the page and compares. */
static bool page_bad(struct check *c, struct segment *g, const struct format_desc *d)
{
	struct store *s = c->s;
	const uint64_t offset = segment_offset(s, g) + (uint64_t)d->unit * FORMAT_UNIT;
	int error = recover_read(s, &s->part[g->part], offset, c->page,
				 format_units(d->bytes) * FORMAT_UNIT);

	if (error) {
		c->ret->unreadable++;
		damage(c, g, d->unit, strerror(-error));
		return true;
	}
	if (format_crc(0, c->page, d->bytes) == d->data_crc)
		return false;
	damage(c, g, d->unit, "the page is not what was written");
	return true;
}

static void check_page(struct check *c, struct segment *g, const struct format_desc *d)
{
	struct store *s = c->s;
	struct index_place at;
	struct index_tag tag;
	bool bad;

	if (d->ns >= s->ns_count || s->ns[d->ns].epoch != d->epoch) {
		c->ret->stale++;
		return;
	}
	store_tag(s, d->where, d->chain, d->epoch, &tag);
	if (!index_table_find(&s->index, &tag, &at) || at.segment != segment_id(s, g) ||
	    at.unit != d->unit) {
		c->ret->replaced++;
		return;
	}
	bad = c->cfg->deep && page_bad(c, g, d);
	c->ret->pages++;
	c->ret->bytes += d->bytes;
	c->ret->bad += bad;
	if (c->cfg->page)
		c->cfg->page(c->cfg->arg, g->part, g->index, d, bad);
}

/* The table again, as it is on the disk. */
static int check_closed(struct check *c, struct segment *g)
{
	struct store *s = c->s;
	const uint32_t units = format_tail_units(g->count);
	struct format_desc *table = store_units_raw(units);
	int error;

	if (!table)
		return -ENOMEM;
	error = recover_read(s, &s->part[g->part],
			     segment_offset(s, g) +
				     (uint64_t)(s->segment_units - units) * FORMAT_UNIT,
			     table, units * FORMAT_UNIT);
	if (error || !segment_table_good(s, g, (const char *)table)) {
		c->ret->bad += g->count;
		damage(c, g, s->segment_units - units, "its table can not be read any more");
		free(table);
		return 0;
	}
	for (uint32_t i = 0; i < g->count; i++)
		check_page(c, g, &table[i]);
	free(table);
	return 0;
}

int store_check(struct store *s, const struct store_check_cfg *cfg, struct store_check *ret)
{
	struct check c = { .s = s, .cfg = cfg, .ret = ret };
	int error = 0;

	*ret = (struct store_check){ .segments = s->segments,
				     .unfinished = s->stats.recovered_torn,
				     .bad = s->stats.recovered_lost };
	if (ret->bad)
		snprintf(ret->first, sizeof(ret->first),
			 "a table can not be read, nor all it told of");
	c.page = store_units_raw(FORMAT_PAGE_BYTES_MAX / FORMAT_UNIT);
	if (!c.page)
		return -ENOMEM;
	for (uint32_t i = 0; i < s->segments && !error; i++) {
		struct segment *g = &s->segment[i];

		if (g->table_on_disk) {
			ret->segments_closed++;
			error = check_closed(&c, g);
		} else if (g->table) {
			ret->segments_scanned++;
			for (uint32_t j = 0; j < g->count; j++)
				check_page(&c, g, &g->table[j]);
		}
		if (cfg->progress)
			cfg->progress(cfg->arg, i + 1, s->segments);
	}
	free(c.page);
	return error;
}

void store_head(const struct store *s, uint32_t part, struct store_head *ret)
{
	const struct format_super *super = &s->part[part].super;

	*ret = (struct store_head){ .seq = super->seq, .clean = super->clean };
	memcpy(ret->uuid, super->uuid, 16);
	memcpy(ret->part_uuid, super->part_uuid, 16);
}

bool store_ns_row(const struct store *s, uint32_t row, struct format_ns *ret)
{
	if (row >= s->ns_count)
		return false;
	*ret = s->ns[row];
	return true;
}
