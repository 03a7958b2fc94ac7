/* Attention of one new token of a sequence over its cache, for one key/value head and its G query heads: a step of
 * decoding many sequences consists of these. Weights are rows here, and values need not be transposed. */
#ifndef MINSEEK_DECODE_ATTENTION_H
#define MINSEEK_DECODE_ATTENTION_H
#include "attention.h"

/* One column's query or key [D], LANES floats apart: normalized if there is a norm, then rotated and scaled. */
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
    const char *next; /* prefetched meanwhile: as many bytes as are read */
    float *out;         /* [heads][D] */
} value_sum;

/* Sums of at most four heads stay in registers for this many pairs of vectors. */
#define VALUE_PAIRS (NUM_REGISTERS == 32 ? 2 : 1)
/* Features k..k + 2 LANES * pairs. `heads` and `pairs` are known at compile time, so that sums stay in registers. */
ALWAYS_INLINE void weighted_value_sum(value_sum s, int k, const int heads, const int pairs) {
    vec sums[4][VALUE_PAIRS][2];
    for (int g = 0; g < heads; g++)
        for (int i = 0; i < pairs; i++) sums[g][i][0] = sums[g][i][1] = broadcast(0);
    for (int j = 0; j < s.n; j++) {
        vec v[VALUE_PAIRS][2];
        for (int i = 0; i < pairs; i++) {
            const size_t offset = (size_t)j * s.dim + k + 2 * LANES * i;
            __builtin_prefetch(s.next + offset * sizeof(weight), 0, 2);
            load_two(s.values + offset, &v[i][0], &v[i][1]);
        }
        for (int g = 0; g < heads; g++) {
            const vec p = broadcast(s.weights[(size_t)g * s.padded + j]);
            for (int i = 0; i < pairs; i++) {
                sums[g][i][0] += v[i][0] * p;
                sums[g][i][1] += v[i][1] * p;
            }
        }
    }
    for (int g = 0; g < heads; g++)
        for (int i = 0; i < pairs; i++)
            for (int half = 0; half < 2; half++) {
                float lanes[LANES];
                storef(lanes, sums[g][i][half]);
                for (int l = 0; l < LANES; l++)
                    s.out[(size_t)g * s.dim + k + 2 * LANES * i + lane_index(half, l)] = lanes[l];
            }
}

/* All features, for up to four heads. */
static void weighted_value_sums(value_sum s, int heads) {
    int k = 0;
#define CASE(HEADS, PAIRS) \
    case HEADS: weighted_value_sum(s, k, HEADS, PAIRS); break;
#define EACH_COUNT(PAIRS) \
    for (; k + 2 * LANES * PAIRS <= s.dim; k += 2 * LANES * PAIRS) \
        switch (heads) { CASE(1, PAIRS) CASE(2, PAIRS) CASE(3, PAIRS) CASE(4, PAIRS) }
    EACH_COUNT(VALUE_PAIRS)
    EACH_COUNT(1)
#undef EACH_COUNT
#undef CASE
    for (; k < s.dim; k++)
        for (int g = 0; g < heads; g++) {
            float a = 0;
            for (int j = 0; j < s.n; j++)
                a += weight_to_f32(s.values[(size_t)j * s.dim + k]) * s.weights[(size_t)g * s.padded + j];
            s.out[(size_t)g * s.dim + k] = a;
        }
}

