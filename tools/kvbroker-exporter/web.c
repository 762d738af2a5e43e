/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Addresses, connections and the documents that are kept for a moment: see web.h.
 *
 * The socket is made here and not by the library, which could not say why it failed.
 */

#include <ctype.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tools/kvbroker-exporter/metrics.h"
#include "tools/kvbroker-exporter/page.h"
#include "tools/kvbroker-exporter/web.h"

#define WEB_CONNECTIONS_MAX 512u
#define WEB_CONNECTIONS_PER_ADDRESS_MAX 256u /* so that one cannot keep all others out */
#define WEB_TIMEOUT_S 10u
#define WEB_REQUEST_BYTES_MAX (16u << 10)
#define WEB_FRESH_NS (100ull * 1000 * 1000)

struct document {
	const char *path, *type;
	unsigned (*write)(struct expo *e, const struct source *s); /* the HTTP status */
	/* of the last time */
	struct MHD_Response *response;
	unsigned status;
	uint64_t made_ns;
};

struct web {
	struct source *source;
	struct MHD_Daemon *mhd;
	struct document document[3];
};

/* ---- addresses ----------------------------------------------------------------------------- */

/* Splits "HOST:PORT" or "[HOST]:PORT". False: it is neither. */
static bool split_address(const char *address, char host[64], char port[8])
{
	const char *colon = strrchr(address, ':');
	size_t n = colon ? (size_t)(colon - address) : 0;

	if (n >= 2 && address[0] == '[' && address[n - 1] == ']') {
		address++;
		n -= 2;
	} else if (n == 0 || memchr(address, ':', n)) {
		return false; /* an IPv6 address needs its brackets */
	}
	if (n == 0 || n >= 64 || strlen(colon + 1) < 1 || strlen(colon + 1) > 5 ||
	    strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
	    strtoul(colon + 1, NULL, 10) > 65535)
		return false;
	(void)snprintf(host, 64, "%.*s", (int)n, address);
	(void)snprintf(port, 8, "%s", colon + 1);
	return true;
}

static int bind_address(const struct addrinfo *ai)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	const int yes = 1;

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0) {
		int error = -errno;

		(void)close(fd);
		return error;
	}
	return fd;
}

