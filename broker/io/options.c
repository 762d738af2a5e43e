/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The command line of kvbrokerd; see options.h and docs/man/kvbrokerd.8.
 *
 * Complaints are `kvbrokerd: WHAT: WHY (hint)`. Tenants are read after everything else, because
 * their sizes may be percentages of a device that is named later.
 */

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/io/options.h"
#include "broker/io/size.h"
#include "broker/mover/wire.h"
#include "broker/policy/policy.h"
#include "cuda_driver/gpu.h"
#include "numa/placement.h"

#define SUMS_DEFAULT_MAX 8
#define MS_NS 1000000ull
#define US_NS 1000ull
#define PAGES_MIN (1u << 20)
#define PAGE_BYTES_SMALL (16ull << 10) /* tables are sized for pages of this size */
#define PAGES_MAX (1u << 30)
#define PAGES_TIER_MAX (8u << 20) /* no more than that for the sake of a tier */
#define TIER_PAGE_BYTES (64ull << 10)
#define TIER_SPACES 128u /* each has another below it */
#define MOVER_SUMS_MAX 16u

struct options {
	struct server_config *cfg;
	const char *owner, *mover;              /* of what, as given */
	const char *tenant[SERVER_TENANTS_MAX]; /* as given */
	unsigned tenants;
	bool per_uid_given;
};

static const char options_help[] =
	"usage: kvbrokerd --device DEVICE=SIZE [OPTION]...\n"
	"Owns the KV-cache memory of all LLM engines of this machine and lends it to them.\n"
	"\n"
	"  --device host:NODE=SIZE    serve SIZE of DRAM of a NUMA node (512M, 2G, 30% of the "
	"node)\n"
	"  --device cuda:N=SIZE       serve SIZE of the memory of a GPU; --device may be given "
	"for\n"
	"                             several nodes and GPUs\n"
	"  --device cuda:N@UUID=SIZE  the same of the GPU, or the MIG instance, of that UUID\n"
	"                             (nvidia-smi -L), which engines then call cuda:N\n"
	"  --warm SIZE                of each GPU's memory, lies ready for the next space that "
	"grows;\n"
	"                             default an eighth of it, at most 2G\n"
	"  --host-tier SIZE           keep pages that devices have no room for in SIZE of DRAM, "
	"in\n"
	"                             all, next to the devices; default 0: there is none\n"
	"  --mover-sums N             threads for each device that checksum what is kept there;\n"
	"                             default half the CPUs, at most 8; 0: it is not verified\n"
	"  --store PATH[=SIZE]        keep pages that host memory has no room for in SIZE of a "
	"file or\n"
	"                             block device, also over restarts; may be given for several.\n"
	"                             GPUs need --host-tier for it\n"
	"  --store-admit all|filter   what is written there: whatever goes, or what was wanted "
	"twice;\n"
	"                             default all\n"
	"  --tenant NAME[,KEY=VALUE]  a budget: min= high= max= (sizes, or % of the device), "
	"weight=\n"
	"                             (1 to 1000), uid= (number or name), device=host:NODE or\n"
	"                             cuda:N (else all);\n"
	"                             without any there is `default` for the daemon's own uid\n"
	"  --socket PATH              default " KVB_DEFAULT_SOCKET "\n"
	"  --socket-mode OCTAL        default 0660\n"
	"  --socket-group GROUP       give the socket to a group\n"
	"  --state-dir DIR            lock and stats segment; default /run/kvbroker/state\n"
	"  --policy NAME              who is evicted first; default lru\n"
	"  --max-pages N              default: one for each 16 KiB of the devices, at least "
	"1048576,\n"
	"                             and one for each 64 KiB of the host tier\n"
	"  --max-clients N            default 512\n"
	"  --max-leases N             default: as many as pages\n"
	"  --clients-per-uid N        default: three quarters of --max-clients\n"
	"  --revoke extend|kick|quarantine\n"
	"                             what happens to a slab that is not given back in time; "
	"default\n"
	"                             extend\n"
	"  --revoke-grace MS          how long `extend` adds each time; default 1000\n"
	"  --attach-deadline MS       for a connection to say HELLO; default 5000\n"
	"  --drain MS                 after SIGTERM, for clients to leave; default 5000\n"
	"  --owner-deadline MS        for a request to the processes that keep a GPU's memory and "
	"copy\n"
	"                             it; default 5000\n"
	"  --spin-us N                how long an idle ring stays polled; default 50\n"
	"  --io auto|uring|epoll      where events come from; default auto\n"
	"  --no-huge-pages            do not ask for huge pages for the tables\n"
	"  --foreground               stay in the foreground; this is always so\n"
	"  --log-level error|warn|info|debug\n"
	"  --version, --help\n";