/* Scores of up to four heads, a number known at compile time, for n keys [n][D]: rows [heads][padded]. */
ALWAYS_INLINE void key_scores(const float *queries, const weight *keys, const char *next, int n, int dim, int padded,
                              float *rows, const int heads) {
    for (int j = 0; j < n; j++) {
        const weight *key = keys + (size_t)j * dim;
        vec sums[4];
        float tail[4] = {0};
        int i = 0;
        for (int g = 0; g < heads; g++) sums[g] = broadcast(0);
        for (; i + LANES <= dim; i += LANES) {
            const vec k = load(key + i);
            for (int g = 0; g < heads; g++) sums[g] += k * loadf(queries + (size_t)g * dim + i);
        }
        for (; i < dim; i++)
            for (int g = 0; g < heads; g++) tail[g] += weight_to_f32(key[i]) * queries[(size_t)g * dim + i];
        for (size_t line = 0; line < dim * sizeof(weight); line += 64)
            __builtin_prefetch(next + (size_t)j * dim * sizeof(weight) + line, 0, 2);
        for (int g = 0; g < heads; g++) rows[(size_t)g * padded + j] = sum(sums[g]) + tail[g];
    }
}
/* Scores of all G heads; the values that come next are prefetched meanwhile. */
static void scores_of_queries(const float *queries, const weight *keys, const weight *values, int n, int group,
                              int dim, int padded, float *rows) {
    for (int g = 0; g < group; g += 4) {
        const float *q = queries + (size_t)g * dim;
        float *r = rows + (size_t)g * padded;
        switch (group - g < 4 ? group - g : 4) {
#define CASE(HEADS) \
    case HEADS: key_scores(q, keys, (const char *)values, n, dim, padded, r, HEADS); break;
            CASE(1) CASE(2) CASE(3) CASE(4)
#undef CASE
        }
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

#if HAS_AMX
/* The same, in tile registers: queries are columns. */
static void scores_in_tiles(const thread_ctx *ctx, const visible_pairs *pairs, const float *queries, int group,
                            int padded, float *rows) {
    const thread_scratch *d = &ctx->scratch;
    const int dim = ctx->model->head_dim, whole = pairs->num_whole, n = pairs->num_visible;
    float *x = d->columns;
    memset(d->last_keys, 0, sizeof(weight) * LANES * dim);
    memcpy(d->last_keys, pairs->keys + (size_t)whole * dim, sizeof(weight) * (n - whole) * dim);
    memset(x, 0, sizeof(float) * LANES * dim);
    for (int g = 0; g < group; g++)
        for (int i = 0; i < dim; i++) x[i * LANES + g] = queries[(size_t)g * dim + i];
    for (int i = 0; i < dim; i += 2)
        pack(d->queries + packed_offset(i), loadf(x + i * LANES), loadf(x + (i + 1) * LANES));
    attention_scores(ctx, pairs, 1, NULL);
    for (int j = 0; j < n; j++)
        for (int g = 0; g < group; g++) rows[(size_t)g * padded + j] = d->scores[0][(size_t)j * LANES + g];
}
#endif

/* Attention of one head; `next`, which this thread will read after it, is prefetched meanwhile. */
static void decode_attention(const thread_ctx *ctx, const layer_io *io, int head, const sequence *s,
                             const void *next) {
    const decoder *m = ctx->model;
    const thread_scratch *d = &ctx->scratch;
    const int dim = m->head_dim, group = group_size(m), width = query_width(m), features = qkv_width(m);
    const int layer = io->layer, column = s->first_column;
    const int n = s->lengths[layer] + 1, padded = (int)round_up(n, LANES);
    const size_t first_pair = (size_t)head * s->capacities[layer], new_pair = first_pair + s->lengths[layer];
    const float *cosine = column_start(io->cosine, dim / 2, 0, column);
    const float *sine = column_start(io->sine, dim / 2, 0, column);
    weight *keys = s->keys[layer] + first_pair * dim, *values = s->values[layer] + first_pair * dim;
    const int *positions = s->positions ? s->positions[layer] + first_pair : NULL;
    float *queries = d->scores[0], *unrotated = d->columns, *rotated = unrotated + dim;
    float *rows = d->scores[1], *x = d->columns;

    const float *k = column_start(io->qkv, features, width + head * dim, column);
    norm_rope(m, k, io->weights->k_norm, cosine, sine, 1, unrotated, rotated);
    const float *v = column_start(io->qkv, features, width + kv_width(m) + head * dim, column);
    for (int i = 0; i < dim; i++) {
        if (s->raw_keys) s->raw_keys[layer][new_pair * dim + i] = f32_to_weight(unrotated[i]);
        s->keys[layer][new_pair * dim + i] = f32_to_weight(rotated[i]);
        s->values[layer][new_pair * dim + i] = f32_to_weight(v[(size_t)i * LANES]);
    }
    if (s->positions) s->positions[layer][new_pair] = s->position;
    for (int g = 0; g < group; g++) {
        const float *q = column_start(io->qkv, features, (head * group + g) * dim, column);
        norm_rope(m, q, io->weights->q_norm, cosine, sine, m->attention_scale, unrotated, queries + (size_t)g * dim);
        if (s->queries)
            memcpy(s->queries[layer] + ((size_t)(head * group + g) * s->block + s->query_index) * dim, unrotated,
                   sizeof(float) * dim);
    }
#if HAS_AMX
    if (ctx->amx)
        scores_in_tiles(ctx, &(visible_pairs){keys, values, n, n / LANES * LANES, 0}, queries, group, padded, rows);
    else
#endif
        scores_of_queries(queries, keys, values, n, group, dim, padded, rows);
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
