/* Lower bounds on distances to groups of centers (Yinyang k-means, Ding et al., ICML 2015). Implementation header. */
#ifndef MINSEEK_CLUSTER_BOUNDS_H
#define MINSEEK_CLUSTER_BOUNDS_H
#include "distances.h"

static inline double upper_bound(const kmeans_state *s, int64_t i) {
    return (double)s->upper_bounds[i] + s->center_shift_total[s->labels[i]];
}
static inline void store_upper_bound(const kmeans_state *s, int64_t i, int32_t label, double distance) {
    s->upper_bounds[i] = round_up(distance - s->center_shift_total[label]);
}
static inline double lower_bound(const kmeans_state *s, int64_t i, int64_t g) {
    return (double)s->lower_bounds[i * s->n_groups + g] - s->bound_slack[g];
}
static inline double lower_bound_all(const kmeans_state *s, int64_t i) {
    return (double)s->lower_bounds_all[i] - s->shift_total_all;
}
/* Stored as if no center had moved in the current block of points, which is the safe side. */
static inline void store_lower_bound_all(const kmeans_state *s, int64_t i, double distance) {
    s->lower_bounds_all[i] = round_down(distance + s->shift_total_all);
}

/* Lower bound of a group as a float, rounded down. */
static inline float lower_bound_f32(const float *lower_bounds, const double *bound_slack, int64_t g) {
    const float bound = (float)((double)lower_bounds[g] - bound_slack[g]);
    return bound - fabsf(bound) * 1.2e-7f;
}

/* Lists in t->packs the packs of the groups whose group_bounds is -1. */
static inline int64_t list_packs(const kmeans_state *s, thread_scratch *t) {
    int64_t count = 0;
    if (s->packs_per_group == 1) /* without branches: which groups are near cannot be predicted */
        for (int64_t g = 0; g < s->n_groups; g++) {
            t->packs[count] = (int32_t)g;
            count += t->group_bounds[g] == -1;
        }
    else
        for (int64_t g = 0; g < s->n_groups; g++)
            if (t->group_bounds[g] == -1)
                for (int64_t p = first_pack(s, g); p < end_pack(s, g); p++) t->packs[count++] = (int32_t)p;
    return count;
}

/* Marks the groups that may hold a center nearer than `limit` by -1 in group_bounds; bounds of the others. */
static inline void mark_nearer(const float *restrict lower_bounds, const double *restrict bound_slack, int64_t n_groups,
                               float limit, float *restrict group_bounds) {
    for (int64_t g = 0; g < n_groups; g++) {
        const float bound = lower_bound_f32(lower_bounds, bound_slack, g);
        group_bounds[g] = bound < limit ? -1 : bound;
    }
}

/* Lists the packs that may hold a center nearer than `distance`. */
static inline int64_t select_nearer(const kmeans_state *s, int64_t i, thread_scratch *t, double distance) {
    mark_nearer(s->lower_bounds + i * s->n_groups, s->bound_slack, s->n_groups, round_up(distance), t->group_bounds);
    return list_packs(s, t);
}

/* pack_min[g] = smallest of the packs of group g. */
static inline void reduce_packs_to_groups(const kmeans_state *s, thread_scratch *t) {
    for (int64_t g = 0; g < s->n_groups; g++) {
        real smallest = t->pack_min[first_pack(s, g)];
        for (int64_t p = first_pack(s, g) + 1; p < end_pack(s, g); p++)
            smallest = t->pack_min[p] < smallest ? t->pack_min[p] : smallest;
        t->pack_min[g] = smallest;
    }
}

/* Stores the lower bounds that inspecting packs has shown. A former own center, if former_label >= 0, is one of the
 * others from now on, at squared distance former_sq. */
static inline void store_lower_bounds(const kmeans_state *s, int64_t i, thread_scratch *t, int32_t former_label,
                                      double former_sq) {
    if (s->packs_per_group > 1) reduce_packs_to_groups(s, t);
    float *restrict lower_bounds = s->lower_bounds + i * s->n_groups, *restrict group_bounds = t->group_bounds;
    const double *restrict shift_total = s->group_shift_total;
    const real *restrict group_min = t->pack_min;
    const float factor = (float)(1 - s->error_rel) * (1 - 4 * FLT_EPSILON);
    const float error_abs = (float)s->error_abs * (1 + 4 * FLT_EPSILON);
    const int64_t n_groups = s->n_groups;
    for (int64_t g = 0; g < n_groups; g++) {
        const float square = (float)group_min[g] * factor - error_abs;
        const float distance = sqrtf(square > 0 ? square : 0) * (1 - 4 * FLT_EPSILON);
        group_bounds[g] = group_bounds[g] == -1 ? distance : group_bounds[g];
    }
    if (former_label >= 0) {
        const int64_t g = group_of(s, former_label);
        group_bounds[g] = round_down(min_f64(group_bounds[g], distance_at_least(s, former_sq)));
    }
    float smallest[4] = {FLT_MAX, FLT_MAX, FLT_MAX, FLT_MAX};
    for (int64_t g = 0; g < n_groups; g++)
        smallest[g & 3] = group_bounds[g] < smallest[g & 3] ? group_bounds[g] : smallest[g & 3];
    for (int64_t g = 0; g < n_groups; g++) {
        const float bound = group_bounds[g] < 3e38f ? group_bounds[g] : 3e38f;
        lower_bounds[g] = (bound + (float)shift_total[g]) * (1 - 4 * FLT_EPSILON) - 1e-37f;
    }
    store_lower_bound_all(s, i, min_f64(min_f64(smallest[0], smallest[1]), min_f64(smallest[2], smallest[3])));
}

static void refresh_bound_slack(kmeans_state *s) {
    for (int64_t g = 0; g < s->n_groups; g++) s->bound_slack[g] = s->group_shift_total[g] + s->group_shift_block[g];
}

static inline void refresh_group_min_weight(kmeans_state *s, int64_t g) {
    double smallest = INFINITY;
    for (int64_t k = first_cluster(s, g); k < end_cluster(s, g); k++)
        smallest = min_f64(smallest, s->weight_in_clusters[k]);
    s->group_min_weight[g] = smallest;
}
static inline void refresh_min_weight_all(kmeans_state *s) {
    s->min_weight_all = INFINITY;
    for (int64_t g = 0; g < s->n_groups; g++) s->min_weight_all = min_f64(s->min_weight_all, s->group_min_weight[g]);
}

static void refresh_weights(kmeans_state *s) {
    for (int64_t k = 0; k < s->n_packs * PACK; k++)
        s->weight_in_clusters_packed[k] = k < s->n_clusters ? (real)s->weight_in_clusters[k] : 1;
    for (int64_t g = 0; g < s->n_groups; g++) refresh_group_min_weight(s, g);
    refresh_min_weight_all(s);
}
#endif
