/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The index of a store: where the page of a key is. Pure: no system call, no clock, no allocation;
 * the memory is the caller's.
 *
 * Entries of 20 bytes in one table, open addressing, linear probing; what is removed leaves no mark
 * behind, entries move up instead. An entry knows 64 + 22 bits of a keyed hash of its key, so
 * that two keys are taken for one about never (some 2^-60 for a full store), and the bytes read are
 * checked beside that. At most INDEX_FILL of the table is used: 25 bytes a page of pages_max.
 */

#include <stdbool.h>
#include <stdint.h>

#define INDEX_SEGMENTS_MAX (1u << 20)
#define INDEX_FILL_NUM 4u /* of the table, 4/5 */
#define INDEX_FILL_DEN 5u

/* Hash of a key; tag[0] is not 0. */
struct index_tag {
	uint64_t tag;
	uint32_t more; /* 22 bits */
};

struct index_place {
	uint32_t segment;
	uint16_t unit;
	uint32_t crc;
	bool hot; /* read since it was written */
};

struct index_entry {
	uint32_t tag[2]; /* 0, 0: free */
	uint32_t crc;
	uint32_t segment; /* 20 bits; hot; 11 of `more` */
	uint16_t unit;
	uint16_t more; /* 11 of it */
};

_Static_assert(sizeof(struct index_entry) == 20, "at most 32 B of RAM a page");

struct store_index {
	struct index_entry *entry;
	uint64_t entries; /* of the table */
	uint64_t used, used_max;
};

uint64_t index_table_bytes(uint64_t pages_max);
/* mem: index_table_bytes() of zeros. */
void index_table_init(struct store_index *x, void *mem, uint64_t pages_max);

bool index_table_find(const struct store_index *x, const struct index_tag *t,
		      struct index_place *ret);
/* Puts it there, over what was. False: it is full. */
bool index_table_put(struct store_index *x, const struct index_tag *t, const struct index_place *p);
/* Only if it is at that place. */
bool index_table_remove_at(struct store_index *x, const struct index_tag *t, uint32_t segment,
			   uint16_t unit);
void index_table_heat(struct store_index *x, const struct index_tag *t);
void index_table_cool(struct store_index *x, const struct index_tag *t);
void index_table_prefetch(const struct store_index *x, const struct index_tag *t);
/* Everything of a segment goes; walks the whole table. Returns how many. */
uint64_t index_table_sweep(struct store_index *x, uint32_t segment);
