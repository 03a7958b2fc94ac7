/* The certificate's evidence: every single move of every point, computed without any stored bound.
 * Implementation header. */
#ifndef MINSEEK_CLUSTER_SCAN_MOVES_H
#define MINSEEK_CLUSTER_SCAN_MOVES_H
#include "sweep.h"

/* Limits in packed distances below which the truly nearest center and the truly cheapest cluster are found. */
typedef struct {
    real square;
    double cost;
} candidate_limits;

static inline candidate_limits limits_of(const kmeans_state *s, const thread_scratch *t, double weight) {
    const vec *cluster_weights = (const vec *)s->weight_in_clusters_packed, *squares = (const vec *)t->packed_sq;
    const vec infinite = OF_REAL(all)((real)INFINITY);
    const real real_weight = (real)weight;
    vec nearest[VECS], cheapest[VECS];
    UNROLL for (int e = 0; e < VECS; e++) nearest[e] = cheapest[e] = infinite;
    for (int64_t p = 0; p < s->n_packs; p++)
        UNROLL for (int e = 0; e < VECS; e++) {
            const vec square = squares[p * VECS + e], w = cluster_weights[p * VECS + e];
            nearest[e] = OF_REAL(min)(square, nearest[e]);
            cheapest[e] = OF_REAL(min)(square * w / (w + real_weight), cheapest[e]);
        }
    const double allowance = 4 * s->error_abs;
    return (candidate_limits){(real)((double)pack_hmin(nearest) * (1 + 1e-3) + allowance),
                              (double)pack_hmin(cheapest) * (1 + 1e-3) + allowance};
}

/* Best move and nearest other center of point i. `empty` is an empty cluster, or -1. */
static void scan_point(kmeans_state *s, int64_t i, thread_scratch *t, int64_t empty) {
    const int32_t label = s->labels[i];
    load_point(s, i, t);
    const double weight = weight_of(s, i), own_sq = distance_sq(s, t, label);
    const double gain = leave_gain(s, label, weight, own_sq);
    for (int64_t p = 0; p < s->n_packs; p++) t->packs[p] = (int32_t)p;
    inspect_packs(s, t, s->n_packs, label);
    const candidate_limits limits = limits_of(s, t, weight);
    double lowest = INFINITY, nearest_sq = INFINITY;
    int32_t target = -1, nearest = -1;
    for (int64_t p = 0; p < s->n_packs; p++) {
        const vec *squares = (const vec *)t->packed_sq + p * VECS;
        unsigned bits = pack_le(squares, limits.square) | join_cost_le(s, p, squares, weight, limits.cost);
        for (; bits; bits &= bits - 1) {
            const int64_t k = p * PACK + __builtin_ctz(bits);
            const real packed_sq = t->packed_sq[k];
            if (k >= s->n_clusters || !(s->weight_in_clusters[k] > 0) || !(packed_sq < INFINITY)) continue;
            const double square = exact_distance_sq(s, t, k, packed_sq);
            const double cost = join_factor(s->weight_in_clusters[k], weight) * square;
            if (square < nearest_sq) nearest_sq = square, nearest = (int32_t)k;
            if (cost < lowest) lowest = cost, target = (int32_t)k;
        }
    }
    if (empty >= 0 && gain > 0) target = (int32_t)empty, lowest = 0;
    s->move_target[i] = target;
    s->move_change[i] = target < 0 ? INFINITY : weight * (lowest - gain);
    s->gap[i] = nearest_sq - own_sq;
    s->nearest_other[i] = nearest;
}

void scan_moves(kmeans_state *s) {
    int64_t empty = -1;
    refresh_weights(s);
    for (int64_t k = s->n_clusters - 1; k >= 0; k--)
        if (!(s->weight_in_clusters[k] > 0)) empty = k;
#pragma omp parallel num_threads(s->n_threads)
    {
        thread_scratch t = scratch_of(s, omp_get_thread_num());
#pragma omp for schedule(dynamic, 256)
        for (int64_t i = 0; i < s->n_points; i++) scan_point(s, i, &t, empty);
    }
}
#endif
