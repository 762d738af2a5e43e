/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What happens once, before the first turn, and what undoes it: limits of the process, the state
 * directory and its lock, the reservation, the tables.
 *
 * The reservation is made by arithmetic: what the devices promise must be available on their nodes
 * now, or be there at all on their GPUs, and what tenants are promised must fit their devices. If
 * not, the daemon does not start and says by how much. Slabs are committed when they are granted,
 * so memory that something else takes later is a refused grant, not a killed process.
 *
 * Owners of all GPUs are started before the first is waited for: their drivers take seconds.
 *
 * The host tier is cut by nodes: each has a share for every device near to it, known when the
 * owners have told where their GPUs are. What it promises is looked at together with the devices'.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/io/log.h"
#include "broker/io/start.h"
#include "broker/io/tiers.h"
#include "broker/io/worker.h"
#include "broker/mover/wire.h"
#include "broker/owner/owner.h"
#include "broker/owner/warm.h"
#include "broker/policy/policy.h"
#include "cuda_driver/gpu.h"
#include "numa/huge.h"
#include "numa/placement.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

#define START_FDS_PER_CLIENT 6u /* socket, pidfd, three memfds, doorbell */
#define START_FDS_OWN (64u + SERVER_STORES_MAX)
#define START_GPU_RESERVE_BYTES                                                                    \
	(512ull << 20)                      /* at least: contexts of engines, kernels, graphs      \
					     */
#define START_GPU_RESERVE_PART 20u          /* or so much of it */
#define START_GPU_KEEP_BYTES (256ull << 20) /* of it, unused whatever engines take */

#define START_TIER_UNITS 64u /* an arena is cut into about so many */
#define START_TIER_UNIT_BYTES_MIN (2ull << 20)
#define START_TIER_UNIT_BYTES_MAX (64ull << 20) /* unless a space could not have all of it */
#define START_FDS_PER_MOVER 6u /* socket, pidfd, ring, two eventfds; one to spare */

#define START_WARM_PART 8u            /* of a GPU's capacity made ahead of need */
#define START_WARM_BYTES (2ull << 30) /* but no more than this */

#define START_SLABS_MIN 4096u  /* the core's default */
#define START_SLABS_MAX 65000u /* a slab's index has 16 bits */

/* ---- the process --------------------------------------------------------------------------- */

/* Handles of all devices: as many fds, and no fewer slabs could use them all. */
static uint64_t start_count_handles(const struct server_config *cfg)
{
	uint64_t handles = 0;

	for (unsigned i = 0; i < cfg->devices; i++) {
		const struct server_device_config *d = &cfg->device[i];

		handles += d->capacity_bytes / gpu_handle_bytes(d->kind, d->capacity_bytes);
	}
	return handles;
}

/* At most so many pieces of the tier's arenas are slabs. */
static uint64_t start_count_units(const struct server_config *cfg)
{
	if (!cfg->tier_bytes)
		return 0;
	return cfg->tier_bytes / START_TIER_UNIT_BYTES_MAX + 2ull * START_TIER_UNITS * cfg->devices;
}

void start_fill_limits(struct server_config *cfg)
{
	uint64_t handles = start_count_handles(cfg) + start_count_units(cfg);

	if (!cfg->limits.slabs && handles > START_SLABS_MIN)
		cfg->limits.slabs = handles < START_SLABS_MAX ? (uint32_t)handles : START_SLABS_MAX;
	core_limits_fill(&cfg->limits);
}

uint64_t start_count_files(const struct server_config *cfg)
{
	uint64_t need = START_FDS_OWN + (uint64_t)cfg->limits.clients * START_FDS_PER_CLIENT +
			start_count_handles(cfg);

	if (cfg->tier_bytes)
		need += cfg->devices * (START_FDS_PER_MOVER + 1ull) +
			cfg->tier_bytes / TIERS_CHUNK_BYTES;
	return need;
}

