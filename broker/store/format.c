/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sealing and checking what is on the disk; see format.h. Whatever the bytes are, nothing here
 * reads beyond the block it was given.
 */

#include "broker/store/format.h"

#include <isa-l/crc.h>
#include <string.h>

uint32_t format_crc(uint32_t crc, const void *mem, size_t bytes)
{
	const unsigned char *at = mem;

	crc = ~crc;
	while (bytes) {
		const size_t n = bytes < (1u << 30) ? bytes : 1u << 30; /* it counts in int */

		/* Its argument is not const, though it only reads. */
		crc = crc32_iscsi((unsigned char *)(uintptr_t)at, (int)n, crc);
		at += n;
		bytes -= n;
	}
	return ~crc;
}

uint32_t format_uuid_fold(const uint8_t uuid[16])
{
	return format_crc(0, uuid, 16);
}

/* The checksum of a structure whose field `crc` is at byte `at`. */
static uint32_t crc_without(const void *mem, size_t bytes, size_t at)
{
	const uint32_t zero = 0;
	const char *m = mem;
	uint32_t crc = format_crc(0, m, at);

	crc = format_crc(crc, &zero, sizeof(zero));
	return format_crc(crc, m + at + sizeof(zero), bytes - at - sizeof(zero));
}

/* ---- superblocks --------------------------------------------------------------------------- */

static uint32_t ns_crc(const struct format_ns *ns, uint32_t count)
{
	return format_crc(0, ns, count * sizeof(*ns));
}

void format_super_seal(struct format_super *super, const struct format_ns *ns, uint64_t offset)
{
	super->magic = FORMAT_MAGIC_SUPER;
	super->version = FORMAT_VERSION;
	super->offset = offset;
	super->ns_crc = ns_crc(ns, super->ns_count);
	super->crc = crc_without(super, sizeof(*super), offsetof(struct format_super, crc));
}

static bool geometry_good(const struct format_super *s)
{
	return s->segment_bytes >= FORMAT_SEGMENT_BYTES_MIN &&
	       s->segment_bytes <= FORMAT_SEGMENT_BYTES_MAX &&
	       (s->segment_bytes & (s->segment_bytes - 1)) == 0 &&
	       s->part_bytes >= FORMAT_HEAD_BYTES + s->segment_bytes &&
	       (s->part_bytes - FORMAT_HEAD_BYTES) % s->segment_bytes == 0 &&
	       (s->part_bytes - FORMAT_HEAD_BYTES) / s->segment_bytes <= 1u << 20;
}

enum format_verdict format_super_check(const struct format_super *super, const struct format_ns *ns,
				       uint64_t offset)
{
	if (super->magic != FORMAT_MAGIC_SUPER)
		return FORMAT_NOTHING;
	if (super->crc != crc_without(super, sizeof(*super), offsetof(struct format_super, crc)))
		return FORMAT_DAMAGED;
	if (super->version != FORMAT_VERSION || super->incompat || super->ro_compat)
		return FORMAT_FOREIGN;
	if (super->offset != offset || super->ns_count > FORMAT_NS_MAX || !geometry_good(super))
		return FORMAT_DAMAGED;
	if (ns && super->ns_crc != ns_crc(ns, super->ns_count))
		return FORMAT_DAMAGED;
	return FORMAT_GOOD;
}

/* ---- segments ------------------------------------------------------------------------------ */

void format_desc_seal(struct format_desc *d, uint32_t fold)
{
	d->magic = FORMAT_MAGIC_DESC ^ fold;
	d->crc = crc_without(d, sizeof(*d), offsetof(struct format_desc, crc));
}

bool format_desc_good(const struct format_desc *d, uint32_t fold, uint64_t seq, uint32_t units)
{
	return d->magic == (FORMAT_MAGIC_DESC ^ fold) &&
	       d->crc == crc_without(d, sizeof(*d), offsetof(struct format_desc, crc)) &&
	       d->seq == seq && d->bytes && d->bytes <= FORMAT_PAGE_BYTES_MAX &&
	       d->ns < FORMAT_NS_MAX && (uint64_t)d->unit + format_units(d->bytes) < units;
}

static uint32_t group_crc(const struct format_group *g)
{
	return crc_without(g, sizeof(*g) + g->count * sizeof(struct format_desc),
			   offsetof(struct format_group, crc));
}

void format_group_seal(struct format_group *g, uint32_t fold)
{
	g->magic = FORMAT_MAGIC_GROUP ^ fold;
	g->crc = group_crc(g);
}

bool format_group_good(const void *block, uint32_t fold, uint64_t seq, uint32_t segment,
		       uint32_t unit, uint32_t units)
{
	const struct format_group *g = block;
	const struct format_desc *d = (const void *)(g + 1);
	uint32_t at = unit + 1;

	if (g->magic != (FORMAT_MAGIC_GROUP ^ fold) || g->count == 0 ||
	    g->count > FORMAT_GROUP_MAX || g->segment != segment || g->unit != unit ||
	    (seq && g->seq != seq) || (uint32_t)unit + g->units >= units || g->crc != group_crc(g))
		return false;
	for (uint32_t i = 0; i < g->count; i++) {
		if (!format_desc_good(&d[i], fold, g->seq, units) || d[i].unit != at)
			return false;
		at += format_units(d[i].bytes);
	}
	return at == (uint32_t)unit + g->units;
}

void format_trailer_seal(struct format_trailer *t, uint32_t fold)
{
	t->magic = FORMAT_MAGIC_TRAILER ^ fold;
	t->crc = crc_without(t, sizeof(*t), offsetof(struct format_trailer, crc));
}

bool format_trailer_good(const void *block, uint32_t fold, uint32_t segment, uint32_t units)
{
	const struct format_trailer *t = block;

	return t->magic == (FORMAT_MAGIC_TRAILER ^ fold) &&
	       t->crc == crc_without(t, sizeof(*t), offsetof(struct format_trailer, crc)) &&
	       t->segment == segment && t->seq &&
	       (t->state == FORMAT_OPEN || t->state == FORMAT_CLOSED) && t->count <= 65536 &&
	       format_tail_units(t->count) <= units;
}

bool format_table_good(const struct format_desc *table, const struct format_trailer *t,
		       uint32_t fold, uint32_t units)
{
	const uint32_t end = units - format_tail_units(t->count);

	if (t->state != FORMAT_CLOSED ||
	    t->table_crc != format_crc(0, table, t->count * sizeof(*table)))
		return false;
	for (uint32_t i = 0; i < t->count; i++)
		if (!format_desc_good(&table[i], fold, t->seq, units) ||
		    (uint32_t)table[i].unit + format_units(table[i].bytes) > end)
			return false;
	return true;
}
