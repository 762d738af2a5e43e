/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Device memory granted to a client and taken back, beside the driver calls that a client cannot do
 * without.
 *
 * Growth is one slab at a time with a pause before each, so that what a broker makes ahead is made;
 * the time is from the request until the pages are mapped and accessible in this process. A burst
 * asks for many at once, of which most lie ready too. The bare floor imports handles that were made
 * and exported before, maps them and asks for access, as many and as large as those of a slab.
 *
 * Revocation is from the request to shrink until a client that holds nothing has unmapped all of it
 * and said so. Its floor unmaps as many handles and releases their imports.
 */

#include <stdlib.h>
#include <unistd.h>

#include "broker/admin/stats.h"
#include "tools/kvb-bench/gpu.h"

#define PAUSE_NS (30ull * 1000 * 1000)
#define WARM_NS (300ull * 1000 * 1000) /* for all of a burst to be made */
#define WAIT_NS (20ull * 1000 * 1000 * 1000)

/* Handles that somebody else made, as a grant brings them. */
struct bare {
	struct card card;
	uint32_t n;
	uint64_t bytes; /* of one */
	int *fds;
	cu_handle *imports;
	cu_address at;
};

static void bare_open(uint32_t ordinal, uint32_t n, uint64_t bytes, struct bare *ret)
{
	struct cu_allocation allocation;
	cu_handle handle;

	*ret = (struct bare){ .n = n,
			      .bytes = bytes,
			      .fds = calloc(n, sizeof(int)),
			      .imports = calloc(n, sizeof(cu_handle)) };
	if (ret->fds == NULL || ret->imports == NULL)
		bench_die("out of memory");
	card_open(ordinal, &ret->card);
	allocation = card_allocation(&ret->card);
	ret->at = card_reserve(&ret->card, n * bytes);
	for (uint32_t i = 0; i < n; i++) {
		card_check("cuMemCreate",
			   ret->card.api->mem_create(&handle, bytes, &allocation, 0));
		card_check("cuMemExportToShareableHandle",
			   ret->card.api->mem_export(&ret->fds[i], handle, CU_HANDLE_POSIX_FD, 0));
		/* The fd keeps it. */
		card_check("cuMemRelease", ret->card.api->mem_release(handle));
	}
}

static void bare_close(struct bare *b)
{
	for (uint32_t i = 0; i < b->n; i++)
		close(b->fds[i]);
	free(b->fds);
	free(b->imports);
}

/* The first n of them; access in runs of `run` handles. */
static uint64_t bare_map_ns(struct bare *b, uint32_t n, uint32_t run)
{
	const struct cuda_api *api = b->card.api;
	uint64_t start_ns = clock_now_ns();

	for (uint32_t i = 0; i < n; i++) {
		card_check("cuMemImportFromShareableHandle",
			   api->mem_import(&b->imports[i], (void *)(intptr_t)b->fds[i],
					   CU_HANDLE_POSIX_FD));
		card_check("cuMemMap",
			   api->mem_map(b->at + i * b->bytes, b->bytes, 0, b->imports[i], 0));
	}
	for (uint32_t i = 0; i < n; i += run)
		card_access(&b->card, b->at + i * b->bytes, run * b->bytes);
	return clock_now_ns() - start_ns;
}

static uint64_t bare_unmap_ns(struct bare *b, uint32_t n)
{
	const struct cuda_api *api = b->card.api;
	uint64_t start_ns = clock_now_ns();

	for (uint32_t i = 0; i < n; i++) {
		card_check("cuMemUnmap", api->mem_unmap(b->at + i * b->bytes, b->bytes));
		card_check("cuMemRelease", api->mem_release(b->imports[i]));
	}
	return clock_now_ns() - start_ns;
}

/* ---- through the broker -------------------------------------------------------------------- */

struct growth {
	struct gpu_bench *bench;
	struct client client;
	struct kvb_space_info info;
	uint32_t handles; /* of a slab */
	uint32_t slabs;
	uint64_t slab_bytes;
	double first_ns;
	struct samples slab, burst, revoke, bare_map, bare_unmap;
};

static uint64_t grow_ns(struct growth *g, uint64_t slabs)
{
	const uint64_t pages = slabs * g->info.pages_per_slab;
	uint64_t start_ns = clock_now_ns(), ns;
	int64_t got = kvb_space_grow(g->client.space, pages, WAIT_NS);

	ns = clock_now_ns() - start_ns;
	if (got != (int64_t)pages)
		bench_die("grew by %lld of %llu pages: %s", (long long)got,
			  (unsigned long long)pages,
			  got < 0 ? kvb_error_text(g->client.kvb) : "no more was granted");
	return ns;
}

/* Memory that only seems to be there is no growth. */
static void touch_last(struct growth *g)
{
	const kvb_page_t page = KVB_PAGE(1, g->slabs * g->info.pages_per_slab - 1);
	uint64_t what = 0;

	if (kvb_page_write(g->client.space, g->info.regions - 1, page, &what, sizeof(what)) < 0)
		bench_die("granted memory cannot be written: %s", kvb_error_text(g->client.kvb));
}