static int complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static int complain(const char *fmt, ...)
{
	va_list args;

	fputs("kvbrokerd: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	return -EINVAL;
}

static int parse_number(const char *what, const char *text, uint64_t min, uint64_t max,
			uint64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || *end || errno || *ret < min || *ret > max)
		return complain("%s: '%s' is not a number from %llu to %llu", what, text,
				(unsigned long long)min, (unsigned long long)max);
	return 0;
}

static int parse_u32(const char *what, const char *text, uint64_t min, uint64_t max, uint32_t *ret)
{
	uint64_t value;

	if (parse_number(what, text, min, max, &value))
		return -EINVAL;
	*ret = (uint32_t)value;
	return 0;
}

static int parse_scaled(const char *what, const char *text, uint64_t min, uint64_t unit_ns,
			uint64_t *ret_ns)
{
	if (parse_number(what, text, min, 86400000, ret_ns))
		return -EINVAL;
	*ret_ns *= unit_ns;
	return 0;
}

/* Which of the words; -EINVAL. The words end with NULL. */
static int parse_word(const char *what, const char *text, const char *const *words)
{
	for (int i = 0; words[i]; i++) {
		if (strcmp(text, words[i]) == 0)
			return i;
	}
	complain("%s: there is no '%s' (see --help)", what, text);
	return -EINVAL;
}

/* ---- devices ------------------------------------------------------------------------------- */

/* "host:0" or "cuda:0", up to `end`. */
static int parse_uuid(const char *what, const char *text, size_t n, char *ret)
{
	bool good = n < SERVER_UUID_BYTES &&
		    (strncmp(text, "GPU-", 4) == 0 || strncmp(text, "MIG-", 4) == 0);

	for (size_t i = 0; i < n && good; i++)
		good = isalnum((unsigned char)text[i]) || strchr("-/", text[i]);
	if (!good)
		return complain("%s: after @ comes a UUID (GPU-... or MIG-..., see nvidia-smi -L)",
				what);
	memcpy(ret, text, n);
	ret[n] = '\0';
	return 0;
}

static int parse_device_name(const char *what, const char *text, const char *end,
			     uint32_t *ret_kind, uint32_t *ret_ordinal)
{
	char number[12];
	size_t n;

	if (strncmp(text, "host:", 5) == 0)
		*ret_kind = KVB_DEVICE_HOST;
	else if (strncmp(text, "cuda:", 5) == 0)
		*ret_kind = KVB_DEVICE_CUDA;
	else
		return complain("%s %s: not a device (host:NODE or cuda:N)", what, text);
	text += 5;
	n = (size_t)(end - text);
	if (n == 0 || n >= sizeof(number))
		return complain("%s: no number after the colon", what);
	memcpy(number, text, n);
	number[n] = '\0';
	return parse_u32(what, number, 0, 1023, ret_ordinal);
}

/* As above, or cuda:N@UUID: that GPU, or that part of one, under the name cuda:N. */
static int parse_device_which(const char *what, const char *text, const char *end,
			      struct server_device_config *ret)
{
	const char *at = memchr(text, '@', (size_t)(end - text));

	ret->uuid[0] = '\0';
	if (parse_device_name(what, text, at ? at : end, &ret->kind, &ret->ordinal))
		return -EINVAL;
	if (!at)
		return 0;
	if (ret->kind != KVB_DEVICE_CUDA)
		return complain("%s %s: only GPUs have UUIDs", what, text);
	return parse_uuid(what, at + 1, (size_t)(end - at - 1), ret->uuid);
}

