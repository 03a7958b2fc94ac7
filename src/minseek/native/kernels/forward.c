/* One pass of a Llama-family decoder over new tokens of many sequences, on the CPU: blocks of prompts and single steps
 * of decoding side by side, each token a column. See product.h for how columns lie, attention.h for attention.
 *
 * All threads run through the layers together. Weights are read once a pass: with few columns that is its floor, with
 * many it is the products.
 */
#include "attend_one.h"
#include "team.h"

typedef struct {
    float *x;        /* the residual stream, [block][hidden][16] */
    float *qkv;      /* [block][width + 2 kv][16] */
    float *out;      /* attention's, [block][width][16]; later the columns whose logits are wanted */
    float *cosine, *sine; /* of each column's position, [block][D/2][16] */
    packed *in;      /* what the next product multiplies */
    packed *act;     /* [block][inner][16], packed */
    char *desks;     /* one a thread */
    float *panels;   /* for `open_panel`, one a thread */
} room;

/* What each thread needs for a panel of any matrix. */
static size_t largest_panel(const decoder *m) {
    const int ks[] = {m->hidden, m->query_heads * m->head_dim, m->inner};
    size_t most = 0;
    for (int i = 0; i < 3; i++) most = panel_floats(ks[i]) > most ? panel_floats(ks[i]) : most;
    return up_to(most, LANES);
}

static size_t room_bytes(const decoder *m, size_t columns, size_t longest, room *r, char *at) {
    const size_t width = (size_t)m->query_heads * m->head_dim, kv = (size_t)m->kv_heads * m->head_dim;
    const size_t widest = (size_t)m->hidden > width ? (size_t)m->hidden : width;
    const size_t c = up_to(columns, LANES);
    char *from = at;
    room none;
    if (!r) r = &none;
#define TAKE(FIELD, COUNT) r->FIELD = (void *)at, at += up_to((COUNT) * sizeof(*r->FIELD), 64)
    TAKE(x, c * m->hidden);
    TAKE(qkv, c * (width + 2 * kv));
    TAKE(out, c * widest);
    TAKE(cosine, c * m->head_dim / 2);
    TAKE(sine, c * m->head_dim / 2);
    TAKE(in, c * widest / PER_PACKED);
    TAKE(act, c * m->inner / PER_PACKED);
    TAKE(desks, m->threads * up_to(desk_bytes(longest, m->head_dim), 4096));
    TAKE(panels, m->threads * largest_panel(m));
#undef TAKE
    return at - from;
}

/* Bytes of memory, aligned to 64, that forward() needs for so many columns and pairs of the longest sequence. */
int64_t forward_bytes(const decoder *m, int64_t columns, int64_t longest) {
    size_t pairs = longest > m->head_dim ? longest : m->head_dim;
    return room_bytes(m, columns, pairs, NULL, NULL);
}

/* Work in units that whoever is free takes next. */
typedef struct {
    atomic_int next;
} queue;
static inline int take(queue *q) { return atomic_fetch_add(&q->next, 1); }

/* Rows of a product: out [block][rows][16] = (out +) w x + bias. */
typedef struct {
    const weight *w, *bias;
    int rows, offset; /* offset: where they begin among the features of out */
} matrix;

/* Where thread t of n begins in a matrix of so many rows that is multiplied by panels. */
static const weight *begins(const weight *w, int rows, int panel, int k, int t, int n) {
    return w + (size_t)((int64_t)((rows + panel - 1) / panel) * t / n) * panel * k;
}

/* How many factors of a row are multiplied at a time. A panel in tiles is to stay in the first cache for all blocks, which
 * pays if they are many and come from the second one. */
#define FIRST_CACHE 400     /* factors of 32 rows, beside as many of 32 columns */
#define SECOND_CACHE (1024 * 1024) /* bytes of all blocks */
static int piece_of(int tiles, int blocks, int k) {
    if (!tiles || k % 32 || blocks < 16 || (size_t)blocks * LANES * k * sizeof(weight) > SECOND_CACHE) return k;
    const int pieces = (k + FIRST_CACHE - 1) / FIRST_CACHE;
    return (int)up_to((k + pieces - 1) / pieces, 32);
}

/* This thread's share of the rows of several matrices [rows, k], panel by panel of 32; each panel is fetched while the
 * one before it is multiplied, and `next`, where the next phase begins, with the last. */
