/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What is on the disk; docs/store-format.md tells the same to people.
 *
 * A part (a file or device) is a head of 4 MiB with four copies of the superblock, 1 MiB apart, and
 * segments behind it. A superblock is a block of 4 KiB and, behind it, the table of namespaces.
 *
 *   segment:  group group group ... (free) table trailer
 *   group:    a block of descriptors, then the pages they describe, in order
 *   table:    the descriptors of all pages of the segment, made when it is closed
 *   trailer:  last block of the segment: OPEN, or CLOSED with where the table is
 *
 * Everything counts in units of 4 KiB, so that a place in a segment fits 16 bits. Every structure
 * has a checksum of its own and says which store, which segment and which place it belongs to; what
 * does not fit is as if it were not there. A segment that is used again has a higher number, seq,
 * and its trailer says so durably before the first group is written: so nothing of its past is
 * taken for something of its present.
 *
 * All numbers are little-endian. These functions are pure and take any bytes.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FORMAT_UNIT 4096u
#define FORMAT_COPIES 4u
#define FORMAT_COPY_BYTES (1u << 20)
#define FORMAT_HEAD_BYTES ((uint64_t)FORMAT_COPIES * FORMAT_COPY_BYTES)
#define FORMAT_VERSION 1u
#define FORMAT_NS_MAX 16384u
#define FORMAT_SEGMENT_BYTES_MIN (128ull << 10)
#define FORMAT_SEGMENT_BYTES_MAX (256ull << 20)
#define FORMAT_PAGE_BYTES_MAX (64u << 20)
#define FORMAT_GROUP_MAX 63u /* descriptors of a group */
#define FORMAT_TABLE_UNIT (FORMAT_UNIT / 64u)

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "what is on disk is little-endian"
#endif

#define FORMAT_MAGIC_SUPER 0x5245505553425654ull /* "TVBSUPER" */
#define FORMAT_MAGIC_DESC 0x44424b56u            /* "VKBD", mixed with the store's uuid */
#define FORMAT_MAGIC_GROUP 0x47424b56u
#define FORMAT_MAGIC_TRAILER 0x54424b56u

/* Features: of ro_compat an older version may read the store, of incompat it must not. None yet. */
struct format_super {
	uint64_t magic;
	uint32_t version;
	uint32_t crc; /* of this block, itself taken as 0 */
	uint64_t compat, ro_compat, incompat;
	uint64_t offset; /* where this copy belongs */
	uint64_t seq;
	uint8_t uuid[16]; /* of the store: all parts */
	uint8_t part_uuid[16];
	uint64_t secret[2]; /* of the store's keys */
	uint64_t segment_bytes;
	uint64_t part_bytes; /* in use: head and segments */
	uint32_t part;
	uint32_t clean; /* every segment with pages is closed */
	uint32_t ns_count;
	uint32_t ns_crc; /* of the table */
	uint8_t resv[FORMAT_UNIT - 136];
};

struct format_ns {
	uint8_t digest[32];
	uint32_t epoch;
	uint32_t resv;
};

/* A page. */
struct format_desc {
	uint32_t magic;
	uint32_t crc;      /* of this descriptor, itself taken as 0 */
	uint64_t seq;      /* of the segment */
	uint64_t where[2]; /* place and salt */
	uint64_t chain[2];
	uint32_t bytes;    /* of the page; it takes whole units */
	uint32_t data_crc; /* crc32c of the page */
	uint32_t epoch;
	uint16_t ns;
	uint16_t unit; /* of the segment, where the page begins */
};

struct format_group {
	uint32_t magic;
	uint32_t crc; /* of this struct and the descriptors, itself taken as 0 */
	uint64_t seq;
	uint32_t segment; /* of the part */
	uint16_t unit;    /* where this group begins */
	uint16_t units;   /* of the group, with this block */
	uint32_t count;
	uint32_t resv[9];
};

enum format_state { FORMAT_OPEN = 1, FORMAT_CLOSED = 2 };

