/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What is on the disk: the very bytes of format 1, and that nothing damaged is taken for good.
 *
 * The golden bytes are those of a little store of this version. A change that breaks them breaks
 * every store there is: it needs another FORMAT_VERSION.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/format.h"
#include "tests/unit/suite.h"

#define FOLD 0x12345678u
#define UNITS 32u

static const char *const golden_desc =
	"2e1d7656df78f6878877665544332211010000000000000002000000000000000300000000000000"
	"0400000000000000282300000df0feca0500000006000300";
static const char *const golden_group =
	"2e1d7655dac0b59d8877665544332211070000000200070002000000000000000000000000000000"
	"000000000000000000000000000000000000000000000000";
static const char *const golden_trailer =
	"2e1d764603b881648877665544332211070000000200000002000000ddbab5ff0000000000000000"
	"000000000000000000000000000000000000000000000000";
static const char *const golden_super =
	"545642535550455201000000f7db242d000000000000000000000000000000000000000000000000"
	"00001000000000000c000000000000007369787465656e2062797465732e2e2e616e64206f746865"
	"72732e2e2e2e2e2e0800000000000000090000000000000000001000000000000000400100000000"
	"010000000100000002000000afcc172f";
static const char *const golden_ns =
	"6f6620776569676874732c20647479706520616e6420616c6c20746861742e2e0300000000000000"
	"00000000000000000000000000000000000000000000000000000000000000000400000000000000";

static void compare(const void *mem, size_t bytes, const char *golden)
{
	const uint8_t *m = mem;
	char *text = malloc(2 * bytes + 1);

	ck_assert_ptr_nonnull(text);
	for (size_t i = 0; i < bytes; i++)
		sprintf(text + 2 * i, "%02x", m[i]);
	ck_assert_str_eq(text, golden);
	free(text);
}

static struct format_desc desc_at(uint16_t unit)
{
	struct format_desc d = { .seq = 0x1122334455667788ull,
				 .where = { 1, 2 },
				 .chain = { 3, 4 },
				 .bytes = 9000,
				 .data_crc = 0xcafef00d,
				 .epoch = 5,
				 .ns = 6,
				 .unit = unit };

	format_desc_seal(&d, FOLD);
	return d;
}

/* A group of two pages of three units each, at unit 2. */
static void make_group(void *block)
{
	struct format_group *g = block;
	struct format_desc *d = (void *)(g + 1);

	memset(block, 0, FORMAT_UNIT);
	*g = (struct format_group){
		.seq = 0x1122334455667788ull, .segment = 7, .unit = 2, .units = 7, .count = 2
	};
	d[0] = desc_at(3);
	d[1] = desc_at(6);
	format_group_seal(g, FOLD);
}

/* A closed segment of 32 units whose table has these two. */
static void make_tail(struct format_desc table[64], void *block)
{
	struct format_trailer *t = block;

	memset(block, 0, FORMAT_UNIT);
	memset(table, 0, FORMAT_UNIT);
	table[0] = desc_at(3);
	table[1] = desc_at(6);
	*t = (struct format_trailer){ .seq = 0x1122334455667788ull,
				      .segment = 7,
				      .state = FORMAT_CLOSED,
				      .count = 2,
				      .table_crc = format_crc(0, table, 2 * sizeof(table[0])) };
	format_trailer_seal(t, FOLD);
}

static void make_super(struct format_super *s, struct format_ns ns[2])
{
	memset(s, 0, sizeof(*s));
	memset(ns, 0, 2 * sizeof(ns[0]));
	memcpy(ns[0].digest, "of weights, dtype and all that..", 32);
	ns[0].epoch = 3;
	ns[1].epoch = 4;
	s->seq = 12;
	memcpy(s->uuid, "sixteen bytes...", 16);
	memcpy(s->part_uuid, "and others......", 16);
	s->secret[0] = 8;
	s->secret[1] = 9;
	s->segment_bytes = 1 << 20;
	s->part_bytes = FORMAT_HEAD_BYTES + (16 << 20);
	s->part = 1;
	s->clean = 1;
	s->ns_count = 2;
	format_super_seal(s, ns, FORMAT_COPY_BYTES);
}

START_TEST(the_bytes_of_format_1)
{
	static char block[FORMAT_UNIT];
	static struct format_desc table[64];
	struct format_desc d = desc_at(3);
	static struct format_super s;
	struct format_ns ns[2];

	compare(&d, sizeof(d), golden_desc);
	make_group(block);
	compare(block, sizeof(struct format_group), golden_group);
	make_tail(table, block);
	compare(block, sizeof(struct format_trailer), golden_trailer);
	make_super(&s, ns);
	compare(&s, 136, golden_super);
	compare(ns, sizeof(ns), golden_ns);
}
END_TEST

START_TEST(crc32c_is_iscsis)
{
	const char *text = "123456789";

	ck_assert_uint_eq(format_crc(0, text, 9), 0xe3069283u);
	ck_assert_uint_eq(format_crc(format_crc(0, text, 4), text + 4, 5), 0xe3069283u);
}
END_TEST

