/* Lloyd's assignment step: every point to its nearest center. Implementation header. */
#ifndef MINSEEK_CLUSTER_ASSIGN_H
#define MINSEEK_CLUSTER_ASSIGN_H
#include "bounds.h"

/* Nearest center of point i: its own unless another is surely nearer in double precision. Updates its bounds where
 * they did not suffice. */
static int32_t nearest_center(const kmeans_state *s, int64_t i, thread_scratch *t) {
    const int32_t label = s->labels[i];
    const double lower_all = lower_bound_all(s, i);
    double own_sq = INFINITY, own_distance = INFINITY;
    if (label >= 0) {
        own_distance = upper_bound(s, i);
        if (own_distance <= lower_all || select_nearer(s, i, t, own_distance) == 0) return label;
        load_point(s, i, t); /* the upper bound does not suffice: the distance itself may */
        own_sq = distance_sq(s, t, label);
        own_distance = distance_at_most(s, own_sq);
        store_upper_bound(s, i, label, own_distance);
        if (own_distance <= lower_all) return label;
    } else
        load_point(s, i, t);
    const int64_t count = select_nearer(s, i, t, own_distance);
    inspect_packs(s, t, count, label);
    real nearest_sq = (real)INFINITY;
    int64_t nearest_pack = -1;
    for (int64_t c = 0; c < count; c++)
        if (t->pack_min[t->packs[c]] < nearest_sq) nearest_sq = t->pack_min[nearest_pack = t->packs[c]];
    int32_t nearest = label;
    if (nearest_pack >= 0 && least_sq(s, nearest_sq) < own_distance * own_distance) {
        vec squares[VECS];
        memcpy(squares, t->packed_sq + nearest_pack * PACK, sizeof(squares));
        const int lane = __builtin_ctz(pack_le(squares, nearest_sq) | 1u << PACK);
        const int64_t k = nearest_pack * PACK + lane;
        const double square = lane < PACK ? exact_distance_sq(s, t, k, nearest_sq) : INFINITY;
        if (square < own_sq * (1 - 1e-14) - 2 * s->f64_error) {
            nearest = (int32_t)k;
            store_upper_bound(s, i, nearest, distance_at_most(s, square));
            pack_set_inf(squares, 1u << lane); /* the own center from now on */
            t->pack_min[nearest_pack] = pack_hmin(squares);
        }
    }
    store_lower_bounds(s, i, t, nearest != label ? label : -1, own_sq);
    return nearest;
}

/* Writes the nearest centers to labels_new and returns how many points change. */
int64_t assign(kmeans_state *s) {
    int64_t changed = 0;
    refresh_bound_slack(s);
#pragma omp parallel num_threads(s->n_threads) reduction(+ : changed)
    {
        thread_scratch t = scratch_of(s, omp_get_thread_num());
#pragma omp for schedule(dynamic, 512)
        for (int64_t i = 0; i < s->n_points; i++) {
            s->labels_new[i] = nearest_center(s, i, &t);
            changed += s->labels_new[i] != s->labels[i];
        }
    }
    return changed;
}
#endif