int web_listen(const char *address, char ret_address[80], char why[256])
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
					.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };
	struct sockaddr_storage bound;
	socklen_t bytes = sizeof(bound);
	char host[64], port[8];
	struct addrinfo *ai;
	int fd;

	if (!split_address(address, host, port) || getaddrinfo(host, port, &hints, &ai) != 0) {
		(void)snprintf(why, 256,
			       "'%.80s' is no address and port (as 127.0.0.1:9810, [::1]:9810, or "
			       "0.0.0.0:9810 for all)",
			       address);
		return -EINVAL;
	}
	fd = bind_address(ai);
	freeaddrinfo(ai);
	if (fd < 0) {
		(void)snprintf(why, 256, "cannot listen on %.80s: %s%s", address, strerror(-fd),
			       fd == -EADDRINUSE      ? " (another program does; give another port)"
			       : fd == -EADDRNOTAVAIL ? " (this machine has no such address)"
			       : fd == -EACCES        ? " (give a port from 1024)"
						      : "");
		return fd;
	}
	if (getsockname(fd, (struct sockaddr *)&bound, &bytes) == 0 &&
	    getnameinfo((struct sockaddr *)&bound, bytes, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		(void)snprintf(ret_address, 80, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host,
			       port);
	else
		(void)snprintf(ret_address, 80, "%s", address);
	return fd;
}

/* ---- documents ----------------------------------------------------------------------------- */

static unsigned write_metrics(struct expo *e, const struct source *s)
{
	metrics_write(e, s);
	return MHD_HTTP_OK;
}

/* Of the daemon: whoever gets an answer at all knows that the exporter runs. */
static unsigned write_health(struct expo *e, const struct source *s)
{
	bool ready = s->up && strcmp(source_state(s), "ready") == 0;

	if (s->up)
		expo_add(e, "%s\n", source_state(s));
	else
		expo_add(e, "down: %s\n", s->why);
	return ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
}

static unsigned write_page(struct expo *e, const struct source *s)
{
	page_write(e, s);
	return MHD_HTTP_OK;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void document_drop(struct document *d)
{
	if (d->response)
		MHD_destroy_response(d->response); /* those who are still reading it keep it */
	d->response = NULL;
}

/* As it is now, or was a moment ago. False: out of memory. */
static bool document_make(struct web *web, struct document *d)
{
	struct expo e;

	if (d->response && now_ns() - d->made_ns < WEB_FRESH_NS)
		return true;
	document_drop(d);
	source_read(web->source);
	source_tell(web->source);
	expo_init(&e);
	d->status = d->write(&e, web->source);
	if (e.failed || !e.text) {
		expo_free(&e);
		return false;
	}
	d->response = MHD_create_response_from_buffer(e.bytes, e.text, MHD_RESPMEM_MUST_FREE);
	if (!d->response) {
		expo_free(&e);
		return false;
	}
	d->made_ns = now_ns();
	(void)MHD_add_response_header(d->response, "Content-Type", d->type);
	(void)MHD_add_response_header(d->response, "Cache-Control", "no-store");
	(void)MHD_add_response_header(d->response, "X-Content-Type-Options", "nosniff");
	(void)MHD_add_response_header(d->response, "Content-Security-Policy",
				      "default-src 'none'; style-src 'unsafe-inline'");
	return true;
}

/* ---- connections --------------------------------------------------------------------------- */

/* Says no. text is static. */
static enum MHD_Result refuse(struct MHD_Connection *connection, unsigned status, const char *text)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(
		strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
	enum MHD_Result r;

	if (!response)
		return MHD_NO;
	(void)MHD_add_response_header(response, "Content-Type", "text/plain; charset=utf-8");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		(void)MHD_add_response_header(response, "Allow", "GET, HEAD");
	r = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return r;
}

static enum MHD_Result web_answer(void *closure, struct MHD_Connection *connection,
				  const char *path, const char *method, const char *version,
				  const char *body, size_t *body_bytes, void **seen)
{
	struct web *web = closure;

	if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
		if (!*seen) {
			*seen = web;
			return refuse(connection, MHD_HTTP_METHOD_NOT_ALLOWED,
				      "figures are only read: GET and HEAD\n");
		}
		*body_bytes = 0;
		return MHD_YES;
	}
	/* The first call is for the head alone; a body would be of no interest. */
	if (!*seen || *body_bytes) {
		*seen = web;
		*body_bytes = 0;
		return MHD_YES;
	}
	for (size_t i = 0; i < sizeof(web->document) / sizeof(web->document[0]); i++) {
		struct document *d = &web->document[i];

		if (strcmp(path, d->path) != 0)
			continue;
		if (!document_make(web, d))
			return refuse(connection, MHD_HTTP_INTERNAL_SERVER_ERROR,
				      "out of memory\n");
		return MHD_queue_response(connection, d->status, d->response);
	}
	return refuse(connection, MHD_HTTP_NOT_FOUND, "there are /, /metrics and /health\n");
}

struct web *web_start(int listen_fd, struct source *source)
{
	struct web *web = malloc(sizeof(*web));

	if (!web) {
		(void)close(listen_fd);
		return NULL;
	}
	*web = (struct web){
		.source = source,
		.document = { { .path = "/metrics",
				.type = "text/plain; version=0.0.4; charset=utf-8",
				.write = write_metrics },
			      { .path = "/health",
				.type = "text/plain; charset=utf-8",
				.write = write_health },
			      { .path = "/",
				.type = "text/html; charset=utf-8",
				.write = write_page } },
	};
	web->mhd = MHD_start_daemon(
		MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, web_answer, web,
		MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_CONNECTION_LIMIT,
		WEB_CONNECTIONS_MAX, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
		WEB_CONNECTIONS_PER_ADDRESS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, WEB_TIMEOUT_S,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)WEB_REQUEST_BYTES_MAX, MHD_OPTION_END);
	if (web->mhd)
		return web;
	(void)close(listen_fd);
	free(web);
	return NULL;
}

struct web *web_stop(struct web *web)
{
	if (!web)
		return NULL;
	MHD_stop_daemon(web->mhd);
	for (size_t i = 0; i < sizeof(web->document) / sizeof(web->document[0]); i++)
		document_drop(&web->document[i]);
	free(web);
	return NULL;
}
