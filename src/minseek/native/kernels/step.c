/* One decoding step of a Llama-family decoder for one sequence, on the CPU.
 *
 * A step reads every weight once, so its floor is weight bytes / memory bandwidth. All phases of a layer run in one
 * parallel region with barriers between; activations stay in float32, weights and cache in the model's dtype.
 * Shapes: H key/value heads, G query heads per key/value head, D head dimension.
 */
#include "barrier.h"
#include "decoder.h"
#include "rows.h"
#include "norm.h"
#include "rope.h"

static inline float dot(const float *a, const float *b, int n) {
    vec s[2] = {broadcast(0), broadcast(0)};
    float tail = 0;
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        s[0] += loadf(a + i) * loadf(b + i);
        s[1] += loadf(a + i + LANES) * loadf(b + i + LANES);
    }
    for (; i < n; i++) tail += a[i] * b[i];
    return sum(s[0] + s[1]) + tail;
}

#define ROWS 32
/* Rows first..last of w x + bias, w [rows, n]; `accumulate` adds them to out, the residual stream. */
static void linear_rows(const weight_matrix *w, const weight *bias, const float *x, int n, int first, int last,
                        int accumulate, float *out) {
    for (int start = first; start < last; start += ROWS) {
        const int count = last - start < ROWS ? last - start : ROWS;
        float y[ROWS];
        dot_rows(w, start, start + count, x, n, y);
        for (int i = 0; i < count; i++) {
            if (bias) y[i] += weight_to_f32(bias[start + i]);
            out[start + i] = accumulate ? out[start + i] + y[i] : y[i];
        }
    }
}

/* Keys or values as float32, once for all query heads that share them. */
static const float *as_f32(const weight *source, int count, float *buffer) {
#ifdef WEIGHT_BF16
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        __builtin_prefetch((const char *)(source + i) + 2048);
        storef(buffer + i, load(source + i));
    }
    for (; i < count; i++) buffer[i] = weight_to_f32(source[i]);
    return buffer;
#else
    (void)count, (void)buffer;
    return source;
#endif
}

#define TILE 32
/* Attention of G query heads q [G, D] over pairs first..last - 1 of one key/value head, by streaming softmax. Per query
 * head, partial [G, 2 + D] receives the maximum of the scores, the sum of weights and the weighted sum of values. */
static void attend(const float *q, const weight *keys, const weight *values, int first, int last, int group, int dim,
                   float *partial) {
    float scores[group][TILE], rescale[group], buffer[TILE * dim];
    for (int g = 0; g < group; g++) {
        float *p = partial + (size_t)g * (2 + dim);
        p[0] = -INFINITY;
        memset(p + 1, 0, sizeof(float) * (1 + dim));
    }
    for (int start = first; start < last; start += TILE) {
        int n = last - start < TILE ? last - start : TILE;
        const float *k = as_f32(keys + (size_t)start * dim, n * dim, buffer);
        for (int g = 0; g < group; g++) {
            float *p = partial + (size_t)g * (2 + dim), max = p[0];
            for (int t = 0; t < n; t++) {
                scores[g][t] = dot(k + t * dim, q + (size_t)g * dim, dim);
                if (scores[g][t] > max) max = scores[g][t];
            }
            for (int t = n; t < TILE; t++) scores[g][t] = -INFINITY;
            vec total = {0};
            for (int t = 0; t < TILE; t += LANES) {
                vec e = vexp(loadf(scores[g] + t) - max);
                storef(scores[g] + t, e);
                total += e;
            }
            rescale[g] = expf(p[0] - max);
            p[0] = max;
            p[1] = p[1] * rescale[g] + sum(total);
        }
        const float *v = as_f32(values + (size_t)start * dim, n * dim, buffer);
        for (int g = 0; g < group; g++) {
            float *acc = partial + (size_t)g * (2 + dim) + 2;
            int d = 0;
            for (; d + 4 * LANES <= dim; d += 4 * LANES) {
                vec a = loadf(acc + d) * rescale[g], b = loadf(acc + d + LANES) * rescale[g];
                vec c = loadf(acc + d + 2 * LANES) * rescale[g], e = loadf(acc + d + 3 * LANES) * rescale[g];
                for (int t = 0; t < n; t++) {
                    const float *row = v + t * dim + d;
                    const float s = scores[g][t];
                    a += loadf(row) * s;
                    b += loadf(row + LANES) * s;
                    c += loadf(row + 2 * LANES) * s;
                    e += loadf(row + 3 * LANES) * s;
                }
                storef(acc + d, a);
                storef(acc + d + LANES, b);
                storef(acc + d + 2 * LANES, c);
                storef(acc + d + 3 * LANES, e);
            }
            for (; d < dim; d++) {
                float a = acc[d] * rescale[g];
                for (int t = 0; t < n; t++) a += v[t * dim + d] * scores[g][t];
                acc[d] = a;
            }
        }
    }
}