static uint64_t revoke_ns(struct growth *g)
{
	uint64_t start_ns = clock_now_ns();
	struct kvb_space_info info;
	int64_t got;

	got = kvb_space_shrink(g->client.space, (uint64_t)g->slabs * g->info.pages_per_slab, 0);
	if (got != (int64_t)g->slabs * g->info.pages_per_slab)
		bench_die("%lld pages are on their way out: %s", (long long)got,
			  kvb_error_text(g->client.kvb));
	do {
		if (kvb_quiet_point(g->client.kvb) < 0)
			bench_die("the broker has gone: %s", kvb_error_text(g->client.kvb));
		kvb_space_get_info(g->client.space, &info);
		if (clock_now_ns() - start_ns > WAIT_NS)
			bench_die("%u revoked slabs do not go", info.slabs);
	} while (info.slabs > 0);
	return clock_now_ns() - start_ns;
}

/* Until the daemon has all memory back: what comes next finds the device empty. */
static void wait_empty(struct growth *g)
{
	uint64_t until_ns = clock_now_ns() + WAIT_NS;

	for (;;) {
		const struct stats_segment *seg = broker_stats(&g->bench->broker);
		const struct stats_device *d = &seg->device[gpu_stats_device(g->bench, seg)];

		if (d->granted_bytes == 0)
			return;
		if (clock_now_ns() > until_ns)
			bench_die("the broker has %llu B of the device still",
				  (unsigned long long)d->granted_bytes);
		clock_sleep_ns(2 * 1000 * 1000);
	}
}

static void growth_round(struct growth *g, struct bare *bare, bool first)
{
	const uint32_t run = g->info.regions == 1 ? g->handles : 1;

	for (uint32_t i = 0; i < g->slabs; i++) {
		uint64_t ns;

		clock_sleep_ns(PAUSE_NS);
		ns = grow_ns(g, 1);
		if (first && i == 0)
			g->first_ns = (double)ns;
		else
			samples_add(&g->slab, ns);
		if (i < bare->n / g->handles) {
			samples_add(&g->bare_map, bare_map_ns(bare, g->handles, run));
			bare_unmap_ns(bare, g->handles);
		}
	}
	touch_last(g);
	samples_add(&g->revoke, revoke_ns(g));
	wait_empty(g);
	bare_map_ns(bare, bare->n, bare->n);
	samples_add(&g->bare_unmap, bare_unmap_ns(bare, bare->n));
	clock_sleep_ns(WARM_NS);
	samples_add(&g->burst, grow_ns(g, g->slabs));
	samples_add(&g->revoke, revoke_ns(g));
	wait_empty(g);
	bare_map_ns(bare, bare->n, bare->n);
	samples_add(&g->bare_unmap, bare_unmap_ns(bare, bare->n));
}

static void growth_run(struct gpu_bench *b, uint32_t regions, uint64_t stride_bytes, uint64_t bytes,
		       struct growth *g)
{
	struct bare bare;

	*g = (struct growth){ .bench = b };
	client_open(&b->broker, NULL,
		    &(struct kvb_space_params){ .device_kind = KVB_DEVICE_CUDA,
						.device_ordinal = b->o->device,
						.regions = regions,
						.stride_bytes = stride_bytes,
						.tag = (uint64_t)getpid() },
		    &g->client);
	kvb_space_get_info(g->client.space, &g->info);
	g->handles = regions * g->info.handles_per_region;
	g->slab_bytes = g->handles * g->info.handle_bytes;
	g->slabs = (uint32_t)(bytes / g->slab_bytes);
	if (g->slabs == 0)
		bench_die("a slab of %llu B is more than %llu B", (unsigned long long)g->slab_bytes,
			  (unsigned long long)bytes);
	bare_open(b->o->device, g->slabs * g->handles, g->info.handle_bytes, &bare);
	for (uint32_t round = 0; round < (b->plan.small ? 2 : 3); round++)
		growth_round(g, &bare, round == 0);
	bare_close(&bare);
	client_close(&g->client);
	wait_empty(g);
}

static double slabs_gib_s(const struct growth *g, double ns, uint32_t slabs)
{
	return gpu_gib_s(slabs * g->slab_bytes, ns);
}

static double median_gib_s(const struct growth *g, struct samples *s, uint32_t slabs)
{
	return slabs_gib_s(g, samples_percentile_ns(s, 50), slabs);
}

void gpu_grow(struct gpu_bench *b)
{
	struct gpu_figures *f = b->fig;
	struct growth g;

	growth_run(b, GPU_REGIONS, GPU_LAYER_STRIDE, b->plan.revoke_bytes, &g);
	f->grow_per_layer_gib_s = median_gib_s(&g, &g.slab, 1);
	f->grow_per_layer_first_gib_s = slabs_gib_s(&g, g.first_ns, 1);
	f->grow_per_layer_burst_gib_s = median_gib_s(&g, &g.burst, g.slabs);
	f->bare_map_per_layer_gib_s = median_gib_s(&g, &g.bare_map, 1);
	f->grow_per_layer_slab_mib = (double)g.slab_bytes / (1 << 20);
	f->revoke_ms = samples_percentile_ns(&g.revoke, 50) / 1e6;
	f->bare_unmap_ms = samples_percentile_ns(&g.bare_unmap, 50) / 1e6;
	f->revoke_ratio = f->revoke_ms / f->bare_unmap_ms;
	f->revoke_bytes = (double)(g.slabs * g.slab_bytes);
	growth_run(b, 1, GPU_SLAB_STRIDE, b->plan.packed_slabs * GPU_SLAB_STRIDE, &g);
	f->grow_packed_gib_s = median_gib_s(&g, &g.slab, 1);
	f->grow_packed_first_gib_s = slabs_gib_s(&g, g.first_ns, 1);
	f->grow_packed_burst_gib_s = median_gib_s(&g, &g.burst, g.slabs);
	f->bare_map_packed_gib_s = median_gib_s(&g, &g.bare_map, 1);
}
