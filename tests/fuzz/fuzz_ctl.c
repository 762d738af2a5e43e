/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Any command of an operator, against a server that has something to be asked about: an engine with
 * sealed, leased and held pages in a namespace that the words below name.
 *
 * An input is a run of requests: flags, a number of arguments, and each argument a word of the
 * table or bytes as they come; or a datagram that is not even that. Whatever is answered must be
 * whole JSON with an exit code of the manual; the tables must be sound after each.
 */

#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "broker/admin/exit_codes.h"
#include "tests/fuzz/server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define PAGES 8u
#define REQUESTS_MAX 16u
#define EXIT_CODES 9u /* 0..8 */

static const char *const words[] = {
	"client",
	"kick",
	"tenant",
	"set",
	"delete",
	"epoch",
	"bump",
	"prefix",
	"lookup",
	"explain",
	"pin",
	"unpin",
	"evict",
	"top",
	"health",
	"--deep",
	"--by",
	"idle",
	"--count",
	"3",
	"0",
	"1",
	"default",
	"other",
	"new",
	"min=2M",
	"max=4M",
	"high=3M",
	"weight=7",
	"uid=0",
	"min=50%",
	"max=all",
	"--salt",
	"--space",
	"7700000000",
	"default/77",
	"77",
	"min=99T",
	"weight=0",
	"leases",
	"hits",
	"device=host:0",
	"--nope",
	"",
	"weight=-1",
	"0xffffffff",
	"max=4M,x",
	"01000000000000000000000000000000",
	"02000000000000000000000000000000",
	"ff000000000000000000000000000000",
	"0100000000000000000000000000000",
	"tier",
	"resize",
	"detach",
	"flush",
	"check",
};

struct world {
	struct server s;
	struct fuzz_input in;
	struct peer engine;
	struct peer admin;
};

static void pump(void *arg)
{
	fuzz_server_settle(arg);
}

/* PAGES pages, the first half sealed under hashes 1, 2, ... and the first of them not leased. */
static void fill(struct world *w)
{
	struct peer *p = &w->engine;
	struct kvb_sqe ns = { .opcode = KVB_OP_NS_OPEN, .count = 1 };
	struct kvb_sqe grow = { .opcode = KVB_OP_SPACE_GROW, .count = 1, .arg = 1 };
	struct kvb_sqe alloc = { .opcode = KVB_OP_ALLOC, .count = PAGES };
	struct kvb_sqe seal = { .opcode = KVB_OP_SEAL, .count = PAGES / 2 };
	struct kvb_sqe release = { .opcode = KVB_OP_RELEASE, .count = 1 };
	struct kvb_ns_open open = { .digest = { 0x77 }, .flags = KVB_NS_ADMIN };
	struct kvb_ns_info info;
	kvb_page_t pages[PAGES];
	struct kvb_cqe cqe;

	peer_adopt(p, fuzz_server_connect(&w->s));
	p->idle = pump;
	p->idle_arg = &w->s;
	MUST(peer_hello_send(p, "default", 8) == 0 && peer_hello_take(p) == 0 && peer_map(p) == 0);
	MUST(peer_space_send(p, 1, 65536, 0) == 0 && peer_space_take(p) == 0);
	memcpy(peer_operands(p, 0), &open, sizeof(open));
	MUST(peer_call(p, &ns, &cqe) == 0 && cqe.res == 1);
	memcpy(&info, peer_results(p, 0), sizeof(info));
	MUST(peer_call(p, &grow, &cqe) == 0 && cqe.res == 1);
	MUST(peer_call(p, &alloc, &cqe) == 0 && cqe.res == (int)PAGES);
	memcpy(pages, peer_results(p, 0), sizeof(pages));
	for (unsigned i = 0; i < PAGES / 2; i++) {
		struct kvb_seal one = { .page = pages[i], .hash = { { i + 1, 0 } }, .depth = i };

		memcpy(peer_operands(p, i * (uint32_t)sizeof(one)), &one, sizeof(one));
	}
	seal.arg = info.epoch;
	MUST(peer_call(p, &seal, &cqe) == 0 && cqe.res == (int)PAGES / 2);
	memcpy(peer_operands(p, 0), pages, sizeof(pages[0]));
	MUST(peer_call(p, &release, &cqe) == 0 && cqe.res == 1);
}

