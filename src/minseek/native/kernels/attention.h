/* Causal attention of the new tokens of one sequence over its cache, for one key/value head and its G query heads.
 *
 * Scores are computed as keys times queries and the output as values (turned) times weights, so queries are columns
 * throughout: 16 of them go through softmax together, and with G query heads over T new tokens there are G * T. */
#ifndef MINSEEK_ATTENTION_H
#define MINSEEK_ATTENTION_H
#include "decoder.h"
#include "product.h"

/* One sequence's part of a pass. Arrays of pointers have one for each layer. */
typedef struct {
    int32_t rows, first;      /* new tokens, and the column of the first */
    int32_t length, capacity; /* pairs in the cache before them; pairs that a head has room for */
    int32_t position;         /* where the first new token stands */
    int32_t recent;           /* new tokens from this one on are counted into `latest` too */
    int32_t asked, block;     /* queries are kept in a ring of `block` rows, from row `asked` on */
    weight *const *keys, *const *values; /* [H, capacity, D] */
    weight *const *raw;                  /* or NULL: keys without their positions, [H, capacity, D] */
    int32_t *const *positions;           /* or NULL, where pair i stands at position i: [H, capacity] */
    float *const *received, *const *latest; /* or NULL: attention that a pair received, summed over queries, mean over
                                               the group's heads, [H, capacity]; added to */
    float *const *queries; /* or NULL: queries without their positions, [H * G, block, D] */
} sequence;

/* What one thread needs for `longest` pairs and `queries` query columns; see carve(). */
typedef struct {
    float *scores[2];   /* [longest][16] */
    packed *weights[2]; /* [longest / PER_PACKED][16] */
    weight *turned;     /* values of one head, [D][longest] */
    float *sums[2];     /* attention received, over all queries and over the latest: [longest][16] */
    packed *queries;    /* two strips of [D / PER_PACKED][16] */
    float *column;      /* [D][16], twice */
    weight *tail;       /* [16][D]: the last keys, when they are fewer than 16 */
} desk;

