/* SPDX-License-Identifier: Apache-2.0 */

/*
 * kvb-replay's command line. An option that has no meaning in the mode asked for is refused:
 * nothing that is typed is silently ignored.
 */

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/policy/policy.h"
#include "tools/kvb-replay/replay.h"
#include "uapi/kvbroker.h"

#define PAGE_BYTES_DEFAULT (64u << 10)
#define PAGE_BYTES_MAX (1ull << 30)

static const char USAGE[] =
	"usage: kvb-replay --trace FILE [--broker SOCKET] [OPTION...]      against a running "
	"broker\n"
	"       kvb-replay --trace FILE --sim --capacity-pages N [OPTION...]   offline\n"
	"\n"
	"  --trace FILE         requests, one JSON object a line; - is standard input\n"
	"  --verify             check every page that is found against what its key says\n"
	"  --json               print the result as one line of JSON\n"
	"live:\n"
	"  --broker SOCKET      of kvbrokerd (default $KVBROKER_SOCKET, else " KVB_DEFAULT_SOCKET
	")\n"
	"  --clients N          processes that share the trace (default 4)\n"
	"  --page-bytes SIZE    one block, all regions together (default 64K)\n"
	"  --regions R          a page lies in R regions, as with one a layer (default 1)\n"
	"  --device DEVICE      host:NODE, or cuda:N for a GPU (default host:0)\n"
	"  --tenant NAME        whose budget it is (default \"default\")\n"
	"  --speed max|FACTOR   as fast as it goes (default), or FACTOR times the trace's own "
	"pace\n"
	"offline:\n"
	"  --sim                drive the broker's core in this process\n"
	"  --capacity-pages N   pages of the cache\n"
	"  --tiers D,H[,S]      in its place: pages of the device, of the host tier below it (0: "
	"none)\n"
	"                       and of the store below that\n"
	"  --store-admit all|filter   what is written to the store: whatever goes, or what was "
	"wanted\n"
	"                       twice (default all)\n"
	"  --policy NAME        what is evicted (default lru)\n"
	"  --per-request FILE   write the hits of each request, one number a line\n"
	"  --help, --version\n";

enum option_id {
	OPT_TRACE = 256,
	OPT_VERIFY,
	OPT_JSON,
	OPT_HELP,
	OPT_VERSION,
	OPT_BROKER, /* first that is live only */
	OPT_CLIENTS,
	OPT_PAGE_BYTES,
	OPT_REGIONS,
	OPT_DEVICE,
	OPT_TENANT,
	OPT_SPEED,
	OPT_SIM, /* first that is offline only */
	OPT_CAPACITY,
	OPT_TIERS,
	OPT_STORE_ADMIT,
	OPT_POLICY,
	OPT_PER_REQUEST,
	OPT_END,
};

static const struct option OPTIONS[] = {
	{ "trace", required_argument, NULL, OPT_TRACE },
	{ "verify", no_argument, NULL, OPT_VERIFY },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "help", no_argument, NULL, OPT_HELP },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "broker", required_argument, NULL, OPT_BROKER },
	{ "clients", required_argument, NULL, OPT_CLIENTS },
	{ "page-bytes", required_argument, NULL, OPT_PAGE_BYTES },
	{ "regions", required_argument, NULL, OPT_REGIONS },
	{ "device", required_argument, NULL, OPT_DEVICE },
	{ "tenant", required_argument, NULL, OPT_TENANT },
	{ "speed", required_argument, NULL, OPT_SPEED },
	{ "sim", no_argument, NULL, OPT_SIM },
	{ "capacity-pages", required_argument, NULL, OPT_CAPACITY },
	{ "tiers", required_argument, NULL, OPT_TIERS },
	{ "store-admit", required_argument, NULL, OPT_STORE_ADMIT },
	{ "policy", required_argument, NULL, OPT_POLICY },
	{ "per-request", required_argument, NULL, OPT_PER_REQUEST },
	{ 0 },
};

void replay_say(const char *format, ...)
{
	char text[1024];
	int n = snprintf(text, sizeof(text), "kvb-replay: ");
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(text + n, sizeof(text) - (size_t)n, format, ap);
	va_end(ap);
	(void)fprintf(stderr, "%s\n", text);
}

static const char *name_of(int id)
{
	for (const struct option *o = OPTIONS; o->name; o++)
		if (o->val == id)
			return o->name;
	return "?";
}

/* A whole number in [min, max]; with_unit: K, M, G and T may follow. False: said why. */
static bool take_number(int id, const char *text, uint64_t min, uint64_t max, bool with_unit,
			uint64_t *ret)
{
	static const char UNITS[] = "KMGT";
	const char *unit;
	uint64_t value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || text[0] < '0' || text[0] > '9')
		goto bad;
	if (with_unit && *end && (unit = strchr(UNITS, *end))) {
		unsigned shift = 10 * (unsigned)(unit - UNITS + 1);

		if (value > UINT64_MAX >> shift)
			goto bad;
		value <<= shift;
		end++;
	}
	if (*end || value < min || value > max)
		goto bad;
	*ret = value;
	return true;
