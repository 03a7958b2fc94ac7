/* One decoding step of a Llama-family decoder for one sequence, on the CPU.
 *
 * A step reads every weight once, so its floor is weight bytes / memory bandwidth. All phases of a layer run in one
 * parallel region with barriers between; activations stay in float32, weights and cache in the model's dtype.
 * Compile with -DWEIGHT_BF16 or without it (float32). No headers beyond the C library: native/library.py loads it
 * through ctypes. Shapes: H key/value heads, G query heads per key/value head, D head dimension, T cached tokens.
 */
#include "decoder.h"
#include "team.h"

/* out[i] = x[i] / rms(x) * w[i] */
static void rms_norm(const float *x, const weight *w, float eps, int n, float *out) {
    vec s = {0};
    float tail = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES) s += loadf(x + i) * loadf(x + i);
    for (; i < n; i++) tail += x[i] * x[i];
    float r = 1.0f / sqrtf((sum(s) + tail) / n + eps);
    for (i = 0; i + LANES <= n; i += LANES) storef(out + i, loadf(x + i) * r * load(w + i));
    for (; i < n; i++) out[i] = x[i] * r * widen(w[i]);
}

#define DOT(NAME, TYPE, LOAD, WIDEN)                                                                       \
    static inline float NAME(const TYPE *restrict w, const float *restrict x, int n) {                     \
        vec a = {0}, b = {0}, c = {0}, d = {0};                                                            \
        int i = 0;                                                                                         \
        for (; i + 4 * LANES <= n; i += 4 * LANES) {                                                       \
            __builtin_prefetch((const char *)(w + i) + 2048);                                              \
            __builtin_prefetch((const char *)(w + i) + 2112);                                              \
            a += LOAD(w + i) * loadf(x + i);                                                               \
            b += LOAD(w + i + LANES) * loadf(x + i + LANES);                                               \
            c += LOAD(w + i + 2 * LANES) * loadf(x + i + 2 * LANES);                                       \
            d += LOAD(w + i + 3 * LANES) * loadf(x + i + 3 * LANES);                                       \
        }                                                                                                  \
        for (; i + LANES <= n; i += LANES) a += LOAD(w + i) * loadf(x + i);                                \
        float tail = 0;                                                                                    \
        for (; i < n; i++) tail += WIDEN(w[i]) * x[i];                                                     \
        return sum((a + b) + (c + d)) + tail;                                                              \
    }
DOT(dot, weight, load, widen)
DOT(dotf, float, loadf, )

/* rows first..last of a matrix [rows, n] times x; `add` accumulates into out (the residual stream). */
static void rows(const weight *w, const weight *bias, const float *x, int n, int first, int last, int add, float *out) {
    for (int r = first; r < last; r++) {
        float y = dot(w + (size_t)r * n, x, n) + (bias ? widen(bias[r]) : 0.0f);
        out[r] = add ? out[r] + y : y;
    }
}

static void rotate(float *x, const float *cosine, const float *sine, int dim) {
    int half = dim / 2;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

/* A run of keys or values as float32, once for all query heads that share it. */
static const float *widened(const weight *from, int count, float *buffer) {
#ifdef WEIGHT_BF16
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        __builtin_prefetch((const char *)(from + i) + 2048);
        storef(buffer + i, load(from + i));
    }
    for (; i < count; i++) buffer[i] = widen(from[i]);
    return buffer;
#else
    (void)count, (void)buffer;
    return from;
#endif
}

#define TILE 32
/* Attention of G query heads q [G, D] over keys and values [first..last) of one key/value head, by streaming softmax:
 * per query head the maximum, the sum of weights and the weighted sum of values land in part [G, 2 + D]. */
