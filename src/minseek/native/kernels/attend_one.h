/* Attention of one new token of a sequence over its cache, for one key/value head and its G query heads: what writing
 * many sequences consists of. Weights lie in rows here, and values need not be turned. */
#ifndef MINSEEK_ATTEND_ONE_H
#define MINSEEK_ATTEND_ONE_H
#include "attention.h"

/* One column's features from..from + count of activations [block][features][16]. */
static inline const float *column_of(const float *act, int features, int from, int column) {
    return act + ((size_t)(column / LANES) * features + from) * LANES + column % LANES;
}

/* A query or key [D] with a stride of 16: normalised, kept as it is without its position, rotated, multiplied. */
static void prepare(const float *act, const weight *norm, float eps, const float *cosine, const float *sine, int dim,
                    float scale, float *plain, float *out) {
    float by = 1;
    if (norm) {
        float s = 0;
        for (int i = 0; i < dim; i++) s += act[(size_t)i * LANES] * act[(size_t)i * LANES];
        by = 1.0f / sqrtf(s / (float)dim + eps);
    }
    for (int i = 0; i < dim; i++) plain[i] = act[(size_t)i * LANES] * by * (norm ? widen(norm[i]) : 1.0f);
    for (int i = 0, half = dim / 2; i < half; i++) {
        const float c = cosine[(size_t)i * LANES], s = sine[(size_t)i * LANES], a = plain[i], b = plain[i + half];
        out[i] = (a * c - b * s) * scale;
        out[i + half] = (b * c + a * s) * scale;
    }
}

/* Values [n][D] from feature k on, 32 times `wide` of them, times the weights [heads][padded]: x [heads][D]. `heads` and
 * `wide` are known when this is compiled, so that the sums stay in registers. */
static inline __attribute__((always_inline)) void weigh(const weight *values, int n, int dim, int k, const float *rows,
                                                        int padded, const int heads, const int wide,
                                                        const weight *next, float *x) {
    vec sums[4][2][2] = {{{{0}}}};
    for (int j = 0; j < n; j++) {
        vec v[2][2];
        for (int i = 0; i < wide; i++) {
            __builtin_prefetch(next + (size_t)j * dim + k + 32 * i, 0, 2); /* as many bytes as are read here */
            load_wide(values + (size_t)j * dim + k + 32 * i, &v[i][0], &v[i][1]);
        }
        for (int g = 0; g < heads; g++) {
            const float p = rows[(size_t)g * padded + j];
            for (int i = 0; i < wide; i++) {
                sums[g][i][0] += v[i][0] * p;
                sums[g][i][1] += v[i][1] * p;
            }
        }
    }
    for (int g = 0; g < heads; g++)
        for (int i = 0; i < wide; i++)
            for (int half = 0; half < 2; half++)
                for (int l = 0; l < LANES; l++)
                    x[(size_t)g * dim + k + 32 * i + place_of(half, l)] = sums[g][i][half][l];
}

static void weigh_some(const weight *values, int n, int dim, const float *rows, int padded, int heads,
                       const weight *next, float *x) {
    int k = 0;
#define CASE(HEADS, WIDE)                                                                                               \
    case HEADS: weigh(values, n, dim, k, rows, padded, HEADS, WIDE, next, x); break;
    for (; k + 64 <= dim; k += 64)
        switch (heads) { CASE(1, 2) CASE(2, 2) CASE(3, 2) CASE(4, 2) }
    for (; k + 32 <= dim; k += 32)
        switch (heads) { CASE(1, 1) CASE(2, 1) CASE(3, 1) CASE(4, 1) }
#undef CASE
    for (; k < dim; k++)
        for (int g = 0; g < heads; g++) {
            float a = 0;
            for (int j = 0; j < n; j++) a += widen(values[(size_t)j * dim + k]) * rows[(size_t)g * padded + j];
            x[(size_t)g * dim + k] = a;
        }
}

/* Softmax of the G rows [padded] of scores: exp, and what each row is to be multiplied by has been. */
static void soften_rows(float *rows, int group, int n, int padded, const int *at, int position, int window) {
    for (int g = 0; g < group; g++) {
        float *row = rows + (size_t)g * padded;
        vec top = splat(-INFINITY), total = splat(0);
        if (window)
            for (int j = 0; j < n; j++)
                if (position - (at ? at[j] : j) >= window) row[j] = NEVER;
        for (int j = n; j < padded; j++) row[j] = NEVER;
        for (int j = 0; j < padded; j += LANES) top = vmax(top, loadf(row + j));
        top = splat(highest(top));
        for (int j = 0; j < padded; j += LANES) {
            vec e = vexp_weight(loadf(row + j), top);
            storef(row + j, e);
            total += e;
        }
        const float by = 1.0f / sum(total);
        for (int j = 0; j < padded; j += LANES) storef(row + j, loadf(row + j) * by);
    }
}