static void multiply(int tiles, const matrix *ms, int count, int k, const packed *x, int columns, int add, float *out,
                     int features, const weight *next, float *room, int t, int n) {
    const int blocks = (columns + LANES - 1) / LANES, fold = fold_of(columns, k), pairs = (blocks + 1) / 2;
    const int piece = piece_of(tiles, blocks, k), pieces = (k + piece - 1) / piece;
    int panels = 0;
    for (int i = 0; i < count; i++) panels += (ms[i].rows + 31) / 32;
    const int last = (int)((int64_t)panels * (t + 1) / n);
    const size_t block = packed_at(k);
    x = spread_out(x, k, fold, room);
    for (int p = (int)((int64_t)panels * t / n), at = 0, i = 0; p < last; p++) {
        while (p - at >= (ms[i].rows + 31) / 32) at += (ms[i++].rows + 31) / 32;
        const int first = (p - at) * 32, left = ms[i].rows - first;
        const weight *a0 = ms[i].w + (size_t)first * k, *a1 = left > LANES ? a0 + (size_t)LANES * k : NULL;
        const int rows0 = left < LANES ? left : LANES, rows1 = left - LANES < LANES ? left - LANES : LANES;
        const weight *ahead = p + 1 == last ? next : left > 32 ? a0 + (size_t)32 * k : ms[i + 1].w;
        const panel rows = open_panel(a0, rows0, a1, rows1, k, fold, room);
        for (int part = 0; part < pieces * pairs; part++) {
            const int from = part / pairs * piece, some = k - from < piece ? k - from : piece, b = part % pairs * 2;
            const packed *b0 = x + b * block + packed_at(from), *b1 = b + 1 < blocks ? b0 + block : NULL;
            float *c[4];
            for (int j = 0; j < 4; j++)
                c[j] = out + ((size_t)(b + j % 2) * features + ms[i].offset + first + j / 2 * LANES) * LANES;
            product(tiles, a0 + from, rows0, a1 ? a1 + from : NULL, rows1, k, rows, b0, b1, some, add || from, c,
                    fetching_rows(ahead, ahead + (size_t)LANES * k, k, some / 32, part, pieces * pairs));
            if (ms[i].bias && from + some == k)
                for (int j = b; j < b + 2 && j < blocks; j++)
                    for (int r = first; r < first + 32 && r < ms[i].rows; r++) {
                        float *o = out + ((size_t)j * features + ms[i].offset + r) * LANES;
                        storef(o, loadf(o) + widen(ms[i].bias[r]));
                    }
        }
    }
}

/* This thread's share of act = silu(gate x) * (up x), packed for the product that follows. */
static void gated(int tiles, const decoder *m, const layer_weights *w, const packed *x, int columns, packed *act,
                  const weight *next, float *room, int t, int n) {
    const int blocks = (columns + LANES - 1) / LANES, fold = fold_of(columns, m->hidden);
    const int k = m->hidden, panels = (m->inner + LANES - 1) / LANES, pairs = (blocks + 1) / 2;
    const size_t block = packed_at(k);
    float square[4][SQUARE];
    float *c[4] = {square[0], square[1], square[2], square[3]};
    x = spread_out(x, k, fold, room);
    for (int p = (int)((int64_t)panels * t / n), last = (int)((int64_t)panels * (t + 1) / n); p < last; p++) {
        const int first = p * LANES, rows = m->inner - first < LANES ? m->inner - first : LANES;
        const weight *g = w->gate + (size_t)first * k, *u = w->up + (size_t)first * k;
        const panel both = open_panel(g, rows, u, rows, k, fold, room);
        const weight *ahead = p + 1 < last ? g + (size_t)LANES * k : next;
        const weight *other = p + 1 < last ? u + (size_t)LANES * k : next + (size_t)LANES * k;
        for (int b = 0; b < blocks; b += 2) {
            product(tiles, g, rows, u, rows, k, both, x + b * block, b + 1 < blocks ? x + (b + 1) * block : NULL, k, 0,
                    c, fetching_rows(ahead, other, k, k / 32, b / 2, pairs));
            for (int j = 0; j < 2 && b + j < blocks; j++) {
                packed *o = act + (size_t)(b + j) * packed_at(m->inner) + packed_at(first);
                for (int r = 0; r < rows; r += 2) {
                    vec y[2];
                    for (int e = 0; e < 2; e++) {
                        vec a = loadf(square[j] + (r + e) * LANES), b = loadf(square[j + 2] + (r + e) * LANES);
                        if (w->gate_bias) a += widen(w->gate_bias[first + r + e]);
                        if (w->up_bias) b += widen(w->up_bias[first + r + e]);
                        y[e] = silu(a) * b;
                    }
                    pack(o + packed_at(r), y[0], y[1]);
                }
            }
        }
    }
}