/* Of every bit of what is checked: turned, it is not good. */
START_TEST(fault_076_every_bit_counts)
{
	static char block[FORMAT_UNIT];
	static struct format_desc table[64];
	struct format_desc d = desc_at(3);
	static struct format_super s;
	struct format_ns ns[2];

	for (unsigned bit = 0; bit < 8 * sizeof(d); bit++) {
		((uint8_t *)&d)[bit / 8] ^= 1 << bit % 8;
		ck_assert(!format_desc_good(&d, FOLD, 0x1122334455667788ull, UNITS));
		((uint8_t *)&d)[bit / 8] ^= 1 << bit % 8;
	}
	ck_assert(format_desc_good(&d, FOLD, 0x1122334455667788ull, UNITS));
	make_group(block);
	for (unsigned bit = 0; bit < 8 * (64 + 2 * 64); bit++) {
		block[bit / 8] ^= 1 << bit % 8;
		ck_assert(!format_group_good(block, FOLD, 0, 7, 2, UNITS));
		block[bit / 8] ^= 1 << bit % 8;
	}
	ck_assert(format_group_good(block, FOLD, 0, 7, 2, UNITS));
	make_tail(table, block);
	for (unsigned bit = 0; bit < 8 * 64; bit++) {
		block[bit / 8] ^= 1 << bit % 8;
		ck_assert(!format_trailer_good(block, FOLD, 7, UNITS));
		block[bit / 8] ^= 1 << bit % 8;
	}
	for (unsigned bit = 0; bit < 8 * 128; bit++) {
		((uint8_t *)table)[bit / 8] ^= 1 << bit % 8;
		ck_assert(!format_table_good(table, (const void *)block, FOLD, UNITS));
		((uint8_t *)table)[bit / 8] ^= 1 << bit % 8;
	}
	ck_assert(format_table_good(table, (const void *)block, FOLD, UNITS));
	make_super(&s, ns);
	for (unsigned bit = 0; bit < 8 * sizeof(s); bit++) {
		((uint8_t *)&s)[bit / 8] ^= 1 << bit % 8;
		ck_assert_int_ne(format_super_check(&s, ns, FORMAT_COPY_BYTES), FORMAT_GOOD);
		((uint8_t *)&s)[bit / 8] ^= 1 << bit % 8;
	}
	for (unsigned bit = 0; bit < 8 * sizeof(ns); bit++) {
		((uint8_t *)ns)[bit / 8] ^= 1 << bit % 8;
		ck_assert_int_eq(format_super_check(&s, ns, FORMAT_COPY_BYTES), FORMAT_DAMAGED);
		((uint8_t *)ns)[bit / 8] ^= 1 << bit % 8;
	}
	ck_assert_int_eq(format_super_check(&s, ns, FORMAT_COPY_BYTES), FORMAT_GOOD);
}
END_TEST

START_TEST(fault_079_another_store_segment_place_or_time)
{
	static char block[FORMAT_UNIT];
	static struct format_desc table[64];
	struct format_desc d = desc_at(3);
	static struct format_super s;
	struct format_ns ns[2];

	ck_assert(!format_desc_good(&d, FOLD + 1, d.seq, UNITS));
	ck_assert(!format_desc_good(&d, FOLD, d.seq + 1, UNITS));
	ck_assert(!format_desc_good(&d, FOLD, d.seq, 6));
	make_group(block);
	ck_assert(!format_group_good(block, FOLD + 1, 0, 7, 2, UNITS));
	ck_assert(!format_group_good(block, FOLD, 9, 7, 2, UNITS));
	ck_assert(!format_group_good(block, FOLD, 0, 8, 2, UNITS));
	ck_assert(!format_group_good(block, FOLD, 0, 7, 3, UNITS));
	ck_assert(!format_group_good(block, FOLD, 0, 7, 2, 9));
	make_tail(table, block);
	ck_assert(!format_trailer_good(block, FOLD, 6, UNITS));
	ck_assert(!format_trailer_good(block, FOLD + 1, 7, UNITS));
	ck_assert(!format_table_good(table, (const void *)block, FOLD, 10));
	make_super(&s, ns);
	ck_assert_int_eq(format_super_check(&s, ns, 0), FORMAT_DAMAGED);
	s.incompat = 1;
	format_super_seal(&s, ns, 0);
	ck_assert_int_eq(format_super_check(&s, ns, 0), FORMAT_FOREIGN);
	memset(&s, 0, sizeof(s));
	ck_assert_int_eq(format_super_check(&s, ns, 0), FORMAT_NOTHING);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &the_bytes_of_format_1, 0, 1 },
		{ &crc32c_is_iscsis, 0, 1 },
		{ &fault_076_every_bit_counts, 120, 1 },
		{ &fault_079_another_store_segment_place_or_time, 0, 1 },
		{ 0 },
	};

	return suite_run("store-format", cases);
}
