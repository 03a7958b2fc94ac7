/* Causal attention of the new tokens of one sequence over its cache, for one key/value head and its G query heads.
 *
 * Scores are keys times queries and the output is transposed values times weights, so queries are columns throughout:
 * LANES of them, a tile, go through softmax together, and with G query heads over T new tokens there are G * T. */
#ifndef MINSEEK_ATTENTION_H
#define MINSEEK_ATTENTION_H
#include "context.h"
#include "gemm.h"
#include "layout.h"
#include "norm.h"
#include "rope.h"

/* LANES columns [D][LANES] rotated by the angles of their positions; the angles are gathered into `scratch`. */
static void rope_gathered(const layer_io *io, int dim, const float *x, const int *columns, float *scratch, float *out) {
    const int half = dim / 2;
    const float *cosine = gather(io->cosine, half, 0, half, columns, scratch);
    const float *sine = gather(io->sine, half, 0, half, columns, scratch + half * LANES);
    rope_columns(x, cosine, sine, dim, out);
}

/* Write the new keys and values of one head after those in the cache. */
static void append_kv(const thread_ctx *ctx, const layer_io *io, int head, const sequence *s) {
    const decoder *m = ctx->model;
    const int dim = m->head_dim, width = query_width(m), kv = kv_width(m), features = qkv_width(m), layer = io->layer;
    const size_t first_pair = (size_t)head * s->capacities[layer] + s->lengths[layer], offset = first_pair * dim;
    float *rotated = ctx->scratch.columns, *angles = rotated + dim * LANES;
    for (int t = 0; t < s->num_tokens; t += LANES) {
        int columns[LANES], count = s->num_tokens - t < LANES ? s->num_tokens - t : LANES;
        for (int l = 0; l < LANES; l++) columns[l] = l < count ? s->first_column + t + l : -1;
        const float *x = gather(io->qkv, features, width + head * dim, dim, columns, rotated);
        if (io->weights->k_norm) rms_norm_columns(x, io->weights->k_norm, m->rms_norm_eps, dim, rotated), x = rotated;
        if (s->raw_keys) store_rows(x, dim, count, s->raw_keys[layer] + offset + (size_t)t * dim);
        rope_gathered(io, dim, x, columns, angles, rotated);
        store_rows(rotated, dim, count, s->keys[layer] + offset + (size_t)t * dim);
        x = gather(io->qkv, features, width + kv + head * dim, dim, columns, rotated);
        store_rows(x, dim, count, s->values[layer] + offset + (size_t)t * dim);
    }
    if (s->positions)
        for (int t = 0; t < s->num_tokens; t++) s->positions[layer][first_pair + t] = s->position + t;
}

/* LANES queries of one key/value head. */
typedef struct {
    int column[LANES], head[LANES]; /* -1 in a lane without a query */
    int last_visible[LANES];        /* the last pair that it may attend to */
    int position[LANES];
    int in_window[LANES]; /* -1 where its attention counts in attn_window_sum, too, else 0 */
    int max_visible, any_in_window;
} query_tile;

