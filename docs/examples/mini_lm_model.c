/* SPDX-License-Identifier: Apache-2.0 */

/*
 * See mini_lm_model.h. Matrices lie input-major: y[] += x[i] * w[i][], which a compiler can do in
 * vectors without changing the order in which any one sum is made. It is built with
 * -ffp-contract=off, so that no multiplication and addition become one.
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mini_lm_model.h"

#define KQ_GAIN 8.0f /* or attention would be nearly the same everywhere */
#define UPDATE_GAIN 0.2f
#define ROPE_BASE 10000.0

struct layer {
	float norm_attention[MODEL_HIDDEN], norm_mlp[MODEL_HIDDEN];
	float q[MODEL_HIDDEN][MODEL_HIDDEN], k[MODEL_HIDDEN][MODEL_HIDDEN];
	float v[MODEL_HIDDEN][MODEL_HIDDEN], o[MODEL_HIDDEN][MODEL_HIDDEN];
	float gate[MODEL_HIDDEN][MODEL_MLP], up[MODEL_HIDDEN][MODEL_MLP];
	float down[MODEL_MLP][MODEL_HIDDEN];
};

struct weights {
	float embedding[MODEL_VOCAB][MODEL_HIDDEN];
	struct layer layer[MODEL_LAYERS];
	float norm_out[MODEL_HIDDEN];
	float head[MODEL_HIDDEN][MODEL_VOCAB];
};

struct model {
	struct weights weights;
	uint64_t seed, step;
	float cosine[MODEL_POSITIONS][MODEL_HEAD_FLOATS / 2];
	float sine[MODEL_POSITIONS][MODEL_HEAD_FLOATS / 2];
};

/* ---- weights ------------------------------------------------------------------------------- */

/* splitmix64, as a float of -1 to 1 */
static float draw(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	x ^= x >> 31;
	return (float)(int32_t)(x >> 32) * 0x1p-31f;
}

static void add(uint64_t *state, float *matrix, uint32_t in, uint32_t out, float gain)
{
	const float scale = gain * sqrtf(3.0f / (float)in);

	for (uint32_t i = 0; i < in * out; i++)
		matrix[i] += scale * draw(state);
}

static void add_all(struct weights *w, uint64_t seed, float gain)
{
	uint64_t state = seed * 0xd1342543de82ef95ull + 1;

	add(&state, w->embedding[0], 1, MODEL_VOCAB * MODEL_HIDDEN, gain);
	for (uint32_t l = 0; l < MODEL_LAYERS; l++) {
		struct layer *layer = &w->layer[l];

		add(&state, layer->q[0], MODEL_HIDDEN, MODEL_HIDDEN, gain * KQ_GAIN);
		add(&state, layer->k[0], MODEL_HIDDEN, MODEL_HIDDEN, gain);
		add(&state, layer->v[0], MODEL_HIDDEN, MODEL_HIDDEN, gain);
		add(&state, layer->o[0], MODEL_HIDDEN, MODEL_HIDDEN, gain);
		add(&state, layer->gate[0], MODEL_HIDDEN, MODEL_MLP, gain);
		add(&state, layer->up[0], MODEL_HIDDEN, MODEL_MLP, gain);
		add(&state, layer->down[0], MODEL_MLP, MODEL_HIDDEN, gain);
	}
	add(&state, w->head[0], MODEL_HIDDEN, MODEL_VOCAB, gain);
}

struct model *model_create(uint64_t seed)
{
	struct model *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->seed = seed;
	add_all(&m->weights, seed, 1.0f);
	for (uint32_t i = 0; i < MODEL_HIDDEN; i++) {
		m->weights.norm_out[i] = 1.0f;
		for (uint32_t l = 0; l < MODEL_LAYERS; l++)
			m->weights.layer[l].norm_attention[i] = m->weights.layer[l].norm_mlp[i] =
				1.0f;
	}
	for (uint32_t p = 0; p < MODEL_POSITIONS; p++) {
		for (uint32_t i = 0; i < MODEL_HEAD_FLOATS / 2; i++) {
			const double turn =
				p * pow(ROPE_BASE, -2.0 * (double)i / MODEL_HEAD_FLOATS);

			m->cosine[p][i] = (float)cos(turn);
			m->sine[p][i] = (float)sin(turn);
		}
	}
	return m;
}

void model_update(struct model *m)
{
	add_all(&m->weights, m->seed + (++m->step << 32), UPDATE_GAIN);
}

const void *model_weights(const struct model *m, uint64_t *ret_bytes)
{
	*ret_bytes = sizeof(m->weights);
	return &m->weights;
}

/* ---- one token ----------------------------------------------------------------------------- */

static void multiply(const float *x, const float *matrix, uint32_t in, uint32_t out, float *y)
{
	memset(y, 0, out * sizeof(*y));
	for (uint32_t i = 0; i < in; i++)
		for (uint32_t j = 0; j < out; j++)
			y[j] += x[i] * matrix[i * out + j];
}

static void normalize(const float *x, const float *gain, float *y)
{
	float squares = 0.0f;

	for (uint32_t i = 0; i < MODEL_HIDDEN; i++)
		squares += x[i] * x[i];
	const float scale = 1.0f / sqrtf(squares / MODEL_HIDDEN + 1e-5f);
	for (uint32_t i = 0; i < MODEL_HIDDEN; i++)
		y[i] = x[i] * scale * gain[i];
}

