/* Attention of one new token of a sequence over its cache, for one key/value head and its G query heads: a step of
 * decoding many sequences consists of these. Weights are rows here, and values need not be transposed. */
#ifndef MINSEEK_DECODE_ATTENTION_H
#define MINSEEK_DECODE_ATTENTION_H
#include "attention.h"

/* One column's query or key [D], 16 floats apart: normalized if there is a norm, then rotated and scaled. */
static void norm_rope(const decoder *m, const float *x, const weight *norm, const float *cosine, const float *sine,
                      float scale, float *unrotated, float *out) {
    const int dim = m->head_dim;
    if (norm)
        rms_norm_column(x, norm, m->rms_norm_eps, dim, unrotated);
    else
        for (int i = 0; i < dim; i++) unrotated[i] = x[(size_t)i * LANES];
    rope_row(unrotated, cosine, sine, LANES, dim, out);
    for (int i = 0; i < dim; i++) out[i] *= scale;
}

/* Operands of a weighted sum of values. */
typedef struct {
    const weight *values; /* [n][D] */
    int n, dim;
    const float *weights; /* [heads][padded] */
    int padded;
    const weight *next; /* prefetched meanwhile: as many bytes as are read */
    float *out;         /* [heads][D] */
} value_sum;

/* Features k..k + 32 * num_vecs. `heads` and `num_vecs` are known at compile time, so that sums stay in registers. */
static inline __attribute__((always_inline)) void weighted_value_sum(value_sum s, int k, const int heads,
                                                                     const int num_vecs) {
    vec sums[4][2][2] = {{{{0}}}};
    for (int j = 0; j < s.n; j++) {
        vec v[2][2];
        for (int i = 0; i < num_vecs; i++) {
            __builtin_prefetch(s.next + (size_t)j * s.dim + k + 32 * i, 0, 2);
            load_two(s.values + (size_t)j * s.dim + k + 32 * i, &v[i][0], &v[i][1]);
        }
        for (int g = 0; g < heads; g++) {
            const float p = s.weights[(size_t)g * s.padded + j];
            for (int i = 0; i < num_vecs; i++) {
                sums[g][i][0] += v[i][0] * p;
                sums[g][i][1] += v[i][1] * p;
            }
        }
    }
    for (int g = 0; g < heads; g++)
        for (int i = 0; i < num_vecs; i++)
            for (int half = 0; half < 2; half++)
                for (int l = 0; l < LANES; l++)
                    s.out[(size_t)g * s.dim + k + 32 * i + lane_index(half, l)] = sums[g][i][half][l];
}

/* All features, for up to four heads. */
static void weighted_value_sums(value_sum s, int heads) {
    int k = 0;
#define CASE(HEADS, NUM_VECS) \
    case HEADS: weighted_value_sum(s, k, HEADS, NUM_VECS); break;
    for (; k + 64 <= s.dim; k += 64)
        switch (heads) { CASE(1, 2) CASE(2, 2) CASE(3, 2) CASE(4, 2) }
    for (; k + 32 <= s.dim; k += 32)
        switch (heads) { CASE(1, 1) CASE(2, 1) CASE(3, 1) CASE(4, 1) }
#undef CASE
    for (; k < s.dim; k++)
        for (int g = 0; g < heads; g++) {
            float a = 0;
            for (int j = 0; j < s.n; j++)
                a += weight_to_f32(s.values[(size_t)j * s.dim + k]) * s.weights[(size_t)g * s.padded + j];
            s.out[(size_t)g * s.dim + k] = a;
        }
}

/* Softmax of the G rows [padded] of scores over their first n. */
static void softmax_rows(float *rows, int group, int n, int padded, const int *positions, int position, int window) {
    for (int g = 0; g < group; g++) {
        float *row = rows + (size_t)g * padded;
        vec row_max = broadcast(-INFINITY), total = broadcast(0);
        if (window)
            for (int j = 0; j < n; j++)
                if (position - (positions ? positions[j] : j) >= window) row[j] = MASKED;
        for (int j = n; j < padded; j++) row[j] = MASKED;
        for (int j = 0; j < padded; j += LANES) row_max = vmax(row_max, loadf(row + j));
        row_max = broadcast(hmax(row_max));
        for (int j = 0; j < padded; j += LANES) {
            vec e = vexp_weight(loadf(row + j), row_max);
            storef(row + j, e);
            total += e;
        }
        const float inv_sum = 1.0f / sum(total);
        for (int j = 0; j < padded; j += LANES) storef(row + j, loadf(row + j) * inv_sum);
    }
}