void start_raise_nofile(const struct server_config *cfg)
{
	uint64_t need = start_count_files(cfg);
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		log_warn("cannot raise the limit of open files: %s", strerror(errno));
	getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < need)
		log_warn("%llu open files are allowed, %llu are needed when every client and slab "
			 "is there (raise LimitNOFILE, or lower --max-clients)",
			 (unsigned long long)limit.rlim_cur, (unsigned long long)need);
}

/* ---- state directory ----------------------------------------------------------------------- */

/* The directory above, for the defaults below /run: whatever is wrong shows at the directory. */
static void start_make_parent(const char *path)
{
	char parent[4096];
	const char *slash = strrchr(path, '/');

	if (!slash || slash == path || (size_t)(slash - path) >= sizeof(parent))
		return;
	memcpy(parent, path, (size_t)(slash - path));
	parent[slash - path] = '\0';
	(void)mkdir(parent, 0755);
}

static int start_open_dir(const char *path)
{
	struct stat st;
	int fd;

	start_make_parent(path);
	if (mkdir(path, 0755) < 0 && errno != EEXIST) {
		log_error("state directory %s: cannot make it: %s", path, strerror(errno));
		return -errno;
	}
	fd = open(path, O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_RDONLY);
	if (fd < 0 || fstat(fd, &st) < 0) {
		int error = -errno;

		log_error("state directory %s: %s%s", path, strerror(errno),
			  errno == ELOOP || errno == ENOTDIR
				  ? " (it must be a directory, not a link)"
				  : "");
		if (fd >= 0)
			close(fd);
		return error;
	}
	if ((st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & S_IWOTH)) {
		log_error("state directory %s: others may write to it (it must belong to the "
			  "daemon's user, mode 0755 or less)",
			  path);
		close(fd);
		return -EPERM;
	}
	return fd;
}

static void start_say_locked(const char *path, int fd)
{
	char pid[16] = "";
	ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);

	pid[n > 0 ? strcspn(pid, "\n") : 0] = '\0';
	log_error(
		"state directory %s: another kvbrokerd is using it, pid %s (stop that one, or give "
		"another --state-dir)",
		path, pid[0] ? pid : "unknown");
}

int start_lock(struct server *s)
{
	const char *path = s->cfg.state_dir;
	int dir = start_open_dir(path);
	int error = 0;

	if (dir < 0)
		return dir;
	s->lock_fd = fault_fails("lock")
			     ? -1
			     : openat(dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (s->lock_fd < 0) {
		error = -errno;
		log_error("state directory %s: cannot open its lock: %s", path, strerror(errno));
	} else if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		error = -errno;
		if (errno == EWOULDBLOCK)
			start_say_locked(path, s->lock_fd);
		else
			log_error("state directory %s: cannot lock it: %s", path, strerror(errno));
	} else if (ftruncate(s->lock_fd, 0) < 0 || dprintf(s->lock_fd, "%d\n", getpid()) < 0) {
		error = -errno;
		log_error("state directory %s: %s", path, strerror(errno));
	}
	close(dir);
	return error;
}

/* ---- reservation --------------------------------------------------------------------------- */

static uint64_t start_node_devices_bytes(const struct server *s, uint32_t node)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < s->cfg.devices; i++) {
		if (s->cfg.device[i].kind == KVB_DEVICE_HOST && s->cfg.device[i].ordinal == node)
			bytes += s->cfg.device[i].capacity_bytes;
	}
	return bytes;
}

static int start_check_node(const struct server *s, uint32_t node)
{
	struct placement_memory memory;
	uint64_t want = start_node_devices_bytes(s, node);
	const char *why;
	int error = placement_node_memory(node, &memory, &why);

	if (error) {
		log_error("device host:%u: NUMA node %u %s (see numactl -H)", node, node, why);
		return error;
	}
	if (want > memory.available_bytes) {
		log_error(
			"device host:%u: asked %s; %s of %s on node %u is available (ask for less, "
			"or free some)",
			node, core_size(want).text, core_size(memory.available_bytes).text,
			core_size(memory.total_bytes).text, node);
		return -ENOMEM;
	}
	return 0;
}

/* ---- the host tier ------------------------------------------------------------------------- */

