/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Kernels of an engine that has nothing to do with us: one that waits for memory, one that
 * computes.
 *
 * They are text of the driver's virtual machine (PTX), which the driver compiles for whatever
 * device it finds, so that no toolkit is needed. The calls that load and launch are looked up here:
 * no part of the broker has a use for them, and a driver without them, such as the stand-in, runs
 * none.
 */

#include <stdlib.h>

#include "tools/kvb-bench/gpu.h"

#define THREADS 256u
#define BLOCKS 2048u
#define COMPUTE_ROUNDS 20000u
#define WARM_LAUNCHES 3u
#define LAUNCHES_MAX 800u /* that wait in a stream */

typedef struct cu_module_object *cu_module;
typedef struct cu_function_object *cu_function;

struct kernels {
	const struct card *card;
	cu_function function[KERNEL_KINDS];
	cu_address to, from;
	uint64_t vectors; /* of 16 B */
	uint32_t rounds;
	double launch_ns[KERNEL_KINDS]; /* about */
	enum cu_result (*launch)(cu_function function, unsigned grid_x, unsigned grid_y,
				 unsigned grid_z, unsigned block_x, unsigned block_y,
				 unsigned block_z, unsigned shared_bytes, cu_stream stream,
				 void **arguments, void **extra);
};

/*
 * stream_copy(to, from, n): copies n vectors of 16 B, a thread every so many.
 * compute(to, rounds): four chains of multiply-add a thread; what they come to is written only if
 * it is a number that it never is, so that the work cannot be left out.
 */
static const char kernels_ptx[] =
	".version 7.8\n"
	".target sm_80\n"
	".address_size 64\n"
	"\n"
	".visible .entry stream_copy(.param .u64 p_to, .param .u64 p_from, .param .u64 p_n)\n"
	"{\n"
	"  .reg .pred %done;\n"
	"  .reg .u32 %block, %size, %thread, %blocks, %step32, %i32;\n"
	"  .reg .u64 %to, %from, %n, %i, %step, %off, %a, %b;\n"
	"  .reg .f32 %x, %y, %z, %w;\n"
	"  ld.param.u64 %to, [p_to];\n"
	"  ld.param.u64 %from, [p_from];\n"
	"  ld.param.u64 %n, [p_n];\n"
	"  cvta.to.global.u64 %to, %to;\n"
	"  cvta.to.global.u64 %from, %from;\n"
	"  mov.u32 %block, %ctaid.x;\n"
	"  mov.u32 %size, %ntid.x;\n"
	"  mov.u32 %thread, %tid.x;\n"
	"  mov.u32 %blocks, %nctaid.x;\n"
	"  mad.lo.u32 %i32, %block, %size, %thread;\n"
	"  mul.lo.u32 %step32, %size, %blocks;\n"
	"  cvt.u64.u32 %i, %i32;\n"
	"  cvt.u64.u32 %step, %step32;\n"
	"again:\n"
	"  setp.ge.u64 %done, %i, %n;\n"
	"  @%done bra end;\n"
	"  shl.b64 %off, %i, 4;\n"
	"  add.u64 %a, %from, %off;\n"
	"  add.u64 %b, %to, %off;\n"
	"  ld.global.v4.f32 {%x, %y, %z, %w}, [%a];\n"
	"  st.global.v4.f32 [%b], {%x, %y, %z, %w};\n"
	"  add.u64 %i, %i, %step;\n"
	"  bra again;\n"
	"end:\n"
	"  ret;\n"
	"}\n"
	"\n"
	".visible .entry compute(.param .u64 p_to, .param .u32 p_rounds)\n"
	"{\n"
	"  .reg .pred %more, %never;\n"
	"  .reg .u32 %rounds, %thread;\n"
	"  .reg .u64 %to;\n"
	"  .reg .f32 %a, %b, %c, %d, %m, %s;\n"
	"  ld.param.u64 %to, [p_to];\n"
	"  ld.param.u32 %rounds, [p_rounds];\n"
	"  cvta.to.global.u64 %to, %to;\n"
	"  mov.u32 %thread, %tid.x;\n"
	"  cvt.rn.f32.u32 %a, %thread;\n"
	"  add.f32 %b, %a, 0f3F800000;\n"
	"  add.f32 %c, %a, 0f40000000;\n"
	"  add.f32 %d, %a, 0f40400000;\n"
	"  mov.f32 %m, 0f3F7FFFFE;\n"
	"  mov.f32 %s, 0f3F000000;\n"
	"again:\n"
	"  fma.rn.f32 %a, %a, %m, %s;\n"
	"  fma.rn.f32 %b, %b, %m, %s;\n"
	"  fma.rn.f32 %c, %c, %m, %s;\n"
	"  fma.rn.f32 %d, %d, %m, %s;\n"
	"  fma.rn.f32 %a, %a, %m, %s;\n"
	"  fma.rn.f32 %b, %b, %m, %s;\n"
	"  fma.rn.f32 %c, %c, %m, %s;\n"
	"  fma.rn.f32 %d, %d, %m, %s;\n"
	"  sub.u32 %rounds, %rounds, 1;\n"
	"  setp.ne.u32 %more, %rounds, 0;\n"
	"  @%more bra again;\n"
	"  add.f32 %a, %a, %b;\n"
	"  add.f32 %c, %c, %d;\n"
	"  add.f32 %a, %a, %c;\n"
	"  setp.eq.f32 %never, %a, 0fC2F6E979;\n"
	"  @%never st.global.f32 [%to], %a;\n"
	"  ret;\n"
	"}\n";