/* Queries first..first + LANES - 1 of the G * T of a head, normalized, rotated, scaled and packed. */
static query_tile load_query_tile(const thread_ctx *ctx, const layer_io *io, int head, const sequence *s, int first,
                                  packed *out) {
    const decoder *m = ctx->model;
    const int dim = m->head_dim, group = group_size(m), features = qkv_width(m), num_queries = group * s->num_tokens;
    float *rotated = ctx->scratch.columns, *angles = rotated + dim * LANES;
    const float *x = rotated;
    query_tile tile = {.max_visible = 0, .any_in_window = 0};
    for (int l = 0, g = first / s->num_tokens, t = first % s->num_tokens; l < LANES; l++, t++) {
        if (t == s->num_tokens) t = 0, g++;
        const int valid = first + l < num_queries;
        tile.column[l] = valid ? s->first_column + t : -1;
        tile.head[l] = valid ? head * group + g : -1;
        tile.last_visible[l] = s->lengths[io->layer] + t; /* without a query, too: no softmax is over nothing */
        tile.position[l] = s->position + t;
        tile.in_window[l] = valid && t >= s->window_start ? -1 : 0;
        if (valid && tile.last_visible[l] > tile.max_visible) tile.max_visible = tile.last_visible[l];
        tile.any_in_window |= tile.in_window[l];
    }
    if (tile.head[0] == tile.head[LANES - 1])
        x = gather(io->qkv, features, tile.head[0] * dim, dim, tile.column, rotated);
    else
        for (int l = 0; l < LANES; l++) {
            const int c = tile.column[l];
            const float *a = c < 0 ? io->qkv : column_start(io->qkv, features, tile.head[l] * dim, c);
            for (int k = 0; k < dim; k++) rotated[k * LANES + l] = c < 0 ? 0 : a[(size_t)k * LANES];
        }
    if (io->weights->q_norm) rms_norm_columns(x, io->weights->q_norm, m->rms_norm_eps, dim, rotated), x = rotated;
    if (s->queries)
        for (int l = 0; l < LANES; l++)
            if (tile.column[l] >= 0) {
                size_t row = (s->query_index + tile.column[l] - s->first_column) % s->block;
                float *query = s->queries[io->layer] + ((size_t)tile.head[l] * s->block + row) * dim;
                for (int k = 0; k < dim; k++) query[k] = x[k * LANES + l];
            }
    rope_gathered(io, dim, x, tile.column, angles, rotated);
    for (int k = 0; k < dim; k += 2)
        pack(out + packed_offset(k), loadf(rotated + k * LANES) * m->attention_scale,
             loadf(rotated + (k + 1) * LANES) * m->attention_scale);
    return tile;
}

static inline vec max_of_scores(const float *scores, int from, int to, vec max) {
    for (int j = from; j < to; j++) max = vmax(max, loadf(scores + (size_t)j * LANES));
    return max;
}

/* Pairs of one head that queries attend to. */
typedef struct {
    const weight *keys;
    const weight *prefetched; /* values to prefetch meanwhile, or NULL */
    int num_visible;
    int num_whole;    /* keys in whole groups of LANES; those after them are in last_keys */
    int num_unmasked; /* of the first pairs, which every query attends to */
} visible_pairs;

/* Scores [num_visible][LANES] of one or two tiles of queries, and the maximum of each query's first num_unmasked. */
static void attention_scores(const thread_ctx *ctx, const visible_pairs *pairs, int num_tiles, vec *row_max) {
    const thread_scratch *d = &ctx->scratch;
    const int dim = ctx->model->head_dim, num_unmasked = pairs->num_unmasked;
    const packed *queries[2] = {d->queries, num_tiles > 1 ? d->queries + packed_offset(dim) : NULL};
    int compared = 0;
    for (int j = 0; j < pairs->num_visible; j += 2 * LANES) {
        row_panel keys = {{NULL, NULL}, {LANES, LANES}, (size_t)dim};
        for (int h = 0; h < 2; h++) {
            int start = j + h * LANES;
            if (start < pairs->num_visible)
                keys.half[h] = start == pairs->num_whole ? d->last_keys : pairs->keys + (size_t)start * dim;
        }
        float *c[4] = {d->scores[0] + (size_t)j * LANES, d->scores[1] + (size_t)j * LANES,
                       d->scores[0] + (size_t)(j + LANES) * LANES, d->scores[1] + (size_t)(j + LANES) * LANES};
        const weight *next = pairs->prefetched + (size_t)j * dim;
        const size_t row_bytes = dim * sizeof(weight);
        const prefetch_stream values =
            pairs->prefetched ? prefetch_rows(next, next + LANES * dim, row_bytes, dim / 32, 0, 1) : NO_PREFETCH;
        gemm_tile(ctx->amx, &keys, queries, dim, 0, c, values);
        if (j && j <= num_unmasked) { /* of the product before, which is done and still in the first cache */
            for (int i = 0; i < num_tiles; i++) row_max[i] = max_of_scores(d->scores[i], compared, j, row_max[i]);
            compared = j;
        }
    }
    for (int i = 0; i < num_tiles && compared < num_unmasked; i++)
        row_max[i] = max_of_scores(d->scores[i], compared, num_unmasked, row_max[i]);
}