static void start_find_shares(struct server *s)
{
	for (unsigned i = 0; i < s->cfg.devices; i++) {
		struct gpu_info info;
		uint32_t node;
		unsigned n = 0;

		s->device[i]->ops->info(s->device[i], &info);
		node = placement_near(info.node);
		while (n < s->shares && s->share[n].node != node)
			n++;
		if (n == s->shares)
			s->share[s->shares++] = (struct server_tier_share){ .node = node };
		s->share[n].devices++;
		s->share_of[i] = (uint8_t)n;
	}
}

static uint64_t start_tier_unit_bytes(uint64_t bytes)
{
	uint64_t unit = START_TIER_UNIT_BYTES_MIN;

	while ((unit < START_TIER_UNIT_BYTES_MAX && bytes / (unit << 1) >= START_TIER_UNITS) ||
	       (unit < TIERS_CHUNK_BYTES && bytes / unit > KVB_SLOTS_MAX))
		unit <<= 1;
	return unit;
}

static int start_check_share(const struct server *s, const struct server_tier_share *share)
{
	uint64_t devices = start_node_devices_bytes(s, share->node);
	struct placement_memory memory;
	const char *why;
	int error = placement_node_memory(share->node, &memory, &why);

	if (error) {
		log_error("host tier: NUMA node %u %s (see numactl -H)", share->node, why);
		return error;
	}
	if (!share->bytes) {
		log_error("host tier: %s is less than 2M for each device (ask for more)",
			  core_size(s->cfg.tier_bytes).text);
		return -EINVAL;
	}
	if (share->bytes > MOVER_CHUNKS_MAX * TIERS_CHUNK_BYTES) {
		log_error("host tier: %s of it are for node %u; a node may have %s",
			  core_size(share->bytes).text, share->node,
			  core_size(MOVER_CHUNKS_MAX * TIERS_CHUNK_BYTES).text);
		return -E2BIG;
	}
	if (share->bytes + devices > memory.available_bytes + memory.pool_bytes) {
		log_error("host tier: %s of it are for node %u, beside %s of devices; %s of %s is "
			  "available there, and %s in huge pages (ask for less, or free some)",
			  core_size(share->bytes).text, share->node, core_size(devices).text,
			  core_size(memory.available_bytes).text,
			  core_size(memory.total_bytes).text, core_size(memory.pool_bytes).text);
		return -ENOMEM;
	}
	return 0;
}

/* As many parts as there are devices; a node has one for each device near to it. */
static int start_cut_tier(struct server *s)
{
	uint64_t part = s->cfg.tier_bytes / s->cfg.devices;
	int error = 0;

	if (!s->cfg.tier_bytes)
		return 0;
	start_find_shares(s);
	for (unsigned n = 0; error == 0 && n < s->shares; n++) {
		struct server_tier_share *share = &s->share[n];
		uint64_t bytes = part * share->devices;

		share->bytes = bytes / HUGE_BYTES * HUGE_BYTES;
		error = start_check_share(s, share);
	}
	return error;
}

static int start_open_device(struct server *s, unsigned i)
{
	const struct server_device_config *d = &s->cfg.device[i];
	const struct owner_config owner = {
		.ordinal = d->ordinal,
		.uuid = d->uuid,
		.deadline_ns = s->cfg.owner_deadline_ns,
		.capacity_bytes = d->capacity_bytes,
		.keep_bytes = START_GPU_KEEP_BYTES,
		.level = s->cfg.log_level,
	};
	int error = d->kind == KVB_DEVICE_HOST ? start_check_node(s, d->ordinal) : 0;

	if (error)
		return error;
	error = fault_point("device");
	if (error == 0)
		error = d->kind == KVB_DEVICE_HOST ? gpu_host_open(d->ordinal, &s->device[i])
						   : owner_open(&owner, &s->device[i]);
	if (error)
		log_error("device %s:%u: %s", gpu_kind_name(d->kind), d->ordinal, strerror(-error));
	return error;
}