static void launch(const struct kernels *k, enum kernel_kind kind)
{
	cu_address to = k->to, from = k->from;
	uint64_t vectors = k->vectors;
	uint32_t rounds = k->rounds;
	void *memory[] = { &to, &from, &vectors };
	void *compute[] = { &to, &rounds };

	card_check("cuLaunchKernel",
		   k->launch(k->function[kind], BLOCKS, 1, 1, THREADS, 1, 1, 0, k->card->stream[0],
			     kind == KERNEL_MEMORY ? memory : compute, NULL));
}

/* n launches, until the last has ended. */
static double launch_many_ns(const struct kernels *k, enum kernel_kind kind, uint32_t n)
{
	uint64_t start_ns = clock_now_ns();

	for (uint32_t i = 0; i < n; i++)
		launch(k, kind);
	card_check("cuStreamSynchronize", k->card->streams->stream_synchronize(k->card->stream[0]));
	return (double)(clock_now_ns() - start_ns) / n;
}

struct kernels *kernels_open(const struct card *c, uint64_t bytes)
{
	static const char *const names[KERNEL_KINDS] = { "stream_copy", "compute" };
	enum cu_result (*load)(cu_module * ret, const void *image);
	enum cu_result (*find)(cu_function * ret, cu_module module, const char *name);
	struct kernels *k = calloc(1, sizeof(*k));
	enum cu_result result;
	cu_module module;

	if (k == NULL)
		bench_die("out of memory");
	if (!card_symbol("cuModuleLoadData", &load) || !card_symbol("cuModuleGetFunction", &find) ||
	    !card_symbol("cuLaunchKernel", &k->launch)) {
		free(k);
		return NULL;
	}
	k->card = c;
	k->rounds = COMPUTE_ROUNDS;
	k->vectors = bytes / 16;
	result = load(&module, kernels_ptx);
	if (result != CU_OK) { /* a container often lacks the driver's compiler */
		gpu_say("cuModuleLoadData: result %d; kernels are left out", (int)result);
		free(k);
		return NULL;
	}
	k->to = card_device_memory(c, bytes);
	k->from = card_device_memory(c, bytes);
	for (unsigned i = 0; i < KERNEL_KINDS; i++) {
		card_check("cuModuleGetFunction", find(&k->function[i], module, names[i]));
		launch_many_ns(k, i, WARM_LAUNCHES);
		k->launch_ns[i] = launch_many_ns(k, i, WARM_LAUNCHES);
	}
	return k;
}

double kernels_run_ns(struct kernels *k, enum kernel_kind kind, uint64_t slice_ns)
{
	double n = (double)slice_ns / k->launch_ns[kind];

	return launch_many_ns(k, kind, n < 1 ? 1 : n > LAUNCHES_MAX ? LAUNCHES_MAX : (uint32_t)n);
}
