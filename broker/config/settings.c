/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The table of settings, and how a text becomes a value and a value a text; see settings.h.
 */

#include "broker/config/settings.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/config/nearest.h"
#include "broker/io/size.h"
#include "broker/policy/policy.h"
#include "cuda_driver/gpu.h"

#define SUMS_DEFAULT_MAX 8
#define MOVER_SUMS_MAX 16u
#define CLIENTS_MAX 16384u
#define MS_NS 1000000ull
#define US_NS 1000ull

static const char *const words_io[] = {
	[LOOP_AUTO] = "auto", [LOOP_URING] = "uring", [LOOP_EPOLL] = "epoll", NULL
};
static const char *const words_store_admit[] = { "all", "filter", NULL };
static const char *const words_revoke[] = {
	[REVOKE_EXTEND] = "extend", [REVOKE_KICK] = "kick", [REVOKE_QUARANTINE] = "quarantine", NULL
};
static const char *const words_level[] = { [LOG_LEVEL_ERROR] = "error",
					   [LOG_LEVEL_WARN] = "warn",
					   [LOG_LEVEL_INFO] = "info",
					   [LOG_LEVEL_DEBUG] = "debug",
					   NULL };
static const char *const words_switch[] = { "no", "yes", NULL };

static const struct setting_key keys_device[] = { { "size", "SIZE" }, { "uuid", "UUID" } };
static const struct setting_key keys_store[] = { { "size", "SIZE" } };
static const struct setting_key keys_tenant[] = { { "device", "DEVICE" }, { "min", "SIZE" },
						  { "high", "SIZE" },     { "max", "SIZE" },
						  { "weight", "N" },      { "uid", "USER" } };

#define FIELD(member)                                                                              \
	.at = offsetof(struct server_config, member),                                              \
	.bytes = sizeof(((struct server_config *)0)->member)
#define KEYS(list)                                                                                 \
	.kind = SETTING_SECTION, .keys = (list), .keys_n = sizeof(list) / sizeof((list)[0])

const struct setting settings[] = {
	{ "device", "DEVICE=SIZE",
	  "serve SIZE of DRAM of a NUMA node (host:0=4G, host:1=30%), of a GPU\n"
	  "(cuda:0=60G), or of the GPU or MIG instance of a UUID, under the\n"
	  "name cuda:N (cuda:0@UUID=60G); may be given for several",
	  KEYS(keys_device) },
	{ "store", "PATH[=SIZE]",
	  "keep pages that host memory has no room for in SIZE of a file or\n"
	  "block device, also over restarts; may be given for several. GPUs\n"
	  "need --host-tier for it",
	  KEYS(keys_store) },
	{ "tenant", "NAME[,KEY=VALUE]",
	  "a budget: min= high= max= (sizes, or % of the device), weight= (1 to\n"
	  "1000), uid= (number or name), device=host:NODE or cuda:N (else all);\n"
	  "without any there is `default` for the daemon's own uid",
	  KEYS(keys_tenant) },
	{ "warm", "SIZE",
	  "of each GPU's memory, lies ready for the next space that grows;\n"
	  "default an eighth of it, at most 2G",
	  SETTING_SIZE, FIELD(warm_bytes), .automatic = "auto" },
	{ "host_tier", "SIZE",
	  "keep pages that devices have no room for in SIZE of DRAM, in all,\n"
	  "next to the devices; default 0: there is none",
	  SETTING_SIZE, FIELD(tier_bytes), .min = GPU_HANDLE_BYTES_MIN },
	{ "mover_sums", "N",
	  "threads for each device that checksum what is kept there; default\n"
	  "half the CPUs, at most 8; 0: it is not verified",
	  SETTING_NUMBER, FIELD(mover_sums), .max = MOVER_SUMS_MAX },
	{ "store_admit", "WHAT",
	  "what is written to stores: all, whatever goes, or filter, what was\n"
	  "wanted twice; default all",
	  SETTING_WORD, .live = true, FIELD(store_admit), .words = words_store_admit },
	{ "policy", "NAME", "who is evicted first; default lru", SETTING_POLICY, FIELD(policy) },
	{ "revoke", "WHAT",
	  "what happens to a slab that is not given back in time: extend, kick\n"
	  "or quarantine; default extend",
	  SETTING_WORD, .live = true, FIELD(revoke_policy), .words = words_revoke },
	{ "revoke_grace", "MS",
	  "how long there is to give a slab back, and how much `extend` adds\n"
	  "each time; default 1000",
	  SETTING_TIME, .live = true, FIELD(revoke_grace_ns), .min = 1, .unit = MS_NS },
	{ "max_pages", "N",
	  "default: one for each 16 KiB of the devices, at least 1048576, and\n"
	  "one for each 64 KiB of the host tier",
	  SETTING_NUMBER, FIELD(limits.pages), .min = 64, .max = SETTING_PAGES_MAX },
	{ "max_leases", "N", "default: as many as pages", SETTING_NUMBER, FIELD(limits.leases),
	  .min = 1, .max = SETTING_PAGES_MAX },
	{ "max_clients", "N", "default 512", SETTING_NUMBER, FIELD(limits.clients), .min = 1,
	  .max = CLIENTS_MAX },
	{ "clients_per_uid", "N", "default: three quarters of --max-clients", SETTING_NUMBER,
	  .live = true, FIELD(clients_per_uid), .min = 1, .max = CLIENTS_MAX },
	{ "attach_deadline", "MS", "for a connection to say HELLO; default 5000", SETTING_TIME,
	  .live = true, FIELD(attach_deadline_ns), .min = 1, .unit = MS_NS },
	{ "drain", "MS",
	  "after SIGTERM, for clients to leave, and as long again for the store to be\n"
	  "written; default 5000",
	  SETTING_TIME, .live = true, FIELD(drain_ns), .unit = MS_NS },
	{ "owner_deadline", "MS",
	  "for a request to the processes that keep a GPU's memory and copy it;\n"
	  "default 5000",
	  SETTING_TIME, FIELD(owner_deadline_ns), .min = 1, .unit = MS_NS },
	{ "socket", "PATH", "default " KVB_DEFAULT_SOCKET, SETTING_STRING, FIELD(socket) },
	{ "socket_mode", "OCTAL", "default 0660", SETTING_MODE, FIELD(socket_mode) },
	{ "socket_group", "GROUP", "give the socket to a group", SETTING_STRING,
	  FIELD(socket_group) },
	{ "state_dir", "DIR", "lock and stats segment; default /run/kvbroker/state", SETTING_STRING,
	  FIELD(state_dir) },
	{ "io", "ENGINE", "where events come from: auto, uring or epoll; default auto",
	  SETTING_WORD, FIELD(engine), .words = words_io },
	{ "spin_us", "US", "how long an idle ring stays polled; default 50", SETTING_TIME,
	  .live = true, FIELD(spin_ns), .unit = US_NS },
	{ "huge_pages", NULL, "do not ask for huge pages for the tables", SETTING_SWITCH,
	  FIELD(huge_pages), .words = words_switch },
	{ "log_level", "LEVEL", "error, warn, info or debug; default info", SETTING_WORD,
	  .live = true, FIELD(log_level), .words = words_level },
};
const unsigned settings_n = sizeof(settings) / sizeof(settings[0]);