/* What may lie ready of a GPU's memory. */
static uint64_t start_warm_bytes(const struct server *s, const struct server_device_config *d)
{
	uint64_t part = d->capacity_bytes / START_WARM_PART;

	if (s->cfg.warm_bytes != UINT64_MAX)
		return s->cfg.warm_bytes;
	return part < START_WARM_BYTES ? part : START_WARM_BYTES;
}

/* One GPU by two names would be promised twice. */
static int start_check_twins(const struct server *s, unsigned i, const struct gpu_info *info)
{
	for (unsigned k = 0; k < i; k++) {
		struct gpu_info other;

		if (s->cfg.device[k].kind != KVB_DEVICE_CUDA)
			continue;
		s->device[k]->ops->info(s->device[k], &other);
		if (memcmp(info->uuid, other.uuid, sizeof(info->uuid)) != 0)
			continue;
		log_error("device cuda:%u: it is the same GPU as cuda:%u", s->cfg.device[i].ordinal,
			  s->cfg.device[k].ordinal);
		return -EEXIST;
	}
	return 0;
}

/* Waits for the owner of a GPU, and looks if the GPU is as large as was asked. */
static int start_check_gpu(struct server *s, unsigned i)
{
	const struct server_device_config *d = &s->cfg.device[i];
	int error = owner_wait(s->device[i]);
	uint64_t reserve, most;
	struct gpu_info info;

	s->device[i]->ops->info(s->device[i], &info);
	if (error) {
		log_error("device cuda:%u: %s", d->ordinal, info.why);
		return error;
	}
	error = start_check_twins(s, i, &info);
	if (error)
		return error;
	reserve = info.total_bytes / START_GPU_RESERVE_PART;
	if (reserve < START_GPU_RESERVE_BYTES)
		reserve = START_GPU_RESERVE_BYTES;
	most = info.total_bytes > reserve ? info.total_bytes - reserve : 0;
	if (d->capacity_bytes > most) {
		log_error("device cuda:%u: asked %s; the GPU has %s, less %s for the engines' own "
			  "use: %s can be had (ask for less)",
			  d->ordinal, core_size(d->capacity_bytes).text,
			  core_size(info.total_bytes).text, core_size(reserve).text,
			  core_size(most).text);
		return -ENOMEM;
	}
	log_info("device cuda:%u: %s, %s, NUMA node %d, driver %s, owner is process %d", d->ordinal,
		 info.model, core_size(info.total_bytes).text, info.node, info.driver,
		 info.owner_pid);
	error = warm_open(s->device[i], d->capacity_bytes, start_warm_bytes(s, d), &s->device[i]);
	if (error)
		s->device[i] = NULL;
	return error;
}

int start_devices(struct server *s)
{
	int error = 0;

	for (unsigned i = 0; error == 0 && i < s->cfg.devices; i++)
		error = start_open_device(s, i);
	for (unsigned i = 0; error == 0 && i < s->cfg.devices; i++) {
		if (s->cfg.device[i].kind == KVB_DEVICE_CUDA)
			error = start_check_gpu(s, i);
	}
	if (error == 0)
		error = start_cut_tier(s);
	return error;
}

/* ---- tables -------------------------------------------------------------------------------- */