static inline size_t up_to(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

static size_t desk_bytes(size_t longest, size_t dim) {
    longest = up_to(longest, 32);
    return 2 * longest * LANES * (2 * sizeof(float) + sizeof(packed) / PER_PACKED) + dim * longest * sizeof(weight) +
           2 * dim * LANES * (sizeof(packed) / PER_PACKED + sizeof(float)) + LANES * dim * sizeof(weight) + 16 * 64;
}

static desk carve(char *at, size_t longest, size_t dim) {
    desk d;
    longest = up_to(longest, 32);
#define TAKE(FIELD, COUNT) d.FIELD = (void *)at, at += up_to((COUNT) * sizeof(*d.FIELD), 64)
    TAKE(scores[0], longest * LANES);
    TAKE(scores[1], longest * LANES);
    TAKE(sums[0], longest * LANES);
    TAKE(sums[1], longest * LANES);
    TAKE(weights[0], longest / PER_PACKED * LANES);
    TAKE(weights[1], longest / PER_PACKED * LANES);
    TAKE(turned, dim * longest);
    TAKE(queries, 2 * dim / PER_PACKED * LANES);
    TAKE(column, 2 * dim * LANES);
    TAKE(tail, LANES * dim);
#undef TAKE
    return d;
}

/* Up to 16 columns of features from..from + count of activations [block][features][16], as [count][16]. */
static void gather(const float *act, int features, int from, int count, const int *columns, float *out) {
    if (columns[0] >= 0 && columns[0] % LANES == 0 && columns[LANES - 1] == columns[0] + LANES - 1) {
        memcpy(out, act + ((size_t)columns[0] / LANES * features + from) * LANES, sizeof(float) * count * LANES);
        return;
    }
    for (int l = 0; l < LANES; l++) {
        if (columns[l] < 0) {
            for (int i = 0; i < count; i++) out[i * LANES + l] = 0;
            continue;
        }
        const float *a = act + ((size_t)(columns[l] / LANES) * features + from) * LANES + columns[l] % LANES;
        for (int i = 0; i < count; i++) out[i * LANES + l] = a[(size_t)i * LANES];
    }
}

/* The reverse of gather, for lanes that have a column. */
static void scatter(const float *in, int features, int from, int count, const int *columns, float *act) {
    if (columns[0] >= 0 && columns[0] % LANES == 0 && columns[LANES - 1] == columns[0] + LANES - 1) {
        memcpy(act + ((size_t)columns[0] / LANES * features + from) * LANES, in, sizeof(float) * count * LANES);
        return;
    }
    for (int l = 0; l < LANES; l++) {
        if (columns[l] < 0) continue;
        float *a = act + ((size_t)(columns[l] / LANES) * features + from) * LANES + columns[l] % LANES;
        for (int i = 0; i < count; i++) a[(size_t)i * LANES] = in[i * LANES + l];
    }
}

/* Divide 16 columns [n][16] by their root mean square and multiply by w. */
static void norm_columns(float *x, const weight *w, float eps, int n) {
    vec s = splat(0);
    for (int i = 0; i < n; i++) s += loadf(x + i * LANES) * loadf(x + i * LANES);
    float r[LANES];
    storef(r, s / (float)n + eps);
    for (int l = 0; l < LANES; l++) r[l] = 1.0f / sqrtf(r[l]);
    vec by = loadf(r);
    for (int i = 0; i < n; i++) storef(x + i * LANES, loadf(x + i * LANES) * by * widen(w[i]));
}

/* Rotate 16 columns [D][16] by their own angles [D/2][16]. */
static void rotate_columns(float *x, const float *cosine, const float *sine, int dim) {
    int half = dim / 2;
    for (int i = 0; i < half; i++) {
        vec a = loadf(x + i * LANES), b = loadf(x + (i + half) * LANES);
        vec c = loadf(cosine + i * LANES), s = loadf(sine + i * LANES);
        storef(x + i * LANES, a * c - b * s);
        storef(x + (i + half) * LANES, b * c + a * s);
    }
}

/* Write the new keys and values of one head behind those in the cache. qkv: [block][width + 2 kv][16]. */
static void remember(const decoder *m, const layer_weights *w, int layer, int head, const sequence *s, const float *qkv,
                     const float *cosine, const float *sine, desk *d) {
    const int dim = m->head_dim, kv = m->kv_heads * dim, width = m->query_heads * dim, features = width + 2 * kv;
    const size_t base = ((size_t)head * s->capacity + s->length) * dim;
    float *x = d->column, *angles = d->column + dim * LANES;
    for (int t = 0; t < s->rows; t += LANES) {
        int columns[LANES], count = s->rows - t < LANES ? s->rows - t : LANES;
        for (int l = 0; l < LANES; l++) columns[l] = l < count ? s->first + t + l : -1;
        gather(qkv, features, width + head * dim, dim, columns, x);
        if (w->k_norm) norm_columns(x, w->k_norm, m->eps, dim);
        if (s->raw)
            for (int l = 0; l < count; l++)
                for (int i = 0; i < dim; i++) s->raw[layer][base + (size_t)(t + l) * dim + i] = narrow(x[i * LANES + l]);
        gather(cosine, dim / 2, 0, dim / 2, columns, angles);
        gather(sine, dim / 2, 0, dim / 2, columns, angles + dim / 2 * LANES);
        rotate_columns(x, angles, angles + dim / 2 * LANES, dim);
        for (int l = 0; l < count; l++)
            for (int i = 0; i < dim; i++) s->keys[layer][base + (size_t)(t + l) * dim + i] = narrow(x[i * LANES + l]);
        gather(qkv, features, width + kv + head * dim, dim, columns, x);
        for (int l = 0; l < count; l++)
            for (int i = 0; i < dim; i++) s->values[layer][base + (size_t)(t + l) * dim + i] = narrow(x[i * LANES + l]);
    }
    if (s->positions)
        for (int t = 0; t < s->rows; t++)
            s->positions[layer][(size_t)head * s->capacity + s->length + t] = s->position + t;
}

/* values [n][D] as [D][longest], zero from n on. */
static void turn(const weight *values, int n, int longest, int dim, weight *out) {
    for (int from = 0; from < n; from += 32) {
        int count = n - from < 32 ? n - from : 32;
        for (int i = 0; i < dim; i++) {
            weight *o = out + (size_t)i * longest + from;
            const weight *v = values + (size_t)from * dim + i;
            if (count == 32)
                for (int j = 0; j < 32; j++) o[j] = v[(size_t)j * dim];
            else
                for (int j = 0; j < count; j++) o[j] = v[(size_t)j * dim];
        }
    }
    for (int i = 0; i < dim; i++) memset(out + (size_t)i * longest + n, 0, sizeof(weight) * (longest - n));
}

/* 16 queries of one head: which columns they are, what they see. */
typedef struct {
    int column[LANES], head[LANES]; /* -1 where a lane has no query */
    int sees[LANES];                /* the last pair that it may attend to */
    int stands[LANES];              /* its position */
    int late[LANES];                /* -1 where its attention counts as the latest, else 0 */
    int furthest, any_late;
} strip;

/* Queries first..first + 15 of the G * T of a head, rotated, scaled and packed. */
static strip ask(const decoder *m, const layer_weights *w, int layer, int head, const sequence *s, int first,
                 const float *qkv, const float *cosine, const float *sine, desk *d, packed *q) {
    const int dim = m->head_dim, group = m->query_heads / m->kv_heads, width = m->query_heads * dim;
    const int features = width + 2 * m->kv_heads * dim, queries = group * s->rows;
    float *x = d->column, *angles = d->column + dim * LANES;
    strip r = {.furthest = 0, .any_late = 0};
    for (int l = 0; l < LANES; l++) {
        int c = first + l, g = c / s->rows, t = c % s->rows, is = c < queries;
        r.column[l] = is ? s->first + t : -1;
        r.head[l] = is ? head * group + g : -1;
        r.sees[l] = s->length + t; /* of a lane without a query too: no softmax is over nothing */
        r.stands[l] = s->position + t;
        r.late[l] = is && t >= s->recent ? -1 : 0;
        if (is && r.sees[l] > r.furthest) r.furthest = r.sees[l];
        r.any_late |= r.late[l];
    }
    if (r.head[0] == r.head[LANES - 1])
        gather(qkv, features, r.head[0] * dim, dim, r.column, x);
    else
        for (int l = 0; l < LANES; l++) {
            const int c = r.column[l];
            const float *a = c < 0 ? qkv : qkv + ((size_t)(c / LANES) * features + r.head[l] * dim) * LANES + c % LANES;
            for (int k = 0; k < dim; k++) x[k * LANES + l] = c < 0 ? 0 : a[(size_t)k * LANES];
        }
    if (w->q_norm) norm_columns(x, w->q_norm, m->eps, dim);
    if (s->queries)
        for (int l = 0; l < LANES; l++)
            if (r.column[l] >= 0) {
                size_t row = (s->asked + r.column[l] - s->first) % s->block;
                float *kept = s->queries[layer] + ((size_t)r.head[l] * s->block + row) * dim;
                for (int k = 0; k < dim; k++) kept[k] = x[k * LANES + l];
            }
    gather(cosine, dim / 2, 0, dim / 2, r.column, angles);
    gather(sine, dim / 2, 0, dim / 2, r.column, angles + dim / 2 * LANES);
    rotate_columns(x, angles, angles + dim / 2 * LANES, dim);
    for (int k = 0; k < dim; k += 2)
        pack(q + packed_at(k), loadf(x + k * LANES) * m->scale, loadf(x + (k + 1) * LANES) * m->scale);
    return r;
}

/* Scores [seen][16] of one or two strips of queries. The last keys, from `whole` on, lie in d->tail. Values, if given,
 * are fetched meanwhile. */
static void score(const weight *keys, const weight *values, int seen, int whole, int dim, int strips, desk *d,
                  int tiles) {
    packed *q[2] = {d->queries, d->queries + packed_at(dim)};
    for (int j = 0; j < seen; j += 2 * LANES) {
        const weight *a[2];
        for (int i = 0; i < 2; i++) {
            int from = j + i * LANES;
            a[i] = from >= seen ? NULL : from == whole ? d->tail : keys + (size_t)from * dim;
        }
        float *c[4] = {d->scores[0] + (size_t)j * LANES, d->scores[1] + (size_t)j * LANES,
                       d->scores[0] + (size_t)(j + LANES) * LANES, d->scores[1] + (size_t)(j + LANES) * LANES};
        product(tiles, a[0], LANES, a[1], LANES, dim, q[0], strips > 1 ? q[1] : NULL, dim, 0, c,
                (const char *)(values + (size_t)j * dim), values ? 16 * (int)sizeof(weight) : 0);
    }
}

/* Exponentials of one strip of scores [n][16], each query's over the pairs that it sees, none further back than the
 * window: in place if `keep`, and packed up to `padded`. Returns what they are to be multiplied by. */
static vec soften(float *scores, int n, int padded, int length, const strip *r, const int *at, int window, int keep,
                  packed *weights) {
    ivec limit, mine;
    memcpy(&limit, r->sees, sizeof limit);
    memcpy(&mine, r->stands, sizeof mine);
    const vec never = splat(-INFINITY);
    vec top = never, total = splat(0);
    const int plain = window ? 0 : length < n ? length : n;
    for (int j = 0; j < plain; j++) top = vmax(top, loadf(scores + (size_t)j * LANES));
    for (int j = plain; j < n; j++) {
        ivec visible = j <= limit;
        if (window) visible &= mine - (at ? at[j] : j) < window;
        vec x = (vec)(((ivec)loadf(scores + (size_t)j * LANES) & visible) | ((ivec)never & ~visible));
        storef(scores + (size_t)j * LANES, x);
        top = vmax(top, x);
    }
    for (int j = n; j < padded; j++) storef(scores + (size_t)j * LANES, never);
    for (int j = 0; j < padded; j += 2) {
        vec even = vexp_weight(loadf(scores + (size_t)j * LANES) - top);
        vec odd = vexp_weight(loadf(scores + (size_t)(j + 1) * LANES) - top);
        total += even + odd;
        pack(weights + packed_at(j), even, odd);
        if (keep) {
            storef(scores + (size_t)j * LANES, even);
            storef(scores + (size_t)(j + 1) * LANES, odd);
        }
    }
    float lives[LANES];
    for (int l = 0; l < LANES; l++) lives[l] = r->column[l] < 0 ? 0 : 1;
    return loadf(lives) / total;
}

/* Add the weights of the strips to the sums over all queries, and over the latest. */
static void tally(desk *d, int n, int strips, const strip *r, const vec *by) {
    ivec late[2];
    for (int i = 0; i < strips; i++) memcpy(&late[i], r[i].late, sizeof late[i]);
    if (strips > 1)
        for (int j = 0; j < n; j++) {
            const size_t at = (size_t)j * LANES;
            storef(d->sums[0] + at,
                   loadf(d->sums[0] + at) + loadf(d->scores[0] + at) * by[0] + loadf(d->scores[1] + at) * by[1]);
        }
    else
        for (int j = 0; j < n; j++) {
            const size_t at = (size_t)j * LANES;
            storef(d->sums[0] + at, loadf(d->sums[0] + at) + loadf(d->scores[0] + at) * by[0]);
        }
    for (int i = 0; i < strips; i++) {
        if (!r[i].any_late) continue;
        const vec part = (vec)((ivec)by[i] & late[i]);
        for (int j = 0; j < n; j++) {
            const size_t at = (size_t)j * LANES;
            storef(d->sums[1] + at, loadf(d->sums[1] + at) + loadf(d->scores[i] + at) * part);
        }
    }
}

/* Leave the output of a strip, x [D][16], with its columns. */
static void answer(const float *x, const strip *r, int width, int dim, float *out) {
    if (r->head[0] == r->head[LANES - 1]) {
        scatter(x, width, r->head[0] * dim, dim, r->column, out);
        return;
    }
    for (int l = 0; l < LANES; l++) {
        const int c = r->column[l];
        if (c < 0) continue;
        float *o = out + ((size_t)(c / LANES) * width + r->head[l] * dim) * LANES + c % LANES;
        for (int k = 0; k < dim; k++) o[(size_t)k * LANES] = x[k * LANES + l];
    }
}

/* One new token: its G queries against all pairs. Weights lie in rows here, and values need not be turned. */
static void attend_one(const decoder *m, const layer_weights *w, int layer, int head, const sequence *s,
                       const float *qkv, const float *cosine, const float *sine, desk *d, int tiles, float *out) {
    const int dim = m->head_dim, group = m->query_heads / m->kv_heads, width = m->query_heads * dim;
    const int n = s->length + 1, padded = (int)up_to(n, LANES), whole = n / LANES * LANES;
    const size_t base = (size_t)head * s->capacity;
    const weight *keys = s->keys[layer] + base * dim, *values = s->values[layer] + base * dim;
    const int *at = s->positions ? s->positions[layer] + base : NULL;
    strip r = ask(m, w, layer, head, s, 0, qkv, cosine, sine, d, d->queries);
    score(keys, values, n, whole, dim, 1, d, tiles);
    float *rows = d->scores[1]; /* [G][padded] */
    for (int g = 0; g < group; g++) {
        float *row = rows + (size_t)g * padded;
        vec top = splat(-INFINITY), total = splat(0);
        for (int j = 0; j < n; j++) row[j] = d->scores[0][(size_t)j * LANES + g];
        if (w->window)
            for (int j = 0; j < n; j++)
                if (s->position - (at ? at[j] : j) >= w->window) row[j] = -INFINITY;
        for (int j = n; j < padded; j++) row[j] = -INFINITY;
        for (int j = 0; j < padded; j += LANES) top = vmax(top, loadf(row + j));
        top = splat(highest(top));
        for (int j = 0; j < padded; j += LANES) {
            vec e = vexp_weight(loadf(row + j) - top);
            storef(row + j, e);
            total += e;
        }
        const float by = 1.0f / sum(total);
        for (int j = 0; j < padded; j += LANES) storef(row + j, loadf(row + j) * by);
    }
    if (s->received)
        for (int j = 0; j < n; j++) {
            float given = 0;
            for (int g = 0; g < group; g++) given += rows[(size_t)g * padded + j];
            s->received[layer][base + j] += given / group;
            if (!s->recent) s->latest[layer][base + j] += given / group;
        }
    float *x = d->column;
    const weight *next = keys + (size_t)s->capacity * dim;
    for (int first = 0; first < group; first += 4) {
        const int heads = group - first < 4 ? group - first : 4;
        int k = 0;
        for (; k + 2 * LANES <= dim; k += 2 * LANES) {
            vec a[4] = {{0}}, b[4] = {{0}};
            for (int j = 0; j < n; j++) {
                const weight *v = values + (size_t)j * dim + k;
                __builtin_prefetch(next + (size_t)j * dim + k); /* where the next head's keys are */
                const vec low = load(v), high = load(v + LANES);
                for (int g = 0; g < heads; g++) {
                    const float p = rows[(size_t)(first + g) * padded + j];
                    a[g] += low * p;
                    b[g] += high * p;
                }
            }
            for (int g = 0; g < heads; g++)
                for (int l = 0; l < LANES; l++) {
                    x[(k + l) * LANES + first + g] = a[g][l];
                    x[(k + LANES + l) * LANES + first + g] = b[g][l];
                }
        }
        for (; k < dim; k++)
            for (int g = 0; g < heads; g++) {
                float a = 0;
                for (int j = 0; j < n; j++) a += widen(values[(size_t)j * dim + k]) * rows[(size_t)(first + g) * padded + j];
                x[k * LANES + first + g] = a;
            }
    }
    answer(x, &r, width, dim, out);
}

/* All of one head: write its keys and values, attend, leave the output in out [block][width][16]. */
static void attend_head(const decoder *m, const layer_weights *w, int layer, int head, const sequence *s,
                        const float *qkv, const float *cosine, const float *sine, desk *d, int tiles, float *out) {
    const int dim = m->head_dim, group = m->query_heads / m->kv_heads, width = m->query_heads * dim;
    const int n = s->length + s->rows, padded = (int)up_to(n, 32), whole = n / LANES * LANES;
    const weight *keys = s->keys[layer] + (size_t)head * s->capacity * dim;
    const int *at = s->positions ? s->positions[layer] + (size_t)head * s->capacity : NULL;
    const int queries = group * s->rows, counted = s->received != NULL;
    remember(m, w, layer, head, s, qkv, cosine, sine, d);
    memset(d->tail, 0, sizeof(weight) * LANES * dim);
    memcpy(d->tail, keys + (size_t)whole * dim, sizeof(weight) * (n - whole) * dim);
    if (s->rows == 1 && group <= LANES) {
        attend_one(m, w, layer, head, s, qkv, cosine, sine, d, tiles, out);
        return;
    }
    turn(s->values[layer] + (size_t)head * s->capacity * dim, n, padded, dim, d->turned);
    if (counted)
        for (int i = 0; i < 2; i++) memset(d->sums[i], 0, sizeof(float) * padded * LANES);

    for (int first = 0; first < queries; first += 2 * LANES) {
        const int strips = queries - first > LANES ? 2 : 1;
        strip r[2];
        vec by[2];
        int seen = 0;
        for (int i = 0; i < strips; i++) {
            r[i] = ask(m, w, layer, head, s, first + i * LANES, qkv, cosine, sine, d, d->queries + i * packed_at(dim));
            if (r[i].furthest >= seen) seen = r[i].furthest + 1;
        }
        const int reach = (int)up_to(seen, 32);
        score(keys, NULL, seen, whole, dim, strips, d, tiles);
        for (int i = 0; i < strips; i++)
            by[i] = soften(d->scores[i], seen, reach, s->length, &r[i], at, w->window, counted, d->weights[i]);
        if (counted) tally(d, seen, strips, r, by);
        for (int k = 0; k < dim; k += 2 * LANES) {
            const int left = dim - k - LANES;
            float *c[4] = {d->column + (size_t)k * LANES, d->scores[0] + (size_t)k * LANES,
                           d->column + (size_t)(k + LANES) * LANES, d->scores[0] + (size_t)(k + LANES) * LANES};
            product(tiles, d->turned + (size_t)k * padded, dim - k < LANES ? dim - k : LANES,
                    left > 0 ? d->turned + (size_t)(k + LANES) * padded : NULL, left < LANES ? left : LANES, padded,
                    d->weights[0], strips > 1 ? d->weights[1] : NULL, reach, 0, c, NULL, 0);
        }
        for (int i = 0; i < strips; i++) {
            float *x = i ? d->scores[0] : d->column;
            for (int k = 0; k < dim; k++) storef(x + k * LANES, loadf(x + k * LANES) * by[i]);
            answer(x, &r[i], width, dim, out);
        }
    }
    if (counted)
        for (int j = 0; j < n; j++) {
            size_t pair = (size_t)head * s->capacity + j;
            s->received[layer][pair] += sum(loadf(d->sums[0] + (size_t)j * LANES)) / group;
            s->latest[layer][pair] += sum(loadf(d->sums[1] + (size_t)j * LANES)) / group;
        }
}
#endif