/* How large a GPU is is known when its owner runs; then its size is looked at again. */
static int parse_device_size(const char *text, const char *size, struct server_device_config *d)
{
	struct placement_memory memory = { 0 };
	const char *why;

	if (d->kind == KVB_DEVICE_HOST && placement_node_memory(d->ordinal, &memory, &why))
		return complain("--device %s: NUMA node %u %s (see numactl -H)", text, d->ordinal,
				why);
	if (size_parse(size, memory.total_bytes, &d->capacity_bytes))
		return complain("--device %s: '%s' is not a size (512M, 2G%s)", text, size,
				d->kind == KVB_DEVICE_HOST ? ", 30%" : "; no % of a GPU");
	if (d->capacity_bytes < GPU_HANDLE_BYTES_MIN)
		return complain("--device %s: less than one handle of 2M", text);
	return 0;
}

static int parse_device(struct server_config *cfg, const char *text)
{
	const char *equals = strchr(text, '=');
	struct server_device_config *d = &cfg->device[cfg->devices];

	if (!equals)
		return complain("--device %s: no size (as host:0=4G, cuda:0=60G)", text);
	if (cfg->devices == SERVER_DEVICES_MAX)
		return complain("--device %s: %u devices are as many as there may be", text,
				SERVER_DEVICES_MAX);
	if (parse_device_which("--device", text, equals, d) ||
	    parse_device_size(text, equals + 1, d))
		return -EINVAL;
	for (unsigned i = 0; i < cfg->devices; i++) {
		if (cfg->device[i].kind == d->kind && cfg->device[i].ordinal == d->ordinal)
			return complain("--device %s: given twice", text);
	}
	cfg->devices++;
	return 0;
}

/* ---- tenants ------------------------------------------------------------------------------- */

static int tenant_uid(const char *text, uint32_t *ret)
{
	const struct passwd *user = isdigit((unsigned char)text[0]) ? NULL : getpwnam(text);

	if (!user)
		return parse_u32("tenant uid", text, 0, UINT32_MAX - 1, ret);
	*ret = user->pw_uid;
	return 0;
}

static int tenant_device(const struct server_config *cfg, const char *text, int *ret)
{
	uint32_t kind, ordinal;

	if (parse_device_name("tenant device", text, text + strlen(text), &kind, &ordinal))
		return -EINVAL;
	for (unsigned i = 0; i < cfg->devices; i++) {
		if (cfg->device[i].kind == kind && cfg->device[i].ordinal == ordinal) {
			*ret = (int)i;
			return 0;
		}
	}
	return complain("tenant device %s: no such device is given (add --device)", text);
}

/* A size, or a percentage of the tenant's device; of all devices only if there is but one. */
static int tenant_size(const struct server_config *cfg, const struct core_tenant_spec *spec,
		       const char *key, const char *text, uint64_t *ret)
{
	uint64_t whole = 0;

	if (spec->device >= 0)
		whole = cfg->device[spec->device].capacity_bytes;
	else if (cfg->devices == 1)
		whole = cfg->device[0].capacity_bytes;
	if (size_parse(text, whole, ret))
		return complain("tenant %s: %s=%s is not a size (512M, 2G; a percentage needs "
				"device= before it)",
				spec->name, key, text);
	return 0;
}

static int tenant_key(const struct server_config *cfg, struct core_tenant_spec *spec,
		      const char *key, const char *value)
{
	if (strcmp(key, "device") == 0)
		return tenant_device(cfg, value, &spec->device);
	if (strcmp(key, "min") == 0)
		return tenant_size(cfg, spec, key, value, &spec->min_bytes);
	if (strcmp(key, "high") == 0)
		return tenant_size(cfg, spec, key, value, &spec->high_bytes);
	if (strcmp(key, "max") == 0)
		return tenant_size(cfg, spec, key, value, &spec->max_bytes);
	if (strcmp(key, "weight") == 0)
		return parse_u32("tenant weight", value, 1, 1000, &spec->weight);
	if (strcmp(key, "uid") == 0)
		return tenant_uid(value, &spec->uid);
	return complain("tenant %s: there is no '%s' (min, high, max, weight, uid, device)",
			spec->name, key);
}