static int start_state_memfd(void)
{
	int fd;

	if (fault_fails("memfd"))
		return -errno;
	fd = memfd_create("kvb-state", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("kvb-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd < 0 ? -errno : fd;
}

/*
 * The tables on huge pages: a lookup touches two lines far apart, and with small pages misses the
 * TLB for both. It costs that all of the tables is resident from the start.
 */
static bool start_collapse(struct server *s)
{
	return !fault_fails("collapse") && huge_collapse(s->state, s->state_bytes);
}

static int start_map_state(struct server *s)
{
	uint64_t bytes = core_bytes(&s->cfg.limits);

	s->state_bytes = (bytes + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
	s->state_fd = start_state_memfd();
	if (s->state_fd < 0)
		return s->state_fd;
	if (ftruncate(s->state_fd, (off_t)s->state_bytes) < 0)
		return -errno;
	s->state = fault_fails("mmap") ? NULL : huge_map(s->state_fd, s->state_bytes);
	if (!s->state)
		return -errno;
	s->state_huge = s->cfg.huge_pages && start_collapse(s);
	madvise(s->state, s->state_bytes, MADV_DONTDUMP);
	return 0;
}

/* A device in the core has the index it has on the command line. */
static int start_add_devices(struct server *s)
{
	for (unsigned i = 0; i < s->cfg.devices; i++) {
		const struct server_device_config *d = &s->cfg.device[i];
		uint64_t handle = gpu_handle_bytes(d->kind, d->capacity_bytes);
		char name[KVB_NAME_BYTES];
		struct gpu_info info;
		int index, error;

		s->device[i]->ops->info(s->device[i], &info);
		while (handle < info.granularity_bytes)
			handle <<= 1;
		snprintf(name, sizeof(name), "%s:%u", gpu_kind_name(d->kind), d->ordinal);
		index = core_device_add(&s->core, d->kind, d->ordinal, name, d->capacity_bytes,
					handle);
		error = index < 0 ? index : worker_device(s->worker, (uint32_t)index, s->device[i]);
		if (error) {
			log_error("device %s: %s", name,
				  index == -EEXIST ? "given twice" : strerror(-error));
			return error;
		}
	}
	return 0;
}

/* After all devices. */
static int start_add_arenas(struct server *s)
{
	int arena[SERVER_DEVICES_MAX];

	for (unsigned n = 0; n < s->shares; n++) {
		const struct server_tier_share *share = &s->share[n];

		arena[n] = core_arena_add(&s->core, share->node, share->bytes,
					  start_tier_unit_bytes(share->bytes));
		if (arena[n] < 0) {
			log_error("host tier: node %u: %s (there may be %u devices and nodes with "
				  "a tier together)",
				  share->node, strerror(-arena[n]), CORE_DEVICES_MAX);
			return arena[n];
		}
	}
	for (unsigned i = 0; s->shares && i < s->cfg.devices; i++)
		core_device_below(&s->core, i, (unsigned)arena[s->share_of[i]]);
	return 0;
}

static int start_tenants(struct server *s)
{
	char why[256];

	for (unsigned i = 0; i < s->cfg.tenants; i++) {
		const struct core_tenant_spec *spec = &s->cfg.tenant[i];
		int tenant = core_tenant_set(&s->core, spec, false, why, sizeof(why));

		if (tenant < 0) {
			log_error("tenant %s: %s", spec->name, why);
			return tenant;
		}
	}
	return 0;
}

int start_tables(struct server *s)
{
	const struct policy_ops *policy = policy_find(s->cfg.policy);
	uint64_t random[5];
	int error = 0;

	if (!policy) {
		log_error("policy %s: there is none of that name", s->cfg.policy);
		return -EINVAL;
	}
	if (fault_fails("random") || getrandom(random, sizeof(random), 0) != sizeof(random))
		error = errno ? -errno : -EIO;
	if (error == 0)
		error = start_map_state(s);
	if (error) {
		log_error("tables of %s for %u pages: %s (lower --max-pages)",
			  core_size(s->state_bytes).text, s->cfg.limits.pages, strerror(-error));
		return error;
	}
	s->boot_id = random[4];
	core_init(&s->core, s->state, &s->cfg.limits, random, s->boot_id, policy);
	s->core.revoke_grace_ns = s->cfg.revoke_grace_ns;
	core_set_time(&s->core, s->now_ns);
	error = start_add_devices(s);
	if (error == 0)
		error = start_add_arenas(s);
	if (error == 0)
		error = start_tenants(s);
	return error;
}

void start_undo(struct server *s)
{
	for (unsigned i = 0; i < s->cfg.devices; i++)
		s->device[i] = gpu_device_close(s->device[i]);
	if (s->state)
		munmap(s->state, s->state_bytes);
	if (s->state_fd >= 0)
		close(s->state_fd);
	/* The lock goes last: until then nobody else may think the directory is theirs. */
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	s->state = NULL;
	s->state_fd = -1;
	s->lock_fd = -1;
}