static void attend(const float *q, const weight *keys, const weight *values, int first, int last, int group, int dim,
                   float *part) {
    float score[group][TILE], shrink[group], buffer[TILE * dim];
    for (int g = 0; g < group; g++) {
        float *p = part + (size_t)g * (2 + dim);
        p[0] = -INFINITY;
        memset(p + 1, 0, sizeof(float) * (1 + dim));
    }
    for (int from = first; from < last; from += TILE) {
        int n = last - from < TILE ? last - from : TILE;
        const float *k = widened(keys + (size_t)from * dim, n * dim, buffer);
        for (int g = 0; g < group; g++) {
            float *p = part + (size_t)g * (2 + dim), top = p[0];
            for (int t = 0; t < n; t++) {
                score[g][t] = dotf(k + t * dim, q + (size_t)g * dim, dim);
                if (score[g][t] > top) top = score[g][t];
            }
            for (int t = n; t < TILE; t++) score[g][t] = -INFINITY;
            vec total = {0};
            for (int t = 0; t < TILE; t += LANES) {
                vec e = vexp(loadf(score[g] + t) - top);
                storef(score[g] + t, e);
                total += e;
            }
            shrink[g] = expf(p[0] - top);
            p[0] = top;
            p[1] = p[1] * shrink[g] + sum(total);
        }
        const float *v = widened(values + (size_t)from * dim, n * dim, buffer);
        for (int g = 0; g < group; g++) {
            float *acc = part + (size_t)g * (2 + dim) + 2;
            int d = 0;
            for (; d + 4 * LANES <= dim; d += 4 * LANES) {
                vec a = loadf(acc + d) * shrink[g], b = loadf(acc + d + LANES) * shrink[g];
                vec c = loadf(acc + d + 2 * LANES) * shrink[g], e = loadf(acc + d + 3 * LANES) * shrink[g];
                for (int t = 0; t < n; t++) {
                    const float *row = v + t * dim + d;
                    const float s = score[g][t];
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
                float a = acc[d] * shrink[g];
                for (int t = 0; t < n; t++) a += v[t * dim + d] * score[g][t];
                acc[d] = a;
            }
        }
    }
}

/* Floats of scratch that step() needs. */
int64_t scratch_floats(const decoder *m) {
    int64_t heads = m->query_heads, width = heads * m->head_dim, kv = (int64_t)m->kv_heads * m->head_dim;
    int64_t shared = m->hidden + width + 2 * kv + m->inner + m->threads * heads * (2 + m->head_dim);
    int64_t longest = m->hidden > width ? m->hidden : width;
    return shared + m->threads * (longest + width + kv) + 64;
}

/* Feed one token. keys[l], values[l]: [H, capacity, D] with `length` tokens before this one; raw[l], or raw = NULL:
 * keys without RoPE, written beside. cosine, sine: [D/2] of this token's position. logits: [vocab], or NULL. */
void step(const decoder *m, int32_t token, int32_t length, int32_t capacity, weight *const *keys, weight *const *values,
          weight *const *raw, const float *cosine, const float *sine, float *scratch, float *logits) {
    const int hidden = m->hidden, dim = m->head_dim, heads = m->query_heads, kv_heads = m->kv_heads;
    const int width = heads * dim, kv = kv_heads * dim, group = heads / kv_heads, inner = m->inner;
    const int longest = hidden > width ? hidden : width;
    float *x = scratch, *qkv = x + hidden, *act = qkv + width + 2 * kv, *parts = act + inner;
    float *own = parts + (size_t)m->threads * heads * (2 + dim);
    meeting together = {0};
    for (int i = 0; i < hidden; i++) x[i] = widen(m->embedding[(size_t)token * hidden + i]);

#pragma omp parallel num_threads(m->threads)
    {
        const int n = omp_get_num_threads(), t = omp_get_thread_num();
        float *y = own + (size_t)t * (longest + width + kv), *q = y + longest, *k = q + width;
        float *part = parts + (size_t)t * heads * (2 + dim);
        for (int l = 0; l < m->layers; l++) {
            const layer_weights *w = m->layer + l;
            rms_norm(x, w->norm1, m->eps, hidden, y);
            rows(w->q, w->q_bias, y, hidden, share(width, t, n), share(width, t + 1, n), 0, qkv);
            rows(w->k, w->k_bias, y, hidden, share(kv, t, n), share(kv, t + 1, n), 0, qkv + width);
            rows(w->v, w->v_bias, y, hidden, share(kv, t, n), share(kv, t + 1, n), 0, qkv + width + kv);
            meet(&together, n);
            for (int h = 0; h < heads; h++) {
                float *one = q + h * dim;
                memcpy(one, qkv + h * dim, sizeof(float) * dim);
                if (w->q_norm) rms_norm(one, w->q_norm, m->eps, dim, one);
                rotate(one, cosine, sine, dim);
                for (int d = 0; d < dim; d++) one[d] *= m->scale;
            }
            int start = w->window && length + 1 > w->window ? length + 1 - w->window : 0;
            int first = start + share(length + 1 - start, t, n), last = start + share(length + 1 - start, t + 1, n);
            int writes = t == n - 1; /* its slice holds the new token */
            for (int h = 0; h < kv_heads; h++) {
                size_t at = (size_t)h * capacity * dim, slot = at + (size_t)length * dim;
                if (writes) {
                    float *one = k + h * dim;
                    memcpy(one, qkv + width + h * dim, sizeof(float) * dim);
                    if (w->k_norm) rms_norm(one, w->k_norm, m->eps, dim, one);
                    if (raw)
                        for (int d = 0; d < dim; d++) raw[l][slot + d] = narrow(one[d]);
                    rotate(one, cosine, sine, dim);
                    for (int d = 0; d < dim; d++) keys[l][slot + d] = narrow(one[d]);
                    for (int d = 0; d < dim; d++) values[l][slot + d] = narrow(qkv[width + kv + h * dim + d]);
                }
                attend(q + h * group * dim, keys[l] + at, values[l] + at, first, last, group, dim,
                       part + (size_t)h * group * (2 + dim));
            }
            meet(&together, n);
            for (int h = 0; h < heads; h++) {
                float top = -INFINITY, total = 0;
                for (int i = 0; i < n; i++) {
                    float *p = parts + ((size_t)i * heads + h) * (2 + dim);
                    if (p[0] > top) top = p[0];
                }
                float *one = y + h * dim;
                memset(one, 0, sizeof(float) * dim);
                for (int i = 0; i < n; i++) {
                    float *p = parts + ((size_t)i * heads + h) * (2 + dim), f = expf(p[0] - top);
                    total += f * p[1];
                    for (int d = 0; d < dim; d++) one[d] += f * p[2 + d];
                }
                for (int d = 0; d < dim; d++) one[d] /= total;
            }
            rows(w->o, w->o_bias, y, width, share(hidden, t, n), share(hidden, t + 1, n), 1, x);
            meet(&together, n);
            rms_norm(x, w->norm2, m->eps, hidden, y);
            int from = share(inner, t, n), to = share(inner, t + 1, n);
            for (int r = from; r < to; r++) {
                float g = dot(w->gate + (size_t)r * hidden, y, hidden) + (w->gate_bias ? widen(w->gate_bias[r]) : 0.0f);
                float u = dot(w->up + (size_t)r * hidden, y, hidden) + (w->up_bias ? widen(w->up_bias[r]) : 0.0f);
                act[r] = u * g / (1.0f + expf(-g));
            }
            meet(&together, n);
            rows(w->down, w->down_bias, act, inner, share(hidden, t, n), share(hidden, t + 1, n), 1, x);
            meet(&together, n);
        }
        if (logits) {
            rms_norm(x, m->norm, m->eps, hidden, y);
            rows(m->head, m->head_bias, y, hidden, share(m->vocab, t, n), share(m->vocab, t + 1, n), 0, logits);
        }
    }
}

/* Memory bandwidth as a step would see it: the sum of a buffer of `count` floats, read by all threads. */
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