static int tenant_name(const char *name, char ret[KVB_NAME_BYTES])
{
	size_t n = strlen(name);

	if (n == 0 || n >= KVB_NAME_BYTES)
		return complain("tenant '%s': a name has 1 to %u characters", name,
				KVB_NAME_BYTES - 1);
	for (size_t i = 0; i < n; i++) {
		if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
			return complain("tenant '%s': a name has letters, digits, '.', '_', '-'",
					name);
	}
	memcpy(ret, name, n + 1);
	return 0;
}

static int parse_tenant(struct server_config *cfg, const char *text)
{
	struct core_tenant_spec *spec = &cfg->tenant[cfg->tenants];
	char copy[512], *rest = copy, *part;
	int error;

	if (strlen(text) >= sizeof(copy))
		return complain("--tenant: longer than %zu characters", sizeof(copy) - 1);
	memcpy(copy, text, strlen(text) + 1);
	*spec = (struct core_tenant_spec){ .uid = geteuid(),
					   .device = -1,
					   .high_bytes = UINT64_MAX,
					   .max_bytes = UINT64_MAX,
					   .weight = 1 };
	error = tenant_name(strsep(&rest, ","), spec->name);
	while (error == 0 && (part = strsep(&rest, ","))) {
		char *value = strchr(part, '=');

		if (!value)
			return complain("tenant %s: '%s' has no value (KEY=VALUE)", spec->name,
					part);
		*value++ = '\0';
		error = tenant_key(cfg, spec, part, value);
	}
	if (error)
		return error;
	if (spec->high_bytes == UINT64_MAX)
		spec->high_bytes = spec->max_bytes;
	cfg->tenants++;
	return 0;
}

/* ---- options ------------------------------------------------------------------------------- */

enum option_id {
	OPT_SOCKET = 256,
	OPT_SOCKET_MODE,
	OPT_SOCKET_GROUP,
	OPT_STATE_DIR,
	OPT_DEVICE,
	OPT_TENANT,
	OPT_POLICY,
	OPT_MAX_PAGES,
	OPT_MAX_CLIENTS,
	OPT_MAX_LEASES,
	OPT_CLIENTS_PER_UID,
	OPT_REVOKE,
	OPT_REVOKE_GRACE,
	OPT_ATTACH_DEADLINE,
	OPT_DRAIN,
	OPT_SPIN,
	OPT_OWNER_DEADLINE,
	OPT_OWNER,
	OPT_MOVER,
	OPT_WARM,
	OPT_HOST_TIER,
	OPT_MOVER_SUMS,
	OPT_STORE,
	OPT_STORE_ADMIT,
	OPT_IO,
	OPT_NO_HUGE_PAGES,
	OPT_FOREGROUND,
	OPT_LOG_LEVEL,
	OPT_VERSION,
	OPT_HELP,
};