/* Add the attention that the n pairs received, mean over the group; attn_window_sum may be NULL. */
static void accumulate_attention_row(const float *rows, int group, int n, int padded, float *attn_sum,
                                     float *attn_window_sum) {
    const float scale = 1.0f / (float)group;
    for (int j = 0; j < n; j += LANES) {
        vec mean = broadcast(0);
        for (int g = 0; g < group; g++) mean += loadf(rows + (size_t)g * padded + j);
        mean *= scale;
        if (j + LANES <= n) {
            storef(attn_sum + j, loadf(attn_sum + j) + mean);
            if (attn_window_sum) storef(attn_window_sum + j, loadf(attn_window_sum + j) + mean);
        } else
            for (int l = 0; j + l < n; l++) {
                attn_sum[j + l] += mean[l];
                if (attn_window_sum) attn_window_sum[j + l] += mean[l];
            }
    }
}

/* Attention of one head; `next`, which this thread will read after it, is prefetched meanwhile. */
static void decode_attention(const thread_ctx *ctx, const layer_io *io, int head, const sequence *s,
                             const weight *next) {
    const decoder *m = ctx->model;
    const thread_scratch *d = &ctx->scratch;
    const int dim = m->head_dim, group = group_size(m), width = query_width(m), features = qkv_width(m);
    const int layer = io->layer, column = s->first_column;
    const int n = s->lengths[layer] + 1, padded = (int)round_up(n, LANES), num_whole = n / LANES * LANES;
    const size_t first_pair = (size_t)head * s->capacities[layer], new_pair = first_pair + s->lengths[layer];
    const float *cosine = column_start(io->cosine, dim / 2, 0, column);
    const float *sine = column_start(io->sine, dim / 2, 0, column);
    weight *keys = s->keys[layer] + first_pair * dim, *values = s->values[layer] + first_pair * dim;
    const int *positions = s->positions ? s->positions[layer] + first_pair : NULL;
    float *unrotated = d->scores[1], *rotated = unrotated + dim, *rows = d->scores[1], *x = d->columns;

    const float *k = column_start(io->qkv, features, width + head * dim, column);
    norm_rope(m, k, io->weights->k_norm, cosine, sine, 1, unrotated, rotated);
    const float *v = column_start(io->qkv, features, width + kv_width(m) + head * dim, column);
    for (int i = 0; i < dim; i++) {
        if (s->raw_keys) s->raw_keys[layer][new_pair * dim + i] = f32_to_weight(unrotated[i]);
        s->keys[layer][new_pair * dim + i] = f32_to_weight(rotated[i]);
        s->values[layer][new_pair * dim + i] = f32_to_weight(v[(size_t)i * LANES]);
    }
    if (s->positions) s->positions[layer][new_pair] = s->position;
    memset(d->last_keys, 0, sizeof(weight) * LANES * dim);
    memcpy(d->last_keys, keys + (size_t)num_whole * dim, sizeof(weight) * (n - num_whole) * dim);

    memset(x, 0, sizeof(float) * LANES * dim);
    for (int g = 0; g < group; g++) {
        const float *q = column_start(io->qkv, features, (head * group + g) * dim, column);
        norm_rope(m, q, io->weights->q_norm, cosine, sine, m->attention_scale, unrotated, rotated);
        if (s->queries)
            memcpy(s->queries[layer] + ((size_t)(head * group + g) * s->block + s->query_index) * dim, unrotated,
                   sizeof(float) * dim);
        for (int i = 0; i < dim; i++) x[i * LANES + g] = rotated[i];
    }
    for (int i = 0; i < dim; i += 2)
        pack(d->queries + packed_offset(i), loadf(x + i * LANES), loadf(x + (i + 1) * LANES));

    const visible_pairs pairs = {keys, values, n, num_whole, 0};
    attention_scores(ctx, &pairs, 1, NULL);
    for (int j = 0; j < n; j++)
        for (int g = 0; g < group; g++) rows[(size_t)g * padded + j] = d->scores[0][(size_t)j * LANES + g];
    softmax_rows(rows, group, n, padded, positions, s->position, io->weights->window);
    if (s->attn_sum)
        accumulate_attention_row(rows, group, n, padded, s->attn_sum[layer] + first_pair,
                                 s->window_start ? NULL : s->attn_window_sum[layer] + first_pair);
    for (int g = 0; g < group; g += 4) {
        const value_sum sums = {values, n, dim, rows + (size_t)g * padded, padded, next, x + (size_t)g * dim};
        weighted_value_sums(sums, group - g < 4 ? group - g : 4);
    }
    for (int g = 0; g < group; g++) {
        float *o = (float *)column_start(io->out, width, (head * group + g) * dim, column);
        for (int i = 0; i < dim; i++) o[(size_t)i * LANES] = x[(size_t)g * dim + i];
    }
}
#endif