bad:
	replay_say("--%s takes a number from %" PRIu64 " to %" PRIu64 "%s, not '%s'", name_of(id),
		   min, max, with_unit ? ", as in 64K," : "", text);
	return false;
}

static bool take_device(const char *text, uint32_t *ret_kind, uint32_t *ret_ordinal)
{
	uint64_t ordinal;

	if (strncmp(text, "host:", 5) == 0) {
		*ret_kind = KVB_DEVICE_HOST;
	} else if (strncmp(text, "cuda:", 5) == 0) {
		*ret_kind = KVB_DEVICE_CUDA;
	} else {
		replay_say("--device takes host:NODE or cuda:N, not '%s'", text);
		return false;
	}
	if (!take_number(OPT_DEVICE, text + 5, 0, 1023, /* with_unit = */ false, &ordinal))
		return false;
	*ret_ordinal = (uint32_t)ordinal;
	return true;
}

static bool take_speed(const char *text, double *ret)
{
	double speed;
	char *end;

	if (strcmp(text, "max") == 0) {
		*ret = 0;
		return true;
	}
	speed = strtod(text, &end);
	if (end == text || *end || !(speed >= 1e-3 && speed <= 1e6)) {
		replay_say("--speed takes max or a factor from 0.001 to 1000000, not '%s'", text);
		return false;
	}
	*ret = speed;
	return true;
}

static bool take_tenant(const char *text, const char **ret)
{
	if (!*text || strlen(text) >= KVB_NAME_BYTES) {
		replay_say("--tenant takes a name of 1 to %u bytes, not '%s'", KVB_NAME_BYTES - 1,
			   text);
		return false;
	}
	*ret = text;
	return true;
}

/*
 * D,H or D,H,S: what --capacity-pages said before or says later must be D. There is something below
 * the device, so H is 0 only above a store.
 */
static bool take_tiers(const char *text, struct replay_options *o)
{
	uint64_t *const ret[] = { &o->device_pages, &o->host_pages, &o->store_pages };
	char part[3][32] = { "" };
	unsigned n = 0;
	size_t length;

	for (const char *at = text;; at += length + 1) {
		length = strcspn(at, ",");
		if (n == 3 || length >= sizeof(part[0])) {
			n = 0;
			break;
		}
		memcpy(part[n++], at, length);
		if (!at[length])
			break;
	}
	if (n < 2) {
		replay_say(
			"--tiers takes pages of the device, of the host tier and of the store, as "
			"in 1000,8000 or 1000,8000,50000, not '%s'",
			text);
		return false;
	}
	o->store_pages = 0;
	for (unsigned i = 0; i < n; i++) {
		if (!take_number(OPT_TIERS, part[i], n == 3 && i == 1 ? 0 : 1, SIM_PAGES_MAX, false,
				 ret[i]))
			return false;
	}
	return true;
}

static bool take_admit(const char *text, bool *ret_filter)
{
	*ret_filter = strcmp(text, "filter") == 0;
	if (*ret_filter || strcmp(text, "all") == 0)
		return true;
	replay_say("--store-admit takes all or filter, not '%s'", text);
	return false;
}

static bool take_policy(const char *text, const char **ret)
{
	const struct policy_ops *policy = policy_find(text);

	if (policy) {
		*ret = policy->name;
		return true;
	}
	replay_say("--policy: there is no policy '%s'; there is:", text);
	for (unsigned i = 0; (policy = policy_at(i)); i++)
		(void)fprintf(stderr, "  %-12s %s\n", policy->name, policy->summary);
	return false;
}

static bool take_option(struct replay_options *o, int id, const char *arg)
{
	uint64_t number = 0;
	bool ok = true;

	switch (id) {
	case OPT_TRACE:
		o->trace = arg;
		break;
	case OPT_VERIFY:
		o->verify = true;
		break;
	case OPT_JSON:
		o->json = true;
		break;
	case OPT_BROKER:
		o->broker = arg;
		break;
	case OPT_CLIENTS:
		ok = take_number(id, arg, 1, REPLAY_CLIENTS_MAX, false, &number);
		o->clients = (uint32_t)number;
		break;
	case OPT_PAGE_BYTES:
		ok = take_number(id, arg, 64, PAGE_BYTES_MAX, true, &o->page_bytes);
		break;
	case OPT_REGIONS:
		ok = take_number(id, arg, 1, KVB_REGIONS_MAX, false, &number);
		o->regions = (uint32_t)number;
		break;
	case OPT_DEVICE:
		ok = take_device(arg, &o->device_kind, &o->device_ordinal);
		break;
	case OPT_TENANT:
		ok = take_tenant(arg, &o->tenant);
		break;
	case OPT_SPEED:
		ok = take_speed(arg, &o->speed);
		break;
	case OPT_SIM:
		o->sim = true;
		break;
	case OPT_CAPACITY:
		ok = take_number(id, arg, 1, SIM_PAGES_MAX, false, &o->capacity_pages);
		break;
	case OPT_TIERS:
		ok = take_tiers(arg, o);
		break;
	case OPT_STORE_ADMIT:
		ok = take_admit(arg, &o->store_filter);
		break;
	case OPT_POLICY:
		ok = take_policy(arg, &o->policy);
		break;
	case OPT_PER_REQUEST:
		o->per_request = arg;
		break;
	}
	return ok;
}

