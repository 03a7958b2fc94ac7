/* The proof: every single move of every point, looked at anew without any kept bound. */
#ifndef MINSEEK_CLUSTER_SCAN_H
#define MINSEEK_CLUSTER_SCAN_H
#include "sweep.h"

/* `best`, `change`: each point's best move. `gap`, `rival`: how much farther (squared) the nearest other centre is than the own, and which it is. */
void scan(work *w) {
    int64_t empty = -1, computed = 0;
    weigh(w);
    for (int64_t k = w->clusters - 1; k >= 0; k--)
        if (!(w->sizes[k] > 0)) empty = k;
#pragma omp parallel num_threads(w->threads) reduction(+ : computed)
    {
        row r = new_row(w);
        const vec *bulks = (const vec *)w->bulks;
        vec none = (vec){0} + (calc)INFINITY;
#pragma omp for schedule(dynamic, 256)
        for (int64_t i = 0; i < w->points; i++) {
            int32_t own = w->labels[i], to = -1, rival = -1;
            stage(w, i, &r);
            double v = weight_of(w, i), size = w->sizes[own], own_square = square_of(w, &r, own);
            double saved = alone(w, own) ? 0 : own_square * size / (size - v), least = INFINITY, near = INFINITY;
            vec nearest_yet[VECS], cheapest_yet[VECS]; /* the smallest in each lane; costs are quick ones */
            for (int e = 0; e < VECS; e++) nearest_yet[e] = cheapest_yet[e] = none;
            for (int64_t g = 0; g < w->groups; g++) r.look[g] = (int32_t)g;
            look_at(w, &r, w->groups, own);
            for (int64_t g = 0; g < w->groups; g++) {
                const vec *out = (const vec *)r.out + g * VECS;
                for (int e = 0; e < VECS; e++) {
                    vec cost = out[e] * bulks[g * VECS + e] / (bulks[g * VECS + e] + (calc)v);
                    keep_smaller(&nearest_yet[e], out[e]);
                    keep_smaller(&cheapest_yet[e], cost);
                }
            }
            /* whatever is nearest or cheapest in truth is among those that are so in quick squares, but for rounding */
            double close = (double)smallest(nearest_yet) * (1 + 1e-3) + 4 * w->blur, cost = (double)smallest(cheapest_yet) * (1 + 1e-3) + 4 * w->blur;
            for (int64_t g = 0; g < w->groups; g++) {
                const vec *out = (const vec *)r.out + g * VECS;
                for (unsigned bits = at_most_bits(out, (calc)close) | cheap(w, g, out, v, cost); bits; bits &= bits - 1) {
                    int64_t k = g * GROUP + __builtin_ctz(bits);
                    calc quick = r.out[k];
                    if (k >= w->clusters || !(w->sizes[k] > 0) || !(quick < INFINITY)) continue;
                    double square = refined(w, &r, k, quick), joined = share_after(w->sizes[k], v) * square;
                    if (square < near) near = square, rival = (int32_t)k;
                    if (joined < least) least = joined, to = (int32_t)k;
                }
            }
            computed += w->groups;
            if (empty >= 0 && saved > 0) to = (int32_t)empty, least = 0;
            w->best[i] = to;
            w->change[i] = to < 0 ? INFINITY : v * (least - saved);
            w->gap[i] = near - own_square;
            w->rival[i] = rival;
        }
        free_row(&r);
    }
    w->computed += computed;
}
#endif