static const struct option options_long[] = {
	{ "socket", required_argument, NULL, OPT_SOCKET },
	{ "socket-mode", required_argument, NULL, OPT_SOCKET_MODE },
	{ "socket-group", required_argument, NULL, OPT_SOCKET_GROUP },
	{ "state-dir", required_argument, NULL, OPT_STATE_DIR },
	{ "device", required_argument, NULL, OPT_DEVICE },
	{ "tenant", required_argument, NULL, OPT_TENANT },
	{ "policy", required_argument, NULL, OPT_POLICY },
	{ "max-pages", required_argument, NULL, OPT_MAX_PAGES },
	{ "max-clients", required_argument, NULL, OPT_MAX_CLIENTS },
	{ "max-leases", required_argument, NULL, OPT_MAX_LEASES },
	{ "clients-per-uid", required_argument, NULL, OPT_CLIENTS_PER_UID },
	{ "revoke", required_argument, NULL, OPT_REVOKE },
	{ "revoke-grace", required_argument, NULL, OPT_REVOKE_GRACE },
	{ "attach-deadline", required_argument, NULL, OPT_ATTACH_DEADLINE },
	{ "drain", required_argument, NULL, OPT_DRAIN },
	{ "spin-us", required_argument, NULL, OPT_SPIN },
	{ "owner-deadline", required_argument, NULL, OPT_OWNER_DEADLINE },
	{ "owner", required_argument, NULL, OPT_OWNER },
	{ "mover", required_argument, NULL, OPT_MOVER },
	{ "warm", required_argument, NULL, OPT_WARM },
	{ "host-tier", required_argument, NULL, OPT_HOST_TIER },
	{ "mover-sums", required_argument, NULL, OPT_MOVER_SUMS },
	{ "store", required_argument, NULL, OPT_STORE },
	{ "store-admit", required_argument, NULL, OPT_STORE_ADMIT },
	{ "io", required_argument, NULL, OPT_IO },
	{ "no-huge-pages", no_argument, NULL, OPT_NO_HUGE_PAGES },
	{ "foreground", no_argument, NULL, OPT_FOREGROUND },
	{ "log-level", required_argument, NULL, OPT_LOG_LEVEL },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

static const char *const io_words[] = {
	[LOOP_AUTO] = "auto", [LOOP_URING] = "uring", [LOOP_EPOLL] = "epoll", NULL
};
static const char *const store_admit_words[] = { "all", "filter", NULL };
static const char *const revoke_words[] = {
	[REVOKE_EXTEND] = "extend", [REVOKE_KICK] = "kick", [REVOKE_QUARANTINE] = "quarantine", NULL
};
static const char *const level_words[] = { [LOG_LEVEL_ERROR] = "error",
					   [LOG_LEVEL_WARN] = "warn",
					   [LOG_LEVEL_INFO] = "info",
					   [LOG_LEVEL_DEBUG] = "debug",
					   NULL };

static int parse_mode(const char *text, uint32_t *ret)
{
	char *end;
	unsigned long mode = strtoul(text, &end, 8);

	if (!isdigit((unsigned char)text[0]) || *end || mode > 0777)
		return complain("--socket-mode: '%s' is not an octal mode (0660)", text);
	*ret = (uint32_t)mode;
	return 0;
}

static int parse_policy(const char *text, const char **ret)
{
	if (!policy_find(text))
		return complain("--policy: there is no '%s' (see broker-ctl policy show)", text);
	*ret = text;
	return 0;
}

static int parse_tier(const char *text, uint64_t *ret)
{
	if (size_parse(text, 0, ret) || (*ret && *ret < GPU_HANDLE_BYTES_MIN))
		return complain("--host-tier: '%s' is not a size of 2M or more (4G), or 0", text);
	return 0;
}

/* PATH, or PATH=SIZE: a path may have a '=' of its own, the last one counts if a size follows. */
static int parse_store(struct server_config *cfg, char *text)
{
	struct server_store_config *store = &cfg->store[cfg->stores];
	char *equals = strrchr(text, '=');

	if (cfg->stores == SERVER_STORES_MAX)
		return complain("--store %s: %u are as many as there may be", text,
				SERVER_STORES_MAX);
	*store = (struct server_store_config){ .path = text };
	if (equals && size_parse(equals + 1, 0, &store->bytes))
		return complain("--store %s: '%s' is not a size (20G)", text, equals + 1);
	if (equals)
		*equals = '\0';
	if (!text[0])
		return complain("--store: there is no path before the size");
	for (unsigned i = 0; i < cfg->stores; i++) {
		if (strcmp(cfg->store[i].path, text) == 0)
			return complain("--store %s: given twice", text);
	}
	cfg->stores++;
	return 0;
}

/* Options that say how much. */
static int option_amount(struct options *o, int option, const char *arg)
{
	struct server_config *cfg = o->cfg;

	switch (option) {
	case OPT_MAX_PAGES:
		return parse_u32("--max-pages", arg, 64, PAGES_MAX, &cfg->limits.pages);
	case OPT_MAX_CLIENTS:
		return parse_u32("--max-clients", arg, 1, 16384, &cfg->limits.clients);
	case OPT_MAX_LEASES:
		return parse_u32("--max-leases", arg, 1, PAGES_MAX, &cfg->limits.leases);
	case OPT_CLIENTS_PER_UID:
		o->per_uid_given = true;
		return parse_u32("--clients-per-uid", arg, 1, 16384, &cfg->clients_per_uid);
	case OPT_REVOKE_GRACE:
		return parse_scaled("--revoke-grace", arg, 1, MS_NS, &cfg->revoke_grace_ns);
	case OPT_ATTACH_DEADLINE:
		return parse_scaled("--attach-deadline", arg, 1, MS_NS, &cfg->attach_deadline_ns);
	case OPT_DRAIN:
		return parse_scaled("--drain", arg, 0, MS_NS, &cfg->drain_ns);
	case OPT_SPIN:
		return parse_scaled("--spin-us", arg, 0, US_NS, &cfg->spin_ns);
	case OPT_WARM:
		return size_parse(arg, 0, &cfg->warm_bytes)
			       ? complain("--warm: '%s' is not a size (1G), or 0", arg)
			       : 0;
	case OPT_HOST_TIER:
		return parse_tier(arg, &cfg->tier_bytes);
	case OPT_MOVER_SUMS:
		return parse_u32("--mover-sums", arg, 0, MOVER_SUMS_MAX, &cfg->mover_sums);
	case OPT_OWNER_DEADLINE:
		return parse_scaled("--owner-deadline", arg, 1, MS_NS, &cfg->owner_deadline_ns);
	default:
		return complain("usage: kvbrokerd --device DEVICE=SIZE [OPTION]... (see --help)");
	}
}

/* A thread checksums some 7 GB/s and a GPU copies 50; engines want their CPUs too. */
static uint32_t default_sums(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN) / 2;

	return cpus < 1 ? 1 : cpus > SUMS_DEFAULT_MAX ? SUMS_DEFAULT_MAX : (uint32_t)cpus;
}

