/* Causal attention of the new tokens of one sequence over its cache, for one key/value head and its G query heads.
 *
 * Scores are computed as keys times queries and the output as values (turned) times weights, so queries are columns
 * throughout: 16 of them go through softmax together, and with G query heads over T new tokens there are G * T. */
#ifndef MINSEEK_ATTENTION_H
#define MINSEEK_ATTENTION_H
#include "columns.h"
#include "decoder.h"
#include "product.h"

/* One sequence's part of a pass. Arrays of pointers have one for each layer. */
typedef struct {
    int32_t rows, first;  /* new tokens, and the column of the first */
    int32_t position;     /* where the first new token stands */
    int32_t recent;       /* new tokens from this one on are counted into `latest` too */
    int32_t asked, block; /* queries are kept in a ring of `block` rows, from row `asked` on */
    const int32_t *length, *capacity;    /* pairs in each layer before them; pairs that its heads have room for */
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

/* Write the new keys and values of one head behind those in the cache. qkv: [block][width + 2 kv][16]. */
static void remember(const decoder *m, const layer_weights *w, int layer, int head, const sequence *s, const float *qkv,
                     const float *cosine, const float *sine, desk *d) {
    const int dim = m->head_dim, kv = m->kv_heads * dim, width = m->query_heads * dim, features = width + 2 * kv;
    const size_t base = ((size_t)head * s->capacity[layer] + s->length[layer]) * dim;
    float *own = d->column, *angles = d->column + dim * LANES;
    for (int t = 0; t < s->rows; t += LANES) {
        int columns[LANES], count = s->rows - t < LANES ? s->rows - t : LANES;
        for (int l = 0; l < LANES; l++) columns[l] = l < count ? s->first + t + l : -1;
        const float *x = gather(qkv, features, width + head * dim, dim, columns, own);
        if (w->k_norm) norm_columns(x, w->k_norm, m->eps, dim, own), x = own;
        if (s->raw)
            leave_rows(x, dim, count, s->raw[layer] + base + (size_t)t * dim);
        const float *c = gather(cosine, dim / 2, 0, dim / 2, columns, angles);
        rotate_columns(x, c, gather(sine, dim / 2, 0, dim / 2, columns, angles + dim / 2 * LANES), dim, own);
        leave_rows(own, dim, count, s->keys[layer] + base + (size_t)t * dim);
        x = gather(qkv, features, width + kv + head * dim, dim, columns, own);
        leave_rows(x, dim, count, s->values[layer] + base + (size_t)t * dim);
    }
    if (s->positions)
        for (int t = 0; t < s->rows; t++)
            s->positions[layer][(size_t)head * s->capacity[layer] + s->length[layer] + t] = s->position + t;
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
    float *own = d->column, *angles = d->column + dim * LANES;
    const float *x = own;
    strip r = {.furthest = 0, .any_late = 0};
    for (int l = 0, g = first / s->rows, t = first % s->rows; l < LANES; l++, t++) {
        if (t == s->rows) t = 0, g++;
        const int is = first + l < queries;
        r.column[l] = is ? s->first + t : -1;
        r.head[l] = is ? head * group + g : -1;
        r.sees[l] = s->length[layer] + t; /* of a lane without a query too: no softmax is over nothing */
        r.stands[l] = s->position + t;
        r.late[l] = is && t >= s->recent ? -1 : 0;
        if (is && r.sees[l] > r.furthest) r.furthest = r.sees[l];
        r.any_late |= r.late[l];
    }
    if (r.head[0] == r.head[LANES - 1])
        x = gather(qkv, features, r.head[0] * dim, dim, r.column, own);
    else
        for (int l = 0; l < LANES; l++) {
            const int c = r.column[l];
            const float *a = c < 0 ? qkv : qkv + ((size_t)(c / LANES) * features + r.head[l] * dim) * LANES + c % LANES;
            for (int k = 0; k < dim; k++) own[k * LANES + l] = c < 0 ? 0 : a[(size_t)k * LANES];
        }
    if (w->q_norm) norm_columns(x, w->q_norm, m->eps, dim, own), x = own;
    if (s->queries)
        for (int l = 0; l < LANES; l++)
            if (r.column[l] >= 0) {
                size_t row = (s->asked + r.column[l] - s->first) % s->block;
                float *kept = s->queries[layer] + ((size_t)r.head[l] * s->block + row) * dim;
                for (int k = 0; k < dim; k++) kept[k] = x[k * LANES + l];
            }
    const float *c = gather(cosine, dim / 2, 0, dim / 2, r.column, angles);
    rotate_columns(x, c, gather(sine, dim / 2, 0, dim / 2, r.column, angles + dim / 2 * LANES), dim, own);
    for (int k = 0; k < dim; k += 2)
        pack(q + packed_at(k), loadf(own + k * LANES) * m->scale, loadf(own + (k + 1) * LANES) * m->scale);
    return r;
}

static inline vec highest_of(const float *scores, int from, int to, vec top) {
    for (int j = from; j < to; j++) top = vmax(top, loadf(scores + (size_t)j * LANES));
    return top;
}

/* Scores [seen][16] of one or two strips of queries, and in `top` the highest of each query's first `plain`. The last keys,
 * from `whole` on, lie in d->tail. Values, if given, are fetched meanwhile. */
static void score(const weight *keys, const weight *values, int seen, int whole, int dim, int strips, desk *d, int tiles,
                  int plain, vec *top) {
    packed *q[2] = {d->queries, d->queries + packed_at(dim)};
    int compared = 0;
    for (int j = 0; j < seen; j += 2 * LANES) {
        const weight *a[2];
        for (int i = 0; i < 2; i++) {
            int from = j + i * LANES;
            a[i] = from >= seen ? NULL : from == whole ? d->tail : keys + (size_t)from * dim;
        }
        float *c[4] = {d->scores[0] + (size_t)j * LANES, d->scores[1] + (size_t)j * LANES,
                       d->scores[0] + (size_t)(j + LANES) * LANES, d->scores[1] + (size_t)(j + LANES) * LANES};
        const weight *v = values + (size_t)j * dim;
        product(tiles, a[0], LANES, a[1], LANES, dim, AS_THEY_ARE, q[0], strips > 1 ? q[1] : NULL, dim, 0, c,
                values ? fetching_rows(v, v + (size_t)LANES * dim, dim, dim / 32, 0, 1) : NOTHING);
        if (j && j <= plain) { /* of the product before, which is done and still in the first cache */
            for (int i = 0; i < strips; i++) top[i] = highest_of(d->scores[i], compared, j, top[i]);
            compared = j;
        }
    }
    for (int i = 0; i < strips && compared < plain; i++) top[i] = highest_of(d->scores[i], compared, plain, top[i]);
}

/* Exponentials of one strip of scores [n][16], each query's over the pairs that it sees, none further back than the
 * window, packed up to `padded`. The first `plain` are seen by all; top: the highest of them. Returns what exponentials
 * are to be multiplied by. */
static vec soften(float *scores, int n, int padded, int plain, vec top, const strip *r, const int *at, int window,
                  packed *weights) {
    ivec limit, mine;
    memcpy(&limit, r->sees, sizeof limit);
    memcpy(&mine, r->stands, sizeof mine);
    const vec never = splat(NEVER);
    vec total = splat(0);
    for (int j = plain; j < n; j++) {
        ivec visible = j <= limit;
        if (window) visible &= mine - (at ? at[j] : j) < window;
        vec x = (vec)(((ivec)loadf(scores + (size_t)j * LANES) & visible) | ((ivec)never & ~visible));
        storef(scores + (size_t)j * LANES, x);
        top = vmax(top, x);
    }
    for (int j = n; j < padded; j++) storef(scores + (size_t)j * LANES, never);
    for (int j = 0; j < padded; j += 2) {
        vec even = vexp_weight(loadf(scores + (size_t)j * LANES), top);
        vec odd = vexp_weight(loadf(scores + (size_t)(j + 1) * LANES), top);
        total += even + odd;
        pack(weights + packed_at(j), even, odd);
    }
    float lives[LANES];
    for (int l = 0; l < LANES; l++) lives[l] = r->column[l] < 0 ? 0 : 1;
    return loadf(lives) / total;
}

/* Add weights times `by` to sums [n][16], of one strip or two; n is even. */
static inline __attribute__((always_inline)) void add_weights(packed *const *weights, int n, const int strips,
                                                              const vec *by, float *sums) {
    for (int j = 0; j < n; j += 2) {
        float *at = sums + (size_t)j * LANES;
        vec even = loadf(at), odd = loadf(at + LANES);
        for (int i = 0; i < strips; i++) {
            vec a, b;
            unpack(weights[i] + packed_at(j), &a, &b);
            even += a * by[i];
            odd += b * by[i];
        }
        storef(at, even);
        storef(at + LANES, odd);
    }
}

/* Add the weights of the strips to the sums over all queries, and over the latest. */
static void tally(desk *d, int n, int strips, const strip *r, const vec *by) {
    vec part[2];
    int any = 0;
    for (int i = 0; i < strips; i++) {
        ivec late;
        memcpy(&late, r[i].late, sizeof late);
        part[i] = (vec)((ivec)by[i] & late);
        any |= r[i].any_late;
    }
    if (strips > 1)
        add_weights(d->weights, n, 2, by, d->sums[0]);
    else
        add_weights(d->weights, n, 1, by, d->sums[0]);
    if (any) add_weights(d->weights, n, strips, part, d->sums[1]);
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

/* All of one head: write its keys and values, attend, leave the output in out [block][width][16]. */
static void attend_head(const decoder *m, const layer_weights *w, int layer, int head, const sequence *s,
                        const float *qkv, const float *cosine, const float *sine, desk *d, int tiles, float *out) {
    const int dim = m->head_dim, group = m->query_heads / m->kv_heads, width = m->query_heads * dim;
    const int n = s->length[layer] + s->rows, padded = (int)up_to(n, 32), whole = n / LANES * LANES;
    const weight *keys = s->keys[layer] + (size_t)head * s->capacity[layer] * dim;
    const int *at = s->positions ? s->positions[layer] + (size_t)head * s->capacity[layer] : NULL;
    const int queries = group * s->rows, counted = s->received != NULL;
    remember(m, w, layer, head, s, qkv, cosine, sine, d);
    memset(d->tail, 0, sizeof(weight) * LANES * dim);
    memcpy(d->tail, keys + (size_t)whole * dim, sizeof(weight) * (n - whole) * dim);
    turn(s->values[layer] + (size_t)head * s->capacity[layer] * dim, n, padded, dim, d->turned);
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
        const int plain = w->window ? 0 : s->length[layer];
        vec top[2] = {splat(NEVER), splat(NEVER)};
        score(keys, NULL, seen, whole, dim, strips, d, tiles, plain, top);
        for (int i = 0; i < strips; i++)
            by[i] = soften(d->scores[i], seen, reach, plain, top[i], &r[i], at, w->window, d->weights[i]);
        if (counted) tally(d, reach, strips, r, by);
        for (int k = 0; k < dim; k += 2 * LANES) {
            const int left = dim - k - LANES;
            float *c[4] = {d->column + (size_t)k * LANES, d->scores[0] + (size_t)k * LANES,
                           d->column + (size_t)(k + LANES) * LANES, d->scores[0] + (size_t)(k + LANES) * LANES};
            product(tiles, d->turned + (size_t)k * padded, dim - k < LANES ? dim - k : LANES,
                    left > 0 ? d->turned + (size_t)(k + LANES) * padded : NULL, left < LANES ? left : LANES, padded,
                    AS_THEY_ARE, d->weights[0], strips > 1 ? d->weights[1] : NULL, reach, 0, c, NOTHING);
        }
        for (int i = 0; i < strips; i++) {
            float *x = i ? d->scores[0] : d->column;
            for (int k = 0; k < dim; k++) storef(x + k * LANES, loadf(x + k * LANES) * by[i]);
            answer(x, &r[i], width, dim, out);
        }
    }
    if (counted)
        for (int j = 0; j < n; j++) {
            size_t pair = (size_t)head * s->capacity[layer] + j;
            s->received[layer][pair] += sum(loadf(d->sums[0] + (size_t)j * LANES)) / group;
            s->latest[layer][pair] += sum(loadf(d->sums[1] + (size_t)j * LANES)) / group;
        }
}
#endif