static void connect_admin(struct world *w)
{
	struct kvb_msg_hello msg = { .version_min = KVB_ABI_VERSION,
				     .version_max = KVB_ABI_VERSION,
				     .role = KVB_ROLE_ADMIN };
	struct kvb_msg_hello_reply reply;
	char buf[KVB_MSG_BYTES_MAX];
	int fds[KVB_GRANT_FDS_MAX];
	unsigned n = 0;

	peer_adopt(&w->admin, fuzz_server_connect(&w->s));
	w->admin.idle = pump;
	w->admin.idle_arg = &w->s;
	MUST(peer_send(&w->admin, KVB_MSG_HELLO, &msg, sizeof(msg)) == 0);
	MUST(peer_receive(&w->admin, buf, fds, &n) == (int)sizeof(reply) && n == 1);
	close(fds[0]);
}

/* The whole answer, or a hang-up, which ends the connection here too. */
static void take_answer(struct world *w)
{
	static char text[1u << 20];
	struct kvb_msg_ctl_reply reply = { .last = 0 };
	size_t bytes = 0;
	cJSON *json;

	while (!reply.last) {
		char buf[KVB_MSG_BYTES_MAX];
		int fds[KVB_GRANT_FDS_MAX];
		unsigned nfds;
		int n = peer_receive(&w->admin, buf, fds, &nfds);

		MUST(n != -ETIME && nfds == 0);
		memcpy(&reply, buf, n >= (int)sizeof(reply) ? sizeof(reply) : 0);
		if (n <= 0 || reply.h.type != KVB_MSG_CTL_REPLY) {
			peer_end(&w->admin);
			return;
		}
		MUST(reply.h.length == (uint32_t)n && reply.exit_code < EXIT_CODES);
		MUST(bytes + (size_t)n < sizeof(text));
		memcpy(text + bytes, buf + sizeof(reply), (size_t)n - sizeof(reply));
		bytes += (size_t)n - sizeof(reply);
	}
	text[bytes] = '\0';
	json = cJSON_Parse(text);
	/* What was done in part is told without an error, and with a code of its own. */
	MUST(json && (reply.exit_code != ADMIN_EXIT_OK || !cJSON_HasObjectItem(json, "error")));
	MUST(reply.exit_code != ADMIN_EXIT_USAGE || cJSON_HasObjectItem(json, "error"));
	cJSON_Delete(json);
}

static size_t add_argument(struct fuzz_input *in, char *to, size_t room)
{
	uint8_t which = fuzz_take_byte(in);
	size_t n = sizeof(words) / sizeof(words[0]);

	if (which < n) {
		n = strlen(words[which]);
		if (n >= room)
			return 0;
		memcpy(to, words[which], n);
	} else {
		n = which % 48;
		if (n >= room)
			return 0;
		fuzz_take(in, to, n);
	}
	to[n] = '\0';
	return n + 1;
}

static void request(struct world *w)
{
	union {
		struct kvb_msg_ctl ctl;
		char bytes[2048];
	} m;
	uint8_t flags = fuzz_take_byte(&w->in), argc = fuzz_take_byte(&w->in);
	size_t bytes = sizeof(m.ctl);

	memset(&m, 0, sizeof(m));
	if (w->admin.fd < 0)
		connect_admin(w);
	if (flags >= 0xf0) {
		bytes = argc;
		fuzz_take(&w->in, m.bytes, bytes);
	} else {
		m.ctl.flags = flags & 3;
		m.ctl.argc = flags & 4 ? argc : argc % 10;
		for (unsigned i = 0; i < argc % 10u; i++)
			bytes += add_argument(&w->in, m.bytes + bytes, sizeof(m) - bytes);
	}
	if (bytes < sizeof(m.ctl))
		bytes = sizeof(m.ctl);
	MUST(peer_send(&w->admin, KVB_MSG_CTL, &m, bytes) == 0);
	fuzz_server_settle(&w->s);
	take_answer(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static struct world w;

	w = (struct world){ .in = { data, bytes }, .engine = PEER_NULL, .admin = PEER_NULL };
	fuzz_server_start(&w.s);
	fill(&w);
	for (unsigned i = 0; i < REQUESTS_MAX && w.in.left; i++)
		request(&w);
	peer_end(&w.admin);
	peer_end(&w.engine);
	fuzz_server_end(&w.s);
	return 0;
}