/* Exponentials of one tile of scores [num_visible][LANES] over the pairs that each query may attend to, packed and
 * padded to a multiple of 32 pairs. row_max: of the unmasked ones. Returns 1 / sum(exp) per query, 0 in lanes without
 * one. */
static vec masked_softmax(float *scores, const visible_pairs *pairs, const query_tile *tile, const int *positions,
                          int window, vec row_max, packed *weights) {
    const int n = pairs->num_visible, padded = (int)round_up(n, 32);
    ivec last_visible, position;
    memcpy(&last_visible, tile->last_visible, sizeof last_visible);
    memcpy(&position, tile->position, sizeof position);
    const vec masked = broadcast(MASKED);
    vec total = broadcast(0);
    for (int j = pairs->num_unmasked; j < n; j++) {
        ivec visible = j <= last_visible;
        if (window) visible &= position - (positions ? positions[j] : j) < window;
        vec x = (vec)(((ivec)loadf(scores + (size_t)j * LANES) & visible) | ((ivec)masked & ~visible));
        storef(scores + (size_t)j * LANES, x);
        row_max = vmax(row_max, x);
    }
    for (int j = n; j < padded; j++) storef(scores + (size_t)j * LANES, masked);
    for (int j = 0; j < padded; j += 2) {
        vec even = vexp_weight(loadf(scores + (size_t)j * LANES), row_max);
        vec odd = vexp_weight(loadf(scores + (size_t)(j + 1) * LANES), row_max);
        total += even + odd;
        pack(weights + packed_offset(j), even, odd);
    }
    float valid[LANES];
    for (int l = 0; l < LANES; l++) valid[l] = tile->column[l] < 0 ? 0 : 1;
    return loadf(valid) / total;
}

/* Add weights times `scale` to sums [n][LANES], of one tile or two; n is even. */
ALWAYS_INLINE void add_weights(packed *const *weights, int n, const int num_tiles, const vec *scale,
                               float *sums) {
    for (int j = 0; j < n; j += 2) {
        float *pair = sums + (size_t)j * LANES;
        vec even = loadf(pair), odd = loadf(pair + LANES);
        for (int i = 0; i < num_tiles; i++) {
            vec a, b;
            unpack(weights[i] + packed_offset(j), &a, &b);
            even += a * scale[i];
            odd += b * scale[i];
        }
        storef(pair, even);
        storef(pair + LANES, odd);
    }
}

/* Add the weights of the tiles to the sums over all queries, and over those in the window. */
static void accumulate_attention(const thread_scratch *d, int n, int num_tiles, const query_tile *tiles,
                                 const vec *inv_sum) {
    vec in_window_only[2] = {broadcast(0), broadcast(0)};
    int any = 0;
    for (int i = 0; i < num_tiles; i++) {
        ivec in_window;
        memcpy(&in_window, tiles[i].in_window, sizeof in_window);
        in_window_only[i] = (vec)((ivec)inv_sum[i] & in_window);
        any |= tiles[i].any_in_window;
    }
    if (num_tiles > 1)
        add_weights(d->weights, n, 2, inv_sum, d->attention_sums[0]);
    else
        add_weights(d->weights, n, 1, inv_sum, d->attention_sums[0]);
    if (any) add_weights(d->weights, n, num_tiles, in_window_only, d->attention_sums[1]);
}

/* Store a tile's output, x [D][LANES], in its columns. */
static void store_output(const float *x, const query_tile *tile, int width, int dim, float *out) {
    if (tile->head[0] == tile->head[LANES - 1]) {
        scatter(x, width, tile->head[0] * dim, dim, tile->column, out);
        return;
    }
    for (int l = 0; l < LANES; l++) {
        if (tile->column[l] < 0) continue;
        float *o = (float *)column_start(out, width, tile->head[l] * dim, tile->column[l]);
        for (int k = 0; k < dim; k++) o[(size_t)k * LANES] = x[k * LANES + l];
    }
}