/* Columns of x [features][16], divided by their root mean square and multiplied by w (if given), packed. */
static void pack_block(const float *x, const weight *w, float eps, int features, packed *out) {
    vec by = splat(1);
    if (w) {
        vec s = splat(0);
        for (int i = 0; i < features; i++) s += loadf(x + i * LANES) * loadf(x + i * LANES);
        float r[LANES];
        storef(r, s / (float)features + eps);
        for (int l = 0; l < LANES; l++) r[l] = 1.0f / sqrtf(r[l]);
        by = loadf(r);
    }
    for (int i = 0; i < features; i += 2) {
        vec even = loadf(x + i * LANES) * by, odd = loadf(x + (i + 1) * LANES) * by;
        if (w) even *= widen(w[i]), odd *= widen(w[i + 1]);
        pack(out + packed_at(i), even, odd);
    }
}

/* Last hidden states of the `count` columns `wanted`, each at most once, and logits of the first `asked` of them. */
static void head(int tiles, const decoder *m, room *r, const int32_t *wanted, int count, int asked, float *logits,
                 float *hidden, meeting *together, float *room, int t, int n) {
    const int k = m->hidden, blocks = (asked + LANES - 1) / LANES, fold = fold_of(asked, k);
    for (int b = t; b * LANES < count; b += n) {
        int columns[LANES];
        for (int l = 0; l < LANES; l++) columns[l] = b * LANES + l < count ? wanted[b * LANES + l] : -1;
        float *x = r->out + (size_t)b * m->hidden * LANES; /* free by now */
        norm_columns(gather(r->x, k, 0, k, columns, x), m->norm, m->eps, k, x);
        for (int l = 0; l < LANES; l++)
            if (columns[l] >= 0)
                for (int i = 0; i < k; i++) hidden[((size_t)b * LANES + l) * k + i] = x[i * LANES + l];
        if (b < blocks) pack_block(x, NULL, 0, k, r->in + b * packed_at(k));
    }
    if (!asked) return;
    meet(together, n);
    const int panels = (m->vocab + 31) / 32;
    const packed *x = spread_out(r->in, k, fold, room);
    float square[4][SQUARE];
    float *c[4] = {square[0], square[1], square[2], square[3]};
    for (int p = (int)((int64_t)panels * t / n), last = (int)((int64_t)panels * (t + 1) / n); p < last; p++) {
        const int first = p * 32, left = m->vocab - first;
        const weight *a0 = m->head + (size_t)first * k, *a1 = left > LANES ? a0 + (size_t)LANES * k : NULL;
        const int rows0 = left < LANES ? left : LANES, rows1 = left - LANES < LANES ? left - LANES : LANES;
        const panel rows = open_panel(a0, rows0, a1, rows1, k, fold, room);
        for (int b = 0; b < blocks; b += 2) {
            product(tiles, a0, rows0, a1, rows1, k, rows, x + b * packed_at(k),
                    b + 1 < blocks ? x + (b + 1) * packed_at(k) : NULL, k, 0, c,
                    b ? NOTHING : fetching_rows(a0 + (size_t)32 * k, a0 + (size_t)48 * k, k, k / 32, 0, 1));
            for (int j = 0; j < 4; j++) {
                const int from = first + j / 2 * LANES, column = (b + j % 2) * LANES;
                for (int l = 0; l < LANES && column + l < asked; l++)
                    for (int i = 0; i < LANES && from + i < m->vocab; i++)
                        logits[(size_t)(column + l) * m->vocab + from + i] =
                            square[j][i * LANES + l] + (m->head_bias ? widen(m->head_bias[from + i]) : 0.0f);
            }
        }
    }
}

/* Feed the tokens of `count` sequences, `columns` in all; their keys and values are written behind what they have.
 * cosine, sine: [columns, D/2] of the tokens' positions. wanted: different columns whose last hidden states [n_wanted,
 * hidden] (after the norm) are left, with the logits [n_logits, vocab] of the first of them. memory: forward_bytes(). */