/* --tiers says the capacity too; both may be there and must agree. */
static bool settle_capacity(struct replay_options *o)
{
	if (!o->capacity_pages)
		o->capacity_pages = o->device_pages;
	if (o->sim && !o->capacity_pages) {
		replay_say("--sim needs --capacity-pages N or --tiers D,H[,S]");
		return false;
	}
	if (o->device_pages && o->capacity_pages != o->device_pages) {
		replay_say("--capacity-pages %" PRIu64 " and --tiers %" PRIu64
			   ",... name two sizes of the device",
			   o->capacity_pages, o->device_pages);
		return false;
	}
	return true;
}

/* What belongs together, once everything was read. given[id - OPT_TRACE]: the option was there. */
static bool check_options(struct replay_options *o, const bool *given)
{
	int first = o->sim ? OPT_BROKER : OPT_SIM;
	int end = o->sim ? OPT_SIM : OPT_END;

	if (!o->trace) {
		replay_say("--trace FILE is missing (kvb-replay --help tells more)");
		return false;
	}
	for (int id = first; id < end; id++) {
		if (given[id - OPT_TRACE]) {
			replay_say("--%s has no meaning %s --sim", name_of(id),
				   o->sim ? "with" : "without");
			return false;
		}
	}
	if (!settle_capacity(o))
		return false;
	if (given[OPT_STORE_ADMIT - OPT_TRACE] && !o->store_pages) {
		replay_say("--store-admit: there is no store it could be of (--tiers D,H,S)");
		return false;
	}
	if (o->page_bytes % (64ull * o->regions) != 0) {
		replay_say("--page-bytes %" PRIu64 " does not divide into %" PRIu32
			   " regions of a multiple of 64 bytes each",
			   o->page_bytes, o->regions);
		return false;
	}
	return true;
}

static enum replay_exit replay(const struct replay_options *o)
{
	struct replay_result result = { 0 };
	char why[TRACE_WHY_BYTES];
	struct trace trace = { 0 };
	enum replay_exit code;

	if (trace_load(o->trace, &trace, why) < 0) {
		replay_say("%s", why);
		return REPLAY_USAGE;
	}
	code = o->sim ? sim_run(o, &trace, &result) : live_run(o, &trace, &result);
	trace_free(&trace);
	if (code != REPLAY_OK)
		return code;
	report_print(o, &result);
	if (fflush(stdout) != 0) {
		replay_say("standard output: %s", strerror(errno));
		return REPLAY_FAILED;
	}
	if (result.n.corrupt > 0)
		return REPLAY_FAILED;
	return result.interrupted ? REPLAY_INTERRUPTED : REPLAY_OK;
}

int main(int argc, char **argv)
{
	struct replay_options o = {
		.policy = policy_lru.name,
		.clients = 4,
		.regions = 1,
		.page_bytes = PAGE_BYTES_DEFAULT,
		.device_kind = KVB_DEVICE_HOST,
	};
	bool given[OPT_END - OPT_TRACE] = { false };
	const char *socket = getenv("KVBROKER_SOCKET");
	int id;

	o.broker = socket && *socket ? socket : KVB_DEFAULT_SOCKET;

	while ((id = getopt_long(argc, argv, ":", OPTIONS, NULL)) != -1) {
		if (id == OPT_HELP) {
			(void)fputs(USAGE, stdout);
			return REPLAY_OK;
		}
		if (id == OPT_VERSION) {
			printf("kvb-replay %s\n", KVB_VERSION);
			return REPLAY_OK;
		}
		if (id == '?' || id == ':') {
			replay_say("%s: %s (kvb-replay --help tells more)", argv[optind - 1],
				   id == ':' ? "a value is missing"
					     : "not an option, or a value too many");
			return REPLAY_USAGE;
		}
		if (!take_option(&o, id, optarg))
			return REPLAY_USAGE;
		given[id - OPT_TRACE] = true;
	}
	if (optind < argc) {
		replay_say("'%s' is no option (kvb-replay --help tells more)", argv[optind]);
		return REPLAY_USAGE;
	}
	if (!check_options(&o, given))
		return REPLAY_USAGE;
	return (int)replay(&o);
}