/* Floats of scratch that step() needs. */
int64_t scratch_floats(const decoder *m) {
    int64_t heads = m->num_heads, width = heads * m->head_dim, kv = (int64_t)m->num_kv_heads * m->head_dim;
    int64_t shared = m->hidden_size + width + 2 * kv + m->intermediate_size;
    int64_t partials = m->num_threads * heads * (2 + m->head_dim);
    int64_t widest = m->hidden_size > width ? m->hidden_size : width;
    return shared + partials + m->num_threads * (widest + width + kv) + 64;
}

/* Input and output of a step, mirrored in native/structs.py. Arrays of pointers have one for each layer. */
typedef struct {
    int32_t token, length, capacity;     /* pairs in the cache before this token; pairs that it has memory for */
    int32_t reserved;
    weight *const *keys, *const *values; /* [H, capacity, D] */
    weight *const *raw_keys;             /* keys without their positions, [H, capacity, D]; or NULL */
    const float *cosine, *sine;          /* [D/2], of this token's position */
    float *scratch;
    float *logits; /* [vocab_size], or NULL */
} step_args;
int64_t sizeof_step_args(void) { return sizeof(step_args); }
int64_t sizeof_weight_matrix(void) { return sizeof(weight_matrix); }
int64_t sizeof_decoder(void) { return sizeof(decoder); }
int64_t sizeof_layer_weights(void) { return sizeof(layer_weights); }

/* One thread of a step: shared activations, and arrays of its own. */
typedef struct {
    const decoder *model;
    const step_args *args;
    barrier *barrier;
    int thread, num_threads;
    float *x;        /* the residual stream, [hidden_size] */
    float *qkv;      /* [(H G + 2 H) D] */
    float *act;      /* [intermediate_size] */
    float *partials; /* [threads, H G, 2 + D] */
    float *y, *q, *k; /* this thread's: [max(hidden_size, H G D)], [H G D], [H D] */
} step_ctx;

static inline void wait_for_all(const step_ctx *ctx) { barrier_wait(ctx->barrier, ctx->num_threads); }

/* This thread's share of the rows of a product. */
static inline void linear(const step_ctx *ctx, const weight_matrix *w, const weight *bias, const float *x, int n,
                          int rows, int accumulate, float *out) {
    const int first = split_range(rows, ctx->thread, ctx->num_threads);
    linear_rows(w, bias, x, n, first, split_range(rows, ctx->thread + 1, ctx->num_threads), accumulate, out);
}

/* Append the new key and value of one head to the cache. */
static void append_kv(const step_ctx *ctx, const layer_weights *w, int layer, int head) {
    const decoder *m = ctx->model;
    const step_args *args = ctx->args;
    const int dim = m->head_dim, width = m->num_heads * dim, kv = m->num_kv_heads * dim;
    const size_t offset = ((size_t)head * args->capacity + args->length) * dim;
    float *key = ctx->k + head * dim;
    memcpy(key, ctx->qkv + width + head * dim, sizeof(float) * dim);
    if (w->k_norm) rms_norm(key, w->k_norm, m->rms_norm_eps, dim, key);
    if (args->raw_keys)
        for (int d = 0; d < dim; d++) args->raw_keys[layer][offset + d] = f32_to_weight(key[d]);
    rope_row(key, args->cosine, args->sine, 1, dim, key);
    const float *value = ctx->qkv + width + kv + head * dim;
    for (int d = 0; d < dim; d++) args->keys[layer][offset + d] = f32_to_weight(key[d]);
    for (int d = 0; d < dim; d++) args->values[layer][offset + d] = f32_to_weight(value[d]);
}

/* Attention of all heads over this thread's share of the pairs. */
static void partial_attention(const step_ctx *ctx, const layer_weights *w, int layer) {
    const decoder *m = ctx->model;
    const step_args *args = ctx->args;
    const int dim = m->head_dim, group = m->num_heads / m->num_kv_heads, t = ctx->thread, n = ctx->num_threads;
    const int total = args->length + 1, start = w->window && total > w->window ? total - w->window : 0;
    const int first = start + split_range(total - start, t, n), last = start + split_range(total - start, t + 1, n);
    for (int h = 0; h < m->num_heads; h++) {
        float *query = ctx->q + h * dim;
        memcpy(query, ctx->qkv + h * dim, sizeof(float) * dim);
        if (w->q_norm) rms_norm(query, w->q_norm, m->rms_norm_eps, dim, query);
        rope_row(query, args->cosine, args->sine, 1, dim, query);
        for (int d = 0; d < dim; d++) query[d] *= m->attention_scale;
    }
    for (int h = 0; h < m->num_kv_heads; h++) {
        const size_t offset = (size_t)h * args->capacity * dim;
        if (t == n - 1) append_kv(ctx, w, layer, h); /* the last share holds the new pair */
        attend(ctx->q + h * group * dim, args->keys[layer] + offset, args->values[layer] + offset, first, last, group,
               dim, ctx->partials + ((size_t)t * m->num_heads + (size_t)h * group) * (2 + dim));
    }
}