/* Turns each pair of a head's numbers by an angle that grows with the position. */
static void rotate(const struct model *m, uint32_t position, float *x)
{
	const float *cosine = m->cosine[position], *sine = m->sine[position];

	for (uint32_t h = 0; h < MODEL_HEADS; h++, x += MODEL_HEAD_FLOATS) {
		for (uint32_t i = 0; i < MODEL_HEAD_FLOATS / 2; i++) {
			const float a = x[2 * i], b = x[2 * i + 1];

			x[2 * i] = a * cosine[i] - b * sine[i];
			x[2 * i + 1] = a * sine[i] + b * cosine[i];
		}
	}
}

/* Where the K of a head of a position lies; its V lies `ret_v` floats behind. */
static float *find_k(const struct model_block *blocks, uint32_t ranks, uint32_t layer,
		     uint32_t position, uint32_t head, uint32_t *ret_v)
{
	const uint32_t heads = MODEL_HEADS / ranks;
	const uint32_t token = position % MODEL_BLOCK_TOKENS;

	*ret_v = MODEL_BLOCK_TOKENS * heads * MODEL_HEAD_FLOATS;
	return blocks[position / MODEL_BLOCK_TOKENS].kv[layer][head / heads] +
	       (token * heads + head % heads) * MODEL_HEAD_FLOATS;
}

/* What one head of the token at `position` has to say, over all tokens up to itself. */
static void attend(const struct model_block *blocks, uint32_t ranks, uint32_t layer,
		   uint32_t position, uint32_t head, const float *q, float *y)
{
	float weight[MODEL_POSITIONS], most = -INFINITY, sum = 0.0f;
	uint32_t v;

	for (uint32_t p = 0; p <= position; p++) {
		const float *k = find_k(blocks, ranks, layer, p, head, &v);
		float score = 0.0f;

		for (uint32_t i = 0; i < MODEL_HEAD_FLOATS; i++)
			score += q[i] * k[i];
		weight[p] = score / sqrtf(MODEL_HEAD_FLOATS);
		most = fmaxf(most, weight[p]);
	}
	for (uint32_t p = 0; p <= position; p++) {
		weight[p] = expf(weight[p] - most);
		sum += weight[p];
	}
	memset(y, 0, MODEL_HEAD_FLOATS * sizeof(*y));
	for (uint32_t p = 0; p <= position; p++) {
		const float *k = find_k(blocks, ranks, layer, p, head, &v);

		for (uint32_t i = 0; i < MODEL_HEAD_FLOATS; i++)
			y[i] += weight[p] / sum * k[v + i];
	}
}

static void run_attention(const struct model *m, const struct model_block *blocks, uint32_t ranks,
			  uint32_t l, uint32_t position, float *x)
{
	const struct layer *layer = &m->weights.layer[l];
	float in[MODEL_HIDDEN], q[MODEL_HIDDEN], k[MODEL_HIDDEN], v[MODEL_HIDDEN];
	float heads[MODEL_HIDDEN], out[MODEL_HIDDEN];

	normalize(x, layer->norm_attention, in);
	multiply(in, layer->q[0], MODEL_HIDDEN, MODEL_HIDDEN, q);
	multiply(in, layer->k[0], MODEL_HIDDEN, MODEL_HIDDEN, k);
	multiply(in, layer->v[0], MODEL_HIDDEN, MODEL_HIDDEN, v);
	rotate(m, position, q);
	rotate(m, position, k);
	for (uint32_t h = 0; h < MODEL_HEADS; h++) {
		const uint32_t at = h * MODEL_HEAD_FLOATS;
		uint32_t behind;
		float *to = find_k(blocks, ranks, l, position, h, &behind);

		memcpy(to, k + at, MODEL_HEAD_FLOATS * sizeof(*to));
		memcpy(to + behind, v + at, MODEL_HEAD_FLOATS * sizeof(*to));
		attend(blocks, ranks, l, position, h, q + at, heads + at);
	}
	multiply(heads, layer->o[0], MODEL_HIDDEN, MODEL_HIDDEN, out);
	for (uint32_t i = 0; i < MODEL_HIDDEN; i++)
		x[i] += out[i];
}

static void run_mlp(const struct layer *layer, float *x)
{
	float in[MODEL_HIDDEN], gate[MODEL_MLP], up[MODEL_MLP], out[MODEL_HIDDEN];

	normalize(x, layer->norm_mlp, in);
	multiply(in, layer->gate[0], MODEL_HIDDEN, MODEL_MLP, gate);
	multiply(in, layer->up[0], MODEL_HIDDEN, MODEL_MLP, up);
	for (uint32_t i = 0; i < MODEL_MLP; i++)
		up[i] *= gate[i] / (1.0f + expf(-gate[i]));
	multiply(up, layer->down[0], MODEL_MLP, MODEL_HIDDEN, out);
	for (uint32_t i = 0; i < MODEL_HIDDEN; i++)
		x[i] += out[i];
}

void model_forward(const struct model *m, const struct model_block *blocks, uint32_t ranks,
		   uint32_t token, uint32_t position, float *logits)
{
	float x[MODEL_HIDDEN], out[MODEL_HIDDEN];

	memcpy(x, m->weights.embedding[token], sizeof(x));
	for (uint32_t l = 0; l < MODEL_LAYERS; l++) {
		run_attention(m, blocks, ranks, l, position, x);
		run_mlp(&m->weights.layer[l], x);
	}
	if (!logits)
		return;
	normalize(x, m->weights.norm_out, out);
	multiply(out, m->weights.head[0], MODEL_HIDDEN, MODEL_VOCAB, logits);
}