void forward(const decoder *m, const int32_t *tokens, int32_t columns, const sequence *sequences, int32_t count,
             const float *cosine, const float *sine, int32_t longest, char *memory, const int32_t *wanted,
             int32_t n_wanted, int32_t n_logits, float *logits, float *hidden) {
    const int width = m->query_heads * m->head_dim, kv = m->kv_heads * m->head_dim, half = m->head_dim / 2;
    const int features = width + 2 * kv, blocks = (columns + LANES - 1) / LANES, tiles = tiles_allowed();
    const size_t pairs = longest > m->head_dim ? longest : m->head_dim;
    room r;
    room_bytes(m, columns, pairs, &r, memory);
    queue *attention = calloc(m->layers, sizeof(queue));
    meeting together = {0};
    const int threads = blocks == 1 && m->threads > 8 ? 8 : m->threads;

#pragma omp parallel num_threads(threads)
    {
        const int n = omp_get_num_threads(), t = omp_get_thread_num();
        desk own = carve(r.desks + t * up_to(desk_bytes(pairs, m->head_dim), 4096), pairs, m->head_dim);
        float *room = r.panels + t * largest_panel(m);
        tiles_begin(tiles);
        for (int b = t; b < blocks; b += n)
            for (int l = 0; l < LANES; l++) {
                const int c = b * LANES + l, is = c < columns;
                const weight *e = m->embedding + (is ? (size_t)tokens[c] * m->hidden : 0);
                float *x = r.x + (size_t)b * m->hidden * LANES + l;
                for (int i = 0; i < m->hidden; i++) x[i * LANES] = is ? widen(e[i]) : 0;
                for (int i = 0; i < half; i++) {
                    r.cosine[((size_t)b * half + i) * LANES + l] = is ? cosine[(size_t)c * half + i] : 1;
                    r.sine[((size_t)b * half + i) * LANES + l] = is ? sine[(size_t)c * half + i] : 0;
                }
            }
        for (int l = 0; l < m->layers; l++) {
            const layer_weights *w = m->layer + l;
            const int hidden = m->hidden, inner = m->inner;
            const matrix to_qkv[] = {
                {w->q, w->q_bias, width, 0}, {w->k, w->k_bias, kv, width}, {w->v, w->v_bias, kv, width + kv}};
            const matrix to_x = {w->o, w->o_bias, hidden, 0}, down = {w->down, w->down_bias, hidden, 0};
            for (int b = t; b < blocks; b += n) /* the same blocks as above: no need to meet before */
                pack_block(r.x + (size_t)b * hidden * LANES, w->norm1, m->eps, hidden, r.in + b * packed_at(hidden));
            meet(&together, n);
            multiply(tiles, to_qkv, 3, hidden, r.in, columns, 0, r.qkv, features, begins(w->o, hidden, 32, width, t, n),
                     room, t, n);
            meet(&together, n);
            for (int task, tasks = count * m->kv_heads; (task = take(attention + l)) < tasks;) {
                const sequence *s = sequences + task / m->kv_heads;
                const int head = task % m->kv_heads;
                if (s->rows > 1 || m->query_heads / m->kv_heads > LANES) {
                    attend_head(m, w, l, head, s, r.qkv, r.cosine, r.sine, &own, tiles, r.out);
                    continue;
                }
                const int then = task + n; /* most likely, threads being equally fast */
                const sequence *other = sequences + (then < tasks ? then / m->kv_heads : 0);
                const size_t skipped = (size_t)(then % m->kv_heads) * other->capacity[l] * m->head_dim;
                const weight *next =
                    then < tasks ? other->keys[l] + skipped : begins(w->o, hidden, 32, width, t, n);
                attend_one(m, w, l, head, s, r.qkv, r.cosine, r.sine, &own, tiles, next, r.out);
            }
            meet(&together, n);
            for (int b = t; b < blocks; b += n)
                pack_block(r.out + (size_t)b * width * LANES, NULL, 0, width, r.in + b * packed_at(width));
            meet(&together, n);
            multiply(tiles, &to_x, 1, width, r.in, columns, 1, r.x, hidden,
                     begins(w->gate, inner, LANES, hidden, t, n), room, t, n);
            meet(&together, n);
            for (int b = t; b < blocks; b += n)
                pack_block(r.x + (size_t)b * hidden * LANES, w->norm2, m->eps, hidden, r.in + b * packed_at(hidden));
            meet(&together, n);
            gated(tiles, m, w, r.in, columns, r.act, begins(w->down, hidden, 32, inner, t, n), room, t, n);
            meet(&together, n);
            const weight *after = l + 1 < m->layers ? begins(w[1].q, width, 32, hidden, t, n)
                                                    : begins(m->head, m->vocab, 32, hidden, t, n);
            multiply(tiles, &down, 1, inner, r.act, columns, 1, r.x, hidden, after, room, t, n);
            meet(&together, n);
        }
        if (n_wanted) head(tiles, m, &r, wanted, n_wanted, n_logits, logits, hidden, &together, room, t, n);
        tiles_end(tiles);
    }
    free(attention);
}