/* Transposed values [D][padded] times the weights of one or two tiles, scaled by inv_sum, into their columns. */
static void weighted_values(const thread_ctx *ctx, const query_tile *tiles, int num_tiles, const vec *inv_sum,
                            int padded, int num_weights, float *out) {
    const thread_scratch *d = &ctx->scratch;
    const int dim = ctx->model->head_dim;
    const packed *weights[2] = {d->weights[0], num_tiles > 1 ? d->weights[1] : NULL};
    float *results[2] = {d->columns, d->scores[0]};
    for (int k = 0; k < dim; k += 2 * LANES) {
        const row_panel values = panel_at(d->transposed, k, dim, padded);
        float *c[4] = {results[0] + (size_t)k * LANES, results[1] + (size_t)k * LANES,
                       results[0] + (size_t)(k + LANES) * LANES, results[1] + (size_t)(k + LANES) * LANES};
        gemm_tile(ctx->amx, &values, weights, num_weights, 0, c, NO_PREFETCH);
    }
    for (int i = 0; i < num_tiles; i++) {
        for (int k = 0; k < dim; k++) storef(results[i] + k * LANES, loadf(results[i] + k * LANES) * inv_sum[i]);
        store_output(results[i], &tiles[i], query_width(ctx->model), dim, out);
    }
}

/* Attention of one head: append its keys and values, attend, store the output. */
static void prefill_attention(const thread_ctx *ctx, const layer_io *io, int head, const sequence *s) {
    const decoder *m = ctx->model;
    const thread_scratch *d = &ctx->scratch;
    const int dim = m->head_dim, group = group_size(m), window = io->weights->window, layer = io->layer;
    const int n = s->lengths[layer] + s->num_tokens, padded = (int)round_up(n, 32), num_whole = n / LANES * LANES;
    const size_t first_pair = (size_t)head * s->capacities[layer];
    const weight *keys = s->keys[layer] + first_pair * dim;
    const int *positions = s->positions ? s->positions[layer] + first_pair : NULL;
    const int num_queries = group * s->num_tokens, counts_attention = s->attn_sum != NULL;
    append_kv(ctx, io, head, s);
    memset(d->last_keys, 0, sizeof(weight) * LANES * dim);
    memcpy(d->last_keys, keys + (size_t)num_whole * dim, sizeof(weight) * (n - num_whole) * dim);
    transpose_values(s->values[layer] + first_pair * dim, n, padded, dim, d->transposed);
    if (counts_attention)
        for (int i = 0; i < 2; i++) memset(d->attention_sums[i], 0, sizeof(float) * padded * LANES);

    for (int first = 0; first < num_queries; first += 2 * LANES) {
        const int num_tiles = num_queries - first > LANES ? 2 : 1;
        query_tile tiles[2];
        vec inv_sum[2], row_max[2] = {broadcast(MASKED), broadcast(MASKED)};
        visible_pairs pairs = {keys, NULL, 0, num_whole, window ? 0 : s->lengths[layer]};
        for (int i = 0; i < num_tiles; i++) {
            tiles[i] = load_query_tile(ctx, io, head, s, first + i * LANES, d->queries + i * packed_offset(dim));
            if (tiles[i].max_visible >= pairs.num_visible) pairs.num_visible = tiles[i].max_visible + 1;
        }
        const int num_weights = (int)round_up(pairs.num_visible, 32);
        attention_scores(ctx, &pairs, num_tiles, row_max);
        for (int i = 0; i < num_tiles; i++)
            inv_sum[i] = masked_softmax(d->scores[i], &pairs, &tiles[i], positions, window, row_max[i], d->weights[i]);
        if (counts_attention) accumulate_attention(d, num_weights, num_tiles, tiles, inv_sum);
        weighted_values(ctx, tiles, num_tiles, inv_sum, padded, num_weights, io->out);
    }
    if (counts_attention)
        for (int j = 0; j < n; j++) {
            s->attn_sum[layer][first_pair + j] += sum(loadf(d->attention_sums[0] + (size_t)j * LANES)) / group;
            s->attn_window_sum[layer][first_pair + j] += sum(loadf(d->attention_sums[1] + (size_t)j * LANES)) / group;
        }
}
#endif
