/* Single moves: a point leaves its cluster for another where that lowers the loss, and both centres follow at once.
 *
 * Moving weight v from a to b changes the loss by  v [ s_b / (s_b + v) |x - c_b|^2 - s_a / (s_a - v) |x - c_a|^2 ]  (s: weights of the clusters).
 * The first term is what joining costs, the second what leaving saves. Joining b costs at least v s / (s + v) l^2 when s_b >= s and
 * |x - c_b| >= l, so the bounds of Lloyd's step serve here too. */
#ifndef MINSEEK_CLUSTER_SWEEP_H
#define MINSEEK_CLUSTER_SWEEP_H
#include "assign.h"

#define BLOCK 4096

static inline double share_after(double size, double weight) { return size / (size + weight); }

/* Which of sixteen centres may be joined for at most `most`, as far as their quick squares tell: size / (size + v) square <= most. */
static inline unsigned cheap(const work *w, int64_t g, const vec squares[VECS], double v, double most) {
    const vec *bulk = (const vec *)w->bulks + g * VECS;
    calc least = (calc)w->shrink, blur = (calc)w->blur, limit = (calc)(most * (1 + 16 * UNIT)), weight = (calc)v;
    vec over[VECS];
    for (int e = 0; e < VECS; e++) over[e] = (squares[e] * least - blur) * bulk[e] - (bulk[e] + weight) * limit;
    return at_most_bits(over, 0);
}

/* No centre of the span can be joined for less (times the weight) when none is nearer than `near`. */
static inline double least_cost(const work *w, int64_t s, double weight, double near) {
    return near <= 0 ? 0 : share_after(w->lightest[s], weight) * near * near;
}

/* Spans that changed after `since` and may hold a cluster that is joined (times the weight) for less than `need`: light / (light + v) now^2. */
static inline int64_t choose_cheaper(const work *w, int64_t i, row *r, double v, double need, int32_t since) {
    const float *lower = w->lower + i * w->spans;
    float most = up(need * (1 + 16 * FLT_EPSILON)), weight = (float)v;
    for (int64_t s = 0; s < w->spans; s++) {
        float now = (float)((double)lower[s] - w->slack[s]), light = (float)w->lightest[s];
        now -= fabsf(now) * 1.2e-7f;
        int near = (now <= 0) | (now * now * light < most * (light + weight));
        r->now[s] = near & (w->stamp[s] > since) ? -1 : now;
    }
    return list(w, r);
}

/* Whether point i could gain by a move, as far as bounds and quick distances tell; "no" is certain. Bounds are renewed on the way. */
static int may_gain(const work *w, int64_t i, row *r, int64_t *computed) {
    int32_t own = w->labels[i];
    double v = weight_of(w, i), size = w->sizes[own];
    if (alone(w, own)) return 0; /* leaving saves nothing */
    if (w->clock == w->seen[i]) return 0;
    int32_t since = w->changed[own] > w->seen[i] ? -1 : w->seen[i]; /* leaving saves what it did: only changed clusters matter */
    /* what leaving saves, size / (size - v) far^2, against what joining costs at least, light / (light + v) near^2: without divisions */
    double leave = size * (w->lightest_all + v) * (1 + 1e-12), join = w->lightest_all * (size - v);
    double far = (double)w->upper[i] + w->path[own], near = larger(0, (double)w->lowest[i] - w->drift_all);
    if (far * far * leave <= near * near * join) return 0;
    double need = far * far * size / (size - v) * (1 + 1e-12);
    if (choose_cheaper(w, i, r, v, need, since) == 0) return 0;
    stage(w, i, r);
    far = at_most(w, square_of(w, r, own));
    w->upper[i] = up(far - w->path[own]);
    need = far * far * size / (size - v) * (1 + 1e-12);
    int64_t count = choose_cheaper(w, i, r, v, need, since);
    if (count == 0) return 0;
    unsigned may = 0;
    look_at(w, r, count, own);
    *computed += count;
    for (int64_t e = 0; e < count; e++) may |= cheap(w, r->look[e], (const vec *)r->out + r->look[e] * VECS, v, need);
    keep_bounds(w, i, r, -1, 0);
    return may != 0;
}

/* The best move of the staged point: where to, and by how much the loss changes, in double. */
static double best_move(const work *w, int64_t i, row *r, double own_square, int32_t *to, int64_t *computed) {
    int32_t own = w->labels[i];
    double v = weight_of(w, i), size = w->sizes[own], saved = alone(w, own) ? 0 : own_square * size / (size - v);
    double least = INFINITY;
    *to = -1;
    int64_t count = 0;
    for (int64_t g = 0; g < w->groups; g++)
        if (least_cost(w, g / w->width, v, bound(w, i, g / w->width)) < saved) r->look[count++] = (int32_t)g;
    look_at(w, r, count, own);
    *computed += count;
    for (int64_t e = 0; e < count; e++) {
        int64_t g = r->look[e];
        for (unsigned bits = cheap(w, g, (const vec *)r->out + g * VECS, v, smaller(saved, least)); bits; bits &= bits - 1) {
            int64_t k = g * GROUP + __builtin_ctz(bits);
            double cost = share_after(w->sizes[k], v) * refined(w, r, k, r->out[k]);
            if (cost < least) least = cost, *to = (int32_t)k;
        }
    }
    return *to < 0 ? INFINITY : v * (least - saved);
}