/* A thread checksums some 7 GB/s and a GPU copies 50; engines want their CPUs too. */
static uint32_t default_sums(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN) / 2;

	return cpus < 1 ? 1 : cpus > SUMS_DEFAULT_MAX ? SUMS_DEFAULT_MAX : (uint32_t)cpus;
}

void settings_init(struct server_config *ret)
{
	*ret = (struct server_config){
		.socket = KVB_DEFAULT_SOCKET,
		.state_dir = "/run/kvbroker/state",
		.policy = "lru",
		.engine = LOOP_AUTO,
		.revoke_policy = REVOKE_EXTEND,
		.revoke_grace_ns = 1000 * MS_NS,
		.attach_deadline_ns = 5000 * MS_NS,
		.drain_ns = 5000 * MS_NS,
		.spin_ns = 50 * US_NS,
		.owner_deadline_ns = 5000 * MS_NS,
		.warm_bytes = UINT64_MAX,
		.mover_sums = default_sums(),
		.log_level = LOG_LEVEL_INFO,
		.admins_max = 32,
		.socket_mode = 0660,
		.huge_pages = true,
		.limits = { .clients = 512 },
	};
}

int setting_find(const char *name)
{
	for (unsigned i = 0; i < settings_n; i++) {
		if (strcmp(settings[i].name, name) == 0)
			return (int)i;
	}
	return -1;
}

void setting_option(const struct setting *s, char *ret, size_t bytes)
{
	(void)snprintf(ret, bytes, "%s%s", s->kind == SETTING_SWITCH ? "no-" : "", s->name);
	for (; *ret; ret++) {
		if (*ret == '_')
			*ret = '-';
	}
}

/* ---- texts into values --------------------------------------------------------------------- */

int setting_refuse(char *why, size_t why_bytes, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(why, why_bytes, fmt, args);
	va_end(args);
	return -EINVAL;
}

int setting_take_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret, char *why,
			size_t why_bytes)
{
	char *end;

	errno = 0;
	*ret = strtoull(text, &end, 10);
	if (isdigit((unsigned char)text[0]) && !*end && !errno && *ret >= min && *ret <= max)
		return 0;
	return setting_refuse(why, why_bytes, "'%s' is not a number from %llu to %llu", text,
			      (unsigned long long)min, (unsigned long long)max);
}

/* An enum or a bool, by the size of the field. */
static void put_word(const struct setting *s, struct server_config *cfg, unsigned word)
{
	void *field = (char *)cfg + s->at;

	if (s->bytes == sizeof(bool))
		*(bool *)field = word;
	else
		memcpy(field, &word, sizeof(word));
}

static unsigned get_word(const struct setting *s, const struct server_config *cfg)
{
	const void *field = (const char *)cfg + s->at;
	unsigned word;

	if (s->bytes == sizeof(bool))
		return *(const bool *)field;
	memcpy(&word, field, sizeof(word));
	return word;
}