/* The attention of all heads from the partial ones of all threads, into y [H G, D]. */
static void merge_attention(const step_ctx *ctx) {
    const int dim = ctx->model->head_dim, heads = ctx->model->num_heads, n = ctx->num_threads;
    for (int h = 0; h < heads; h++) {
        float max = -INFINITY, total = 0, *out = ctx->y + h * dim;
        for (int i = 0; i < n; i++) {
            const float *p = ctx->partials + ((size_t)i * heads + h) * (2 + dim);
            if (p[0] > max) max = p[0];
        }
        memset(out, 0, sizeof(float) * dim);
        for (int i = 0; i < n; i++) {
            const float *p = ctx->partials + ((size_t)i * heads + h) * (2 + dim), f = expf(p[0] - max);
            total += f * p[1];
            for (int d = 0; d < dim; d++) out[d] += f * p[2 + d];
        }
        for (int d = 0; d < dim; d++) out[d] /= total;
    }
}

/* This thread's share of act = silu(gate y) * (up y). */
static void swiglu(const step_ctx *ctx, const layer_weights *w) {
    const int k = ctx->model->hidden_size, rows = ctx->model->intermediate_size;
    const int last = split_range(rows, ctx->thread + 1, ctx->num_threads);
    for (int start = split_range(rows, ctx->thread, ctx->num_threads); start < last; start += ROWS) {
        const int end = last - start < ROWS ? last : start + ROWS;
        float gates[ROWS] = {0}, ups[ROWS] = {0}, y[ROWS];
        linear_rows(&w->gate, w->gate_bias, ctx->y, k, start, end, 0, gates - start);
        linear_rows(&w->up, w->up_bias, ctx->y, k, start, end, 0, ups - start);
        for (int r = 0; r < ROWS; r += LANES) {
            const vec g = loadf(gates + r);
            storef(y + r, loadf(ups + r) * g / (1.0f + vexp(-vmax(g, broadcast(-80.0f)))));
        }
        memcpy(ctx->act + start, y, sizeof(float) * (end - start));
    }
}

static void run_layer(const step_ctx *ctx, int layer) {
    const decoder *m = ctx->model;
    const layer_weights *w = m->layers + layer;
    const int hidden = m->hidden_size, width = m->num_heads * m->head_dim, kv = m->num_kv_heads * m->head_dim;
    rms_norm(ctx->x, w->attn_norm, m->rms_norm_eps, hidden, ctx->y);
    linear(ctx, &w->q, w->q_bias, ctx->y, hidden, width, 0, ctx->qkv);
    linear(ctx, &w->k, w->k_bias, ctx->y, hidden, kv, 0, ctx->qkv + width);
    linear(ctx, &w->v, w->v_bias, ctx->y, hidden, kv, 0, ctx->qkv + width + kv);
    wait_for_all(ctx);
    partial_attention(ctx, w, layer);
    wait_for_all(ctx);
    merge_attention(ctx);
    linear(ctx, &w->o, w->o_bias, ctx->y, width, hidden, 1, ctx->x);
    wait_for_all(ctx);
    rms_norm(ctx->x, w->mlp_norm, m->rms_norm_eps, hidden, ctx->y);
    swiglu(ctx, w);
    wait_for_all(ctx);
    linear(ctx, &w->down, w->down_bias, ctx->act, m->intermediate_size, hidden, 1, ctx->x);
    wait_for_all(ctx);
}

/* Append one token to the cache and compute the logits that follow it. */
void step(const decoder *m, const step_args *args) {
    const int hidden = m->hidden_size, dim = m->head_dim, width = m->num_heads * dim, kv = m->num_kv_heads * dim;
    const int widest = hidden > width ? hidden : width;
    float *x = args->scratch, *qkv = x + hidden, *act = qkv + width + 2 * kv, *partials = act + m->intermediate_size;
    float *thread_scratch = partials + (size_t)m->num_threads * m->num_heads * (2 + dim);
    barrier barrier = {0};
    unpack_row_f32(&m->embedding, args->token, hidden, x);

#pragma omp parallel num_threads(m->num_threads)
    {
        float *y = thread_scratch + (size_t)omp_get_thread_num() * (widest + width + kv);
        const step_ctx ctx = {.model = m, .args = args, .barrier = &barrier, .thread = omp_get_thread_num(),
                              .num_threads = omp_get_num_threads(), .x = x, .qkv = qkv, .act = act,
                              .partials = partials, .y = y, .q = y + widest, .k = y + widest + width};
        for (int layer = 0; layer < m->num_layers; layer++) run_layer(&ctx, layer);
        if (args->logits) {
            rms_norm(x, m->norm, m->rms_norm_eps, hidden, y);
            linear(&ctx, &m->lm_head, m->lm_head_bias, y, hidden, m->vocab_size, 0, args->logits);
        }
    }
}

/* Sum of a buffer of `count` floats, read by all threads: measures the memory bandwidth that a step can have. */
float read_all(const float *p, int64_t count, int32_t threads) {
    float total = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : total) schedule(static)
    for (int64_t b = 0; b < count / 4096; b++) {
        vec s[4] = {{0}};
        for (int i = 0; i < 4096; i += 4 * LANES)
            for (int j = 0; j < 4; j++) s[j] += loadf(p + b * 4096 + i + j * LANES);
        total += sum(s[0] + s[1] + s[2] + s[3]);
    }
    return total;
}