/* Count the attention that the n pairs received, mean over the group. */
static void credit(const float *rows, int group, int n, int padded, float *received, float *latest) {
    const float share = 1.0f / (float)group;
    for (int j = 0; j < n; j += LANES) {
        vec given = splat(0);
        for (int g = 0; g < group; g++) given += loadf(rows + (size_t)g * padded + j);
        given *= share;
        if (j + LANES <= n) {
            storef(received + j, loadf(received + j) + given);
            if (latest) storef(latest + j, loadf(latest + j) + given);
        } else
            for (int l = 0; j + l < n; l++) {
                received[j + l] += given[l];
                if (latest) latest[j + l] += given[l];
            }
    }
}

/* All of one head; `next` is fetched meanwhile: what this thread will read after it. */
static void attend_one(const decoder *m, const layer_weights *w, int layer, int head, const sequence *s,
                       const float *qkv, const float *cosine, const float *sine, desk *d, int tiles, const weight *next,
                       float *out) {
    const int dim = m->head_dim, group = m->query_heads / m->kv_heads, width = m->query_heads * dim;
    const int kv = m->kv_heads * dim, features = width + 2 * kv, c = s->first;
    const int n = s->length[layer] + 1, padded = (int)up_to(n, LANES), whole = n / LANES * LANES;
    const size_t base = (size_t)head * s->capacity[layer], mine = (base + s->length[layer]) * dim;
    const float *cos = column_of(cosine, dim / 2, 0, c), *sin = column_of(sine, dim / 2, 0, c);
    weight *keys = s->keys[layer] + base * dim, *values = s->values[layer] + base * dim;
    const int *at = s->positions ? s->positions[layer] + base : NULL;
    float *plain = d->scores[1], *turned = plain + dim, *rows = d->scores[1], *x = d->column;

    prepare(column_of(qkv, features, width + head * dim, c), w->k_norm, m->eps, cos, sin, dim, 1, plain, turned);
    const float *v = column_of(qkv, features, width + kv + head * dim, c);
    for (int i = 0; i < dim; i++) {
        if (s->raw) s->raw[layer][mine + i] = narrow(plain[i]);
        s->keys[layer][mine + i] = narrow(turned[i]);
        s->values[layer][mine + i] = narrow(v[(size_t)i * LANES]);
    }
    if (s->positions) s->positions[layer][base + s->length[layer]] = s->position;
    memset(d->tail, 0, sizeof(weight) * LANES * dim);
    memcpy(d->tail, keys + (size_t)whole * dim, sizeof(weight) * (n - whole) * dim);

    memset(x, 0, sizeof(float) * LANES * dim);
    for (int g = 0; g < group; g++) {
        prepare(column_of(qkv, features, (head * group + g) * dim, c), w->q_norm, m->eps, cos, sin, dim, m->scale,
                plain, turned);
        if (s->queries)
            memcpy(s->queries[layer] + ((size_t)(head * group + g) * s->block + s->asked) * dim, plain,
                   sizeof(float) * dim);
        for (int i = 0; i < dim; i++) x[i * LANES + g] = turned[i];
    }
    for (int i = 0; i < dim; i += 2) pack(d->queries + packed_at(i), loadf(x + i * LANES), loadf(x + (i + 1) * LANES));

    score(keys, values, n, whole, dim, 1, d, tiles, 0, NULL);
    for (int j = 0; j < n; j++)
        for (int g = 0; g < group; g++) rows[(size_t)g * padded + j] = d->scores[0][(size_t)j * LANES + g];
    soften_rows(rows, group, n, padded, at, s->position, w->window);
    if (s->received)
        credit(rows, group, n, padded, s->received[layer] + base, s->recent ? NULL : s->latest[layer] + base);
    for (int g = 0; g < group; g += 4)
        weigh_some(values, n, dim, rows + (size_t)g * padded, padded, group - g < 4 ? group - g : 4,
                   next, x + (size_t)g * dim);
    for (int g = 0; g < group; g++) {
        float *o = (float *)column_of(out, width, (head * group + g) * dim, c);
        for (int i = 0; i < dim; i++) o[(size_t)i * LANES] = x[(size_t)g * dim + i];
    }
}
#endif