static int take_word(const struct setting *s, struct server_config *cfg, const char *text,
		     char *why, size_t why_bytes)
{
	const char *near = NULL;
	unsigned least = NEAREST_MAX + 1;
	char list[64] = "";
	size_t at = 0;

	for (unsigned i = 0; s->words[i]; i++) {
		if (strcmp(text, s->words[i]) == 0) {
			put_word(s, cfg, i);
			return 0;
		}
		if (nearest_take(text, s->words[i], &least))
			near = s->words[i];
		at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", i ? ", " : "",
				       s->words[i]);
	}
	return setting_refuse(why, why_bytes, "'%s' is none of %s%s%s%s", text, list,
			      near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static int take_size(const struct setting *s, const char *text, uint64_t *ret, char *why,
		     size_t why_bytes)
{
	char least[32];

	if (s->automatic && strcmp(text, s->automatic) == 0) {
		*ret = UINT64_MAX;
		return 0;
	}
	if (size_parse(text, 0, ret) == 0 && (*ret == 0 || *ret >= s->min))
		return 0;
	setting_print_size(s->min, least, sizeof(least));
	return setting_refuse(why, why_bytes, "'%s' is not a size (4G, 512M)%s%s, or 0", text,
			      s->min ? " of at least " : "", s->min ? least : "");
}

static int take_mode(const char *text, uint32_t *ret, char *why, size_t why_bytes)
{
	char *end;
	unsigned long mode = strtoul(text, &end, 8);

	if (!isdigit((unsigned char)text[0]) || *end || mode > 0777)
		return setting_refuse(why, why_bytes, "'%s' is not an octal mode (0660)", text);
	*ret = (uint32_t)mode;
	return 0;
}

static int take_string(const struct setting *s, const char *text, const char **ret, char *why,
		       size_t why_bytes)
{
	if (!text[0] || strlen(text) >= SETTING_TEXT_BYTES)
		return setting_refuse(why, why_bytes, "it is %s", text[0] ? "too long" : "empty");
	if (s->kind == SETTING_POLICY && !policy_find(text))
		return setting_refuse(why, why_bytes, "there is no policy '%s' (lru)", text);
	*ret = text;
	return 0;
}

int setting_take(const struct setting *s, struct server_config *cfg, const char *text, char *why,
		 size_t why_bytes)
{
	void *field = (char *)cfg + s->at;
	uint64_t n;

	switch (s->kind) {
	case SETTING_STRING:
	case SETTING_POLICY:
		return take_string(s, text, field, why, why_bytes);
	case SETTING_MODE:
		return take_mode(text, field, why, why_bytes);
	case SETTING_WORD:
	case SETTING_SWITCH:
		return take_word(s, cfg, text, why, why_bytes);
	case SETTING_NUMBER:
		if (setting_take_number(text, s->min, s->max, &n, why, why_bytes))
			return -EINVAL;
		*(uint32_t *)field = (uint32_t)n;
		return 0;
	case SETTING_TIME:
		if (setting_take_number(text, s->min, SETTING_TIME_MAX, &n, why, why_bytes))
			return -EINVAL;
		*(uint64_t *)field = n * s->unit;
		return 0;
	case SETTING_SIZE:
		return take_size(s, text, field, why, why_bytes);
	case SETTING_SECTION:
		break;
	}
	return setting_refuse(why, why_bytes, "%s is a section", s->name);
}

/* ---- values into texts --------------------------------------------------------------------- */

void setting_print_size(uint64_t n, char *ret, size_t bytes)
{
	static const char units[] = "\0KMGTP";
	unsigned unit = 0;

	while (n && n % 1024 == 0 && units[unit + 1]) {
		n /= 1024;
		unit++;
	}
	(void)snprintf(ret, bytes, "%llu%.1s", (unsigned long long)n, units + unit);
}

void setting_print(const struct setting *s, const struct server_config *cfg, char *ret,
		   size_t bytes)
{
	const void *field = (const char *)cfg + s->at;
	const char *text;

	ret[0] = '\0';
	switch (s->kind) {
	case SETTING_STRING:
	case SETTING_POLICY:
		text = *(const char *const *)field;
		(void)snprintf(ret, bytes, "%s", text ? text : "");
		break;
	case SETTING_MODE:
		(void)snprintf(ret, bytes, "%04o", *(const uint32_t *)field);
		break;
	case SETTING_WORD:
	case SETTING_SWITCH:
		(void)snprintf(ret, bytes, "%s", s->words[get_word(s, cfg)]);
		break;
	case SETTING_NUMBER:
		(void)snprintf(ret, bytes, "%u", *(const uint32_t *)field);
		break;
	case SETTING_TIME:
		(void)snprintf(ret, bytes, "%llu",
			       (unsigned long long)(*(const uint64_t *)field / s->unit));
		break;
	case SETTING_SIZE:
		if (s->automatic && *(const uint64_t *)field == UINT64_MAX)
			(void)snprintf(ret, bytes, "%s", s->automatic);
		else
			setting_print_size(*(const uint64_t *)field, ret, bytes);
		break;
	case SETTING_SECTION:
		break;
	}
}