struct format_trailer {
	uint32_t magic;
	uint32_t crc;
	uint64_t seq;
	uint32_t segment;
	uint32_t state;
	uint32_t count; /* descriptors; the table ends where the trailer begins */
	uint32_t table_crc;
	uint32_t resv[8];
};

_Static_assert(sizeof(struct format_super) == FORMAT_UNIT, "on disk");
_Static_assert(offsetof(struct format_super, resv) == 136, "on disk");
_Static_assert(offsetof(struct format_super, seq) == 48, "on disk");
_Static_assert(offsetof(struct format_super, segment_bytes) == 104, "on disk");
_Static_assert(sizeof(struct format_ns) == 40, "on disk");
_Static_assert(sizeof(struct format_desc) == 64, "on disk");
_Static_assert(offsetof(struct format_desc, bytes) == 48, "on disk");
_Static_assert(offsetof(struct format_desc, unit) == 62, "on disk");
_Static_assert(sizeof(struct format_group) == 64, "on disk");
_Static_assert(sizeof(struct format_trailer) == 64, "on disk");
_Static_assert(FORMAT_UNIT + FORMAT_NS_MAX * sizeof(struct format_ns) <= FORMAT_COPY_BYTES, "fits");

/* crc32c of more bytes; `crc` is what the bytes before gave, 0 for none. */
uint32_t format_crc(uint32_t crc, const void *mem, size_t bytes);
uint32_t format_uuid_fold(const uint8_t uuid[16]);

static inline uint32_t format_units(uint64_t bytes)
{
	return (uint32_t)((bytes + FORMAT_UNIT - 1) / FORMAT_UNIT);
}

/* Units that the table and the trailer of a segment of so many pages take. */
static inline uint32_t format_tail_units(uint32_t count)
{
	return 1 + (count + FORMAT_TABLE_UNIT - 1) / FORMAT_TABLE_UNIT;
}

/* ---- superblocks --------------------------------------------------------------------------- */

/* Of a copy with its table: 4 KiB and what the namespaces take, in whole units. */
static inline uint64_t format_super_bytes(uint32_t ns_count)
{
	return FORMAT_UNIT +
	       (uint64_t)format_units(ns_count * sizeof(struct format_ns)) * FORMAT_UNIT;
}

/* Fills in crc and ns_crc; ns[0..super->ns_count) lies behind it. */
void format_super_seal(struct format_super *super, const struct format_ns *ns, uint64_t offset);

enum format_verdict {
	FORMAT_GOOD = 0,
	FORMAT_NOTHING, /* no magic */
	FORMAT_DAMAGED,
	FORMAT_FOREIGN, /* of a later version, or with features that this one does not know */
};

/* What is in a copy: its first block, and the table if the caller has it (NULL: not yet). */
enum format_verdict format_super_check(const struct format_super *super, const struct format_ns *ns,
				       uint64_t offset);

/* ---- segments ------------------------------------------------------------------------------ */

void format_desc_seal(struct format_desc *d, uint32_t fold);
/* seq: of the segment. Also that the page lies in a segment of so many units. */
bool format_desc_good(const struct format_desc *d, uint32_t fold, uint64_t seq, uint32_t units);

/* g and the descriptors behind it. */
void format_group_seal(struct format_group *g, uint32_t fold);
/* A block of FORMAT_UNIT bytes. seq 0: whichever. All descriptors are good too, and the pages lie
 * in the group one behind the other. */
bool format_group_good(const void *block, uint32_t fold, uint64_t seq, uint32_t segment,
		       uint32_t unit, uint32_t units);

void format_trailer_seal(struct format_trailer *t, uint32_t fold);
bool format_trailer_good(const void *block, uint32_t fold, uint32_t segment, uint32_t units);
/* The table of a closed segment that has a good trailer; every descriptor is good. */
bool format_table_good(const struct format_desc *table, const struct format_trailer *t,
		       uint32_t fold, uint32_t units);