static int option_take(struct options *o, int option, char *arg)
{
	struct server_config *cfg = o->cfg;
	int word;

	switch (option) {
	case OPT_SOCKET:
		cfg->socket = arg;
		return 0;
	case OPT_SOCKET_MODE:
		return parse_mode(arg, &cfg->socket_mode);
	case OPT_SOCKET_GROUP:
		cfg->socket_group = arg;
		return 0;
	case OPT_STATE_DIR:
		cfg->state_dir = arg;
		return 0;
	case OPT_DEVICE:
		return parse_device(cfg, arg);
	case OPT_TENANT:
		if (o->tenants == SERVER_TENANTS_MAX)
			return complain("--tenant: %u are as many as there may be",
					SERVER_TENANTS_MAX);
		o->tenant[o->tenants++] = arg;
		return 0;
	case OPT_POLICY:
		return parse_policy(arg, &cfg->policy);
	case OPT_REVOKE:
		word = parse_word("--revoke", arg, revoke_words);
		cfg->revoke_policy = (enum revoke_policy)word;
		return word < 0 ? word : 0;
	case OPT_IO:
		word = parse_word("--io", arg, io_words);
		cfg->engine = (enum loop_engine)word;
		return word < 0 ? word : 0;
	case OPT_LOG_LEVEL:
		word = parse_word("--log-level", arg, level_words);
		cfg->log_level = (enum log_level)word;
		return word < 0 ? word : 0;
	case OPT_STORE:
		return parse_store(cfg, arg);
	case OPT_STORE_ADMIT:
		word = parse_word("--store-admit", arg, store_admit_words);
		cfg->store_admit = word > 0;
		return word < 0 ? word : 0;
	case OPT_NO_HUGE_PAGES:
		cfg->huge_pages = false;
		return 0;
	case OPT_OWNER:
		o->owner = arg;
		return 0;
	case OPT_MOVER:
		o->mover = arg;
		return 0;
	case OPT_FOREGROUND:
		return 0;
	default:
		return option_amount(o, option, arg);
	}
}

