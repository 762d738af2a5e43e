/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The settings of kvbrokerd, in one table. The file (file.c), the command line (io/options.c), the
 * help, `broker-ctl config` and the tests that hold the manual pages and the shipped broker.conf to
 * it all read this table: what can be said is said here once.
 *
 * A setting is `name = TEXT` in the file and `--name TEXT` on the command line, where underscores
 * are dashes. Whoever reads a text, wherever it stands, reads it with setting_take(), and prints
 * what it came to with setting_print(), which setting_take() reads again. Of a switch the command
 * line knows only what is not the default: --no-NAME.
 *
 * Sections say several things of one device, store or tenant: `device "host:0" { size = 4G }` is
 * --device host:0=4G. Their keys are in the table too; sections.c takes them.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/io/server.h"

#define SETTING_TEXT_BYTES 4200u /* a path and some more: what setting_print() may need */
#define SETTING_WHY_BYTES 640u
#define SETTING_KEYS_MAX 6u
#define SETTING_TIME_MAX 86400000ull
#define SETTING_PAGES_MAX (1u << 30)

enum setting_kind {
	SETTING_STRING, /* const char * */
	SETTING_MODE,   /* uint32_t, octal */
	SETTING_POLICY, /* const char *, of those there are */
	SETTING_WORD,   /* an enum or a bool: the index of the word */
	SETTING_SWITCH, /* the same: no, yes */
	SETTING_NUMBER, /* uint32_t */
	SETTING_TIME,   /* uint64_t in ns, said in units of `unit` ns */
	SETTING_SIZE,   /* uint64_t in bytes; 0 or at least min */
	SETTING_SECTION,
};

/* A key of a section. */
struct setting_key {
	const char *name;
	const char *value;
};

struct setting {
	const char *name;  /* as in the file */
	const char *value; /* what the help calls its text; a section: of the command line */
	const char *help;  /* lines of at most 69 characters */
	enum setting_kind kind;
	bool live;          /* a running daemon can change it */
	uint16_t at, bytes; /* where in struct server_config */
	uint64_t min, max, unit;
	const char *const *words;       /* end with NULL */
	const char *automatic;          /* SIZE: the word for UINT64_MAX, which none is */
	const struct setting_key *keys; /* SECTION */
	unsigned keys_n;
};

enum setting_section { SETTING_DEVICE, SETTING_STORE, SETTING_TENANT, SETTING_SECTIONS_N };

extern const struct setting settings[];
extern const unsigned settings_n;
/* Sections are the first three of the table, in the order of enum setting_section. */
static inline bool setting_is_section(unsigned i)
{
	return i < SETTING_SECTIONS_N;
}

/* Values before anything is said. */
void settings_init(struct server_config *ret);

/* By its name in the file; -1. */
int setting_find(const char *name);
/* That name as an option, without the dashes before it: "max-pages", "no-huge-pages". */
void setting_option(const struct setting *s, char *ret, size_t bytes);

/*
 * Reads `text` into cfg. A string is kept, not copied. 0, or -EINVAL and why: "'x' is not ...".
 * Sections are not for this.
 */
int setting_take(const struct setting *s, struct server_config *cfg, const char *text, char *why,
		 size_t why_bytes);
/* What cfg holds, as setting_take() reads it; "" where nothing is set. */
void setting_print(const struct setting *s, const struct server_config *cfg, char *ret,
		   size_t bytes);

/* A size in the fewest characters that say all of it: "4G", "1536M", "1000". */
void setting_print_size(uint64_t n, char *ret, size_t bytes);
/* min to max, decimal; -EINVAL and why. */
int setting_take_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret, char *why,
			size_t why_bytes);
/* Formats into why; returns -EINVAL. */
int setting_refuse(char *why, size_t why_bytes, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