/* Point i, staged, goes to cluster b; every bound stays true. */
static void move(work *w, int64_t i, row *r, double own_square, int32_t b) {
    int32_t a = w->labels[i];
    double v = weight_of(w, i), size_a = w->sizes[a], size_b = w->sizes[b];
    double to_b = size_b > 0 ? at_most(w, square_of(w, r, b)) : 0, to_a = at_most(w, own_square);
    double moved[2] = {v * to_a / (size_a - v), size_b > 0 ? v * to_b / (size_b + v) : INFINITY};
    int32_t both[2] = {a, b};
    shift(w, r, a, -v);
    shift(w, r, b, v);
    for (int e = 0; e < 2; e++) {
        int64_t k = both[e], s = span_of(w, k);
        if (moved[e] == INFINITY) moved[e] = 2 * w->reach;
        moved[e] = moved[e] * (1 + 1e-12) + 16 * DBL_EPSILON * w->reach;
        w->path[k] += moved[e];
        w->stride[k] += moved[e];
        w->recent[s] = larger(w->recent[s], w->stride[k]);
        w->recent_all = larger(w->recent_all, w->recent[s]);
        w->slack[s] = w->drift[s] + w->recent[s];
        double least = INFINITY;
        for (int64_t c = s * w->width * GROUP; c < smaller((s + 1) * w->width * GROUP, w->clusters); c++) least = smaller(least, w->sizes[c]);
        w->lightest[s] = least;
        w->bulks[k] = (calc)w->sizes[k];
    }
    w->lightest_all = INFINITY;
    for (int64_t s = 0; s < w->spans; s++) w->lightest_all = smaller(w->lightest_all, w->lightest[s]);
    w->labels[i] = b;
    w->seen[i] = -1;
    w->clock++;
    for (int e = 0; e < 2; e++) w->changed[both[e]] = w->stamp[span_of(w, both[e])] = (int32_t)w->clock;
    w->upper[i] = up(at_most(w, square_of(w, r, b)) - w->path[b]);
    int64_t s = span_of(w, a); /* the old centre is one of the others now */
    double gone = at_least(w, square_of(w, r, a));
    w->lower[i * w->spans + s] = smaller(w->lower[i * w->spans + s], down(gone + w->drift[s]));
    w->lowest[i] = smaller(w->lowest[i], down(gone + w->drift_all));
}

/* What moved during a block of points goes into the drift. */
static void close_block(work *w) {
    for (int64_t s = 0; s < w->spans; s++) {
        if (w->recent[s] == 0) continue;
        w->drift[s] += w->recent[s];
        w->recent[s] = 0;
        w->slack[s] = w->drift[s];
        for (int64_t k = s * w->width * GROUP; k < smaller((s + 1) * w->width * GROUP, w->clusters); k++) w->stride[k] = 0;
    }
    w->drift_all += w->recent_all;
    w->recent_all = 0;
}

/* One sweep over all points; how many moved. A block of points is looked through by all threads with the centres as they are, then those that
 * may gain are moved one after the other, each against the centres as they have become: threads change nothing but the time. */
int64_t sweep(work *w) {
    int64_t moves = 0;
    int64_t *found = malloc(BLOCK * sizeof(int64_t));
    unsigned char *may = malloc(BLOCK);
    row mine = new_row(w);
    weigh(w);
    slacken(w);
    for (int64_t from = 0; from < w->points; from += BLOCK) {
        int64_t count = smaller(BLOCK, w->points - from), computed = 0, flagged = 0;
#pragma omp parallel num_threads(w->threads) reduction(+ : computed)
        {
            row r = new_row(w);
#pragma omp for schedule(dynamic, 128)
            for (int64_t i = 0; i < count; i++) {
                may[i] = (unsigned char)may_gain(w, from + i, &r, &computed);
                if (!may[i]) w->seen[from + i] = (int32_t)w->clock;
            }
            free_row(&r);
        }
        for (int64_t i = 0; i < count; i++)
            if (may[i]) found[flagged++] = from + i;
        int moved = 0;
        for (int64_t f = 0; f < flagged; f++) {
            int64_t i = found[f];
            int32_t to;
            stage(w, i, &mine);
            if (alone(w, w->labels[i])) continue;
            double own_square = square_of(w, &mine, w->labels[i]);
            double change = best_move(w, i, &mine, own_square, &to, &computed);
            w->seen[i] = (int32_t)w->clock;
            if (to < 0 || !(change < -w->tolerance)) continue;
            move(w, i, &mine, own_square, to);
            moved = 1, moves++;
        }
        if (moved) close_block(w);
        w->computed += computed;
    }
    free_row(&mine);
    free(may);
    free(found);
    return moves;
}
#endif
