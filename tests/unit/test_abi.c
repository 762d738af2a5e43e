/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The ABI does not move by accident: every constant, size and offset of uapi/kvbroker.h, listed in
 * abi_names.h, is compared line by line with abi.golden.
 *
 * `test_abi --print` writes what the golden file would have to be. Changing it is right only
 * together with KVB_ABI_VERSION, or for names that are new.
 */

#include "tests/unit/suite.h"
#include "uapi/kvbroker.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ABI_LINE_BYTES 128

struct abi_entry {
	const char *name;
	unsigned long long value;
	unsigned long long bytes; /* of a member; 0 otherwise */
};

static const struct abi_entry abi_entries[] = {
#define CONST(n) { #n, (unsigned long long)(n), 0 },
#define TYPE(t) { "sizeof " #t, sizeof(t), 0 },
#define MEMBER(t, m) { #t "." #m, offsetof(t, m), sizeof(((t *)0)->m) },
#define TAIL(t, m) { #t "." #m "[]", offsetof(t, m), sizeof(((t *)0)->m[0]) },
#include "tests/unit/abi_names.h"
};

#define ABI_ENTRIES (sizeof(abi_entries) / sizeof(abi_entries[0]))

static void abi_format_entry(const struct abi_entry *e, char *line)
{
	if (e->bytes)
		snprintf(line, ABI_LINE_BYTES, "%s %llu +%llu\n", e->name, e->value, e->bytes);
	else
		snprintf(line, ABI_LINE_BYTES, "%s %llu\n", e->name, e->value);
}

START_TEST(abi_equals_golden)
{
	char want[ABI_LINE_BYTES], have[ABI_LINE_BYTES];
	FILE *golden = fopen(ABI_GOLDEN, "re");

	ck_assert_msg(golden != NULL, "%s cannot be read", ABI_GOLDEN);
	for (size_t i = 0; i < ABI_ENTRIES; i++) {
		abi_format_entry(&abi_entries[i], have);
		ck_assert_msg(fgets(want, sizeof(want), golden) != NULL,
			      "golden file ends before %s", have);
		ck_assert_str_eq(have, want);
	}
	ck_assert_msg(fgets(want, sizeof(want), golden) == NULL,
		      "the golden file has more than the ABI: %s", want);
	fclose(golden);
}
END_TEST

/* Both sides are compiled by different compilers: no hole may depend on the ABI of one of them. */
START_TEST(abi_structs_have_no_holes)
{
	unsigned long long end = 0;
	const char *type = NULL;

	for (size_t i = 0; i < ABI_ENTRIES; i++) {
		const struct abi_entry *e = &abi_entries[i];
		if (!strncmp(e->name, "sizeof struct ", 14)) {
			type = e->name + 7;
			end = 0;
			continue;
		}
		if (!type || strncmp(e->name, type, strlen(type)) != 0)
			continue;
		ck_assert_msg(e->value == end, "a hole before %s", e->name);
		if (!strstr(e->name, "[]"))
			end = e->value + e->bytes;
		/* the last member of a type ends where the type ends */
		if (i + 1 == ABI_ENTRIES || !strncmp(abi_entries[i + 1].name, "sizeof", 6)) {
			for (size_t k = 0; k < i; k++) {
				if (!strncmp(abi_entries[k].name, "sizeof ", 7) &&
				    !strcmp(abi_entries[k].name + 7, type))
					ck_assert_msg(abi_entries[k].value == end,
						      "a hole at the end of %s", type);
			}
		}
	}
	ck_assert_ptr_nonnull(type);
}
END_TEST

START_TEST(fence_compare_is_modulo_2_64)
{
	ck_assert(kvb_fence_reached(5, 5));
	ck_assert(kvb_fence_reached(6, 5));
	ck_assert(!kvb_fence_reached(4, 5));
	ck_assert(kvb_fence_reached(2, UINT64_MAX - 2));
	ck_assert(!kvb_fence_reached(UINT64_MAX - 2, 2));
}
END_TEST

START_TEST(page_name_keeps_id_and_generation)
{
	kvb_page_t page = KVB_PAGE(0xfedcba98u, 0x76543210u);

	ck_assert_uint_eq(KVB_PAGE_ID(page), 0x76543210u);
	ck_assert_uint_eq(KVB_PAGE_GEN(page), 0xfedcba98u);
	ck_assert(KVB_PAGE(1, 0) != KVB_PAGE_NONE);
}
END_TEST

START_TEST(hint_keeps_priority_and_ttl)
{
	uint64_t hint = KVB_HINT(KVB_PRIO_HIGH, 1u << 31);

	ck_assert_uint_eq(KVB_HINT_PRIORITY(hint), KVB_PRIO_HIGH);
	ck_assert_uint_eq(KVB_HINT_TTL_S(hint), 1u << 31);
}
END_TEST

static const struct suite_case cases[] = {
	{ &abi_equals_golden },
	{ &abi_structs_have_no_holes },
	{ &fence_compare_is_modulo_2_64 },
	{ &page_name_keeps_id_and_generation },
	{ &hint_keeps_priority_and_ttl },
	{ NULL },
};

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--print")) {
		for (size_t i = 0; i < ABI_ENTRIES; i++) {
			char line[ABI_LINE_BYTES];
			abi_format_entry(&abi_entries[i], line);
			fputs(line, stdout);
		}
		return EXIT_SUCCESS;
	}
	return suite_run("abi", cases);
}