/* Pages of a tier come on top, and are never leased. */
static void options_settle_pages(struct server_config *cfg, uint32_t of_devices)
{
	uint64_t more = cfg->tier_bytes / TIER_PAGE_BYTES;
	uint32_t room = of_devices < PAGES_TIER_MAX ? PAGES_TIER_MAX - of_devices : 0;

	cfg->limits.pages = of_devices + (more < room ? (uint32_t)more : room);
	if (!cfg->limits.leases)
		cfg->limits.leases = of_devices;
}

/* What depends on several options. */
static int options_settle(struct options *o)
{
	struct server_config *cfg = o->cfg;
	uint64_t pages = 0;

	if (!cfg->devices)
		return complain(
			"no device: nothing to serve (give --device host:0=4G or cuda:0=60G)");
	for (unsigned i = 0; i < cfg->devices; i++)
		pages += cfg->device[i].capacity_bytes / PAGE_BYTES_SMALL;
	if (!cfg->limits.pages)
		options_settle_pages(cfg, pages < PAGES_MIN   ? PAGES_MIN
					  : pages > PAGES_MAX ? PAGES_MAX
							      : (uint32_t)pages);
	if (cfg->tier_bytes)
		cfg->limits.spaces = TIER_SPACES;
	if (cfg->tier_bytes || cfg->stores)
		cfg->limits.transfers = MOVER_RING_ENTRIES;
	for (unsigned i = 0; cfg->stores && !cfg->tier_bytes && i < cfg->devices; i++) {
		if (cfg->device[i].kind == KVB_DEVICE_CUDA)
			return complain("--store: pages of cuda:%u pass through host memory on "
					"their way there (give --host-tier too)",
					cfg->device[i].ordinal);
	}
	if (!o->per_uid_given)
		cfg->clients_per_uid = (cfg->limits.clients * 3 + 3) / 4;
	for (unsigned i = 0; i < o->tenants; i++) {
		if (parse_tenant(cfg, o->tenant[i]))
			return -EINVAL;
	}
	return 0;
}

/* The daemon itself gives one of these, and nothing beside it but how much to say. */
static int options_process(const struct options *o, struct server_device_config *ret)
{
	const char *option = o->owner ? "--owner" : "--mover";
	const char *text = o->owner ? o->owner : o->mover;

	if (parse_device_which(option, text, text + strlen(text), ret))
		return -EINVAL;
	if (o->owner && ret->kind != KVB_DEVICE_CUDA)
		return complain("--owner %s: not a GPU (cuda:N)", text);
	return 0;
}

enum options_verdict options_parse(int argc, char **argv, struct server_config *ret,
				   struct server_device_config *ret_device)
{
	struct options o = { .cfg = ret };
	int option;

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
	opterr = 0;
	while ((option = getopt_long(argc, argv, "", options_long, NULL)) != -1) {
		if (option == OPT_HELP) {
			fputs(options_help, stdout);
			return OPTIONS_EXIT;
		}
		if (option == OPT_VERSION) {
			printf("kvbrokerd %s, protocol %u\n", KVB_VERSION, KVB_ABI_VERSION);
			return OPTIONS_EXIT;
		}
		if (option == '?') {
			complain("%s: not an option, or its value is missing (see --help)",
				 argv[optind - 1]);
			return OPTIONS_WRONG;
		}
		if (option_take(&o, option, optarg))
			return OPTIONS_WRONG;
	}
	if (optind < argc) {
		complain("%s: an argument without an option (see --help)", argv[optind]);
		return OPTIONS_WRONG;
	}
	if ((o.owner || o.mover) && options_process(&o, ret_device))
		return OPTIONS_WRONG;
	if (o.owner || o.mover)
		return o.owner ? OPTIONS_OWNER : OPTIONS_MOVER;
	return options_settle(&o) ? OPTIONS_WRONG : OPTIONS_RUN;
}
