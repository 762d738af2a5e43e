/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * broker-ctl: one command line, one answer.
 *
 *   main.c      the life of a run          args.c     the command line
 *   commands.c  the tree of commands       help.c     help and shell completion, from that tree
 *   link.c      the connection             listings.c, devices.c   columns of each listing
 *   reads.c     what the stats segment     changes.c  what the daemon is asked to do
 *               tells
 *   numa.c      what the machine and    table.c, format.c   output
 *               the segment tell         doctor.h            checks of both
 *   store.c     rows of the store        store_changes.c     what it is asked to do
 *   sample.c, iostat.c   lines every so often              config.c   configurations
 *
 * Reads map the stats segment, which an operator's connection is given, and ask the daemon nothing.
 * A command returns its exit code (broker/admin/exit_codes.h) and has said on stderr why it is not
 * 0.
 */

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/admin/exit_codes.h"
#include "broker/admin/stats.h"
#include "tools/broker-ctl/table.h"

#define CTL_ARGS_MAX 240u

enum ctl_format { CTL_TEXT, CTL_JSON, CTL_PRETTY, CTL_CSV };

/* Every option there is. A command accepts those in its mask; nothing takes one it would ignore. */
enum ctl_option_id {
	OPT_SOCKET,
	OPT_JSON,
	OPT_PRETTY,
	OPT_CSV,
	OPT_NO_HEADER,
	OPT_QUIET,
	OPT_DRY_RUN,
	OPT_YES,
	OPT_TIMEOUT,
	OPT_FIELDS,
	OPT_NO_COLOR,
	OPT_HELP,
	OPT_DEEP,
	OPT_FEATURES,
	OPT_SPACE,
	OPT_SALT,
	OPT_BY,
	OPT_COUNT,
	OPT_FORCE,
	OPT_LATENCY,
	OPT_WEAR,
	OPT_N,
};
#define OPT(id) (1u << (id))
#define OPTS_ALWAYS                                                                                \
	(OPT(OPT_SOCKET) | OPT(OPT_QUIET) | OPT(OPT_TIMEOUT) | OPT(OPT_NO_COLOR) | OPT(OPT_HELP))
#define OPTS_JSON (OPTS_ALWAYS | OPT(OPT_JSON) | OPT(OPT_PRETTY))
#define OPTS_TABLE (OPTS_JSON | OPT(OPT_CSV) | OPT(OPT_NO_HEADER) | OPT(OPT_FIELDS))
#define OPTS_CHANGE (OPTS_JSON | OPT(OPT_DRY_RUN))
#define OPTS_DESTROY (OPTS_CHANGE | OPT(OPT_YES))

struct ctl_option {
	char letter; /* 0: none */
	const char *name;
	const char *value; /* what its argument is called; NULL: it has none */
	const char *help;
};
extern const struct ctl_option ctl_options[OPT_N];

struct ctl;

struct ctl_command {
	const char *words[2]; /* the second may be NULL */
	const char *args;     /* for the usage line */
	const char *summary;
	unsigned args_min, args_max;
	uint32_t options;
	const struct table *table; /* of its listing, if it has one */
	const char *complete;      /* shell words that list what its argument may be; NULL */
	int (*run)(struct ctl *ctl);
};
extern const struct ctl_command ctl_commands[];
extern const unsigned ctl_commands_n;

/* A connection to the daemon. */
struct link {
	int fd; /* -1: none */
};

struct ctl {
	const struct ctl_command *command;
	const char *args[CTL_ARGS_MAX];
	unsigned nargs;
	uint32_t given; /* options that were */
	const char *value[OPT_N];
	enum ctl_format format;
	const char *socket;
	double timeout_s;
	bool colour;
	int output_error; /* errno of the first write to stdout that failed */
	struct link link;
	struct stats_segment *seg; /* the copy reads work on */
};

static inline bool ctl_has(const struct ctl *ctl, enum ctl_option_id id)
{
	return ctl->given & OPT(id);
}

/* Says "broker-ctl: WHAT: WHY (hint)" and returns code. hint may be NULL. main.c */
int ctl_fail(const struct ctl *ctl, int code, const char *what, const char *hint, const char *fmt,
	     ...) __attribute__((format(printf, 5, 6)));

/* args.c: 0, or an exit code. */
int ctl_parse(struct ctl *ctl, int argc, char **argv);

/* help.c */
void ctl_help(const struct ctl_command *command); /* NULL: of the program */
int ctl_completion(struct ctl *ctl);
const struct ctl_command *ctl_nearest(const char *words); /* NULL: nothing is near */

/*
 * link.c: 0, or an exit code after having said why. link_open() leaves ctl->seg filled.
 * link_request() gives the daemon's answer (the caller's to cJSON_Delete()) and *ret_code its exit
 * code; an answer that is an error has been said.
 */
int link_open(struct ctl *ctl);
void link_close(struct ctl *ctl);
int link_request(struct ctl *ctl, const char *const *argv, unsigned argc, bool dry_run, cJSON **ret,
		 int *ret_code);

/* Output in the format asked for. They own the rows. output.c */
int output_list(struct ctl *ctl, cJSON *rows);     /* an array */
int output_record(struct ctl *ctl, cJSON *row);    /* one object */
int output_json(struct ctl *ctl, cJSON *document); /* as JSON, whatever the format */
/* What was printed so far is out. False: it could not be; main() tells why. */
bool output_flush(struct ctl *ctl);
bool output_is_json(const struct ctl *ctl);
/* Checks -o against the command's table: 0 or an exit code. */
int output_view(struct ctl *ctl, bool all, struct table_view *ret);

/* listings.c, devices.c */
extern const struct table table_clients, table_tenants, table_namespaces, table_spaces,
	table_devices, table_tiers, table_iostat;
extern const struct table table_stat, table_top, table_keys, table_policy, table_config;
cJSON *listing_clients(const struct stats_segment *seg);
cJSON *listing_tenants(const struct stats_segment *seg);
cJSON *listing_namespaces(const struct stats_segment *seg);
cJSON *listing_spaces(const struct stats_segment *seg);
cJSON *listing_devices(const struct stats_segment *seg);
cJSON *listing_tiers(const struct stats_segment *seg);
uint32_t listing_devices_n(const struct stats_segment *seg); /* without arenas */
double listing_hit_ratio(uint64_t hits, uint64_t keys);      /* < 0: none asked */

/* numa.c: nodes as a document, and in words */
struct topology;
cJSON *numa_json(const struct topology *t, const struct stats_segment *seg);
void numa_say(FILE *to, const struct topology *t, const struct stats_segment *seg);
/*
 * sample.c: a line, or one every so often: the arguments of the command are [INTERVAL [COUNT]].
 * line() is given the figures before (NULL: since the start), and finds those of now in ctl->seg;
 * n counts lines. since_start: the first line is of all the time.
 */
typedef int (*sample_fn)(struct ctl *ctl, const struct stats_segment *from, uint64_t n);
int ctl_sample(struct ctl *ctl, bool since_start, sample_fn line);

/* store.c */
void store_add_rows(const struct stats_segment *seg, cJSON *rows); /* of the tiers */
cJSON *store_json(const struct stats_segment *seg);                /* null where there is none */
void store_print_status(const struct stats_segment *seg);

/* changes.c: fields of answers */
double answer_number(const cJSON *answer, const char *key);
const char *answer_string(const cJSON *answer, const char *key);
bool answer_truth(const cJSON *answer, const char *key);

/* Says in one sentence what `answer` did, or would do. */
typedef void (*ctl_say_fn)(FILE *to, const cJSON *answer, bool plan);
/* Has the daemon do the command, asked about if it destroys; says what came of it. changes.c */
int ctl_change(struct ctl *ctl, ctl_say_fn say);

/* reads.c, status.c, changes.c, config.c: the commands */
int ctl_status(struct ctl *ctl);
int ctl_health(struct ctl *ctl);
int ctl_doctor(struct ctl *ctl);
int ctl_stat(struct ctl *ctl);
int ctl_version(struct ctl *ctl);
int ctl_list(struct ctl *ctl);
int ctl_show(struct ctl *ctl);
int ctl_policy_show(struct ctl *ctl);
int ctl_numa_show(struct ctl *ctl);
int ctl_client_kick(struct ctl *ctl);
int ctl_tenant_set(struct ctl *ctl);
int ctl_tenant_delete(struct ctl *ctl);
int ctl_epoch_bump(struct ctl *ctl);
int ctl_gpu_drain(struct ctl *ctl);
int ctl_gpu_resume(struct ctl *ctl);
int ctl_tier_iostat(struct ctl *ctl); /* iostat.c */
int ctl_tier_resize(struct ctl *ctl); /* store_changes.c */
int ctl_tier_detach(struct ctl *ctl);
int ctl_tier_flush(struct ctl *ctl);
int ctl_tier_check(struct ctl *ctl);
int ctl_config_check(struct ctl *ctl);
int ctl_config_show(struct ctl *ctl);
int ctl_config_diff(struct ctl *ctl);
int ctl_config_reload(struct ctl *ctl);
int ctl_config_set(struct ctl *ctl);
int ctl_prefix_query(struct ctl *ctl);
int ctl_prefix_pin(struct ctl *ctl);
int ctl_prefix_unpin(struct ctl *ctl);
int ctl_prefix_evict(struct ctl *ctl);
int ctl_prefix_top(struct ctl *ctl);
