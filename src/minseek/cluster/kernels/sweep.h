/* Hartigan's step: a point moves to another cluster where that lowers the loss, and both centers follow at once.
 * Implementation header.
 *
 * Moving weight v from a to b changes the loss by  v [ w_b / (w_b + v) |x - c_b|^2 - w_a / (w_a - v) |x - c_a|^2 ],
 * w being the weights of the clusters. The first term is the cost of joining b, the second the gain of leaving a.
 * Joining b costs at least  v w / (w + v) l^2  when w_b >= w and |x - c_b| >= l, so Lloyd's bounds serve here too. */
#ifndef MINSEEK_CLUSTER_SWEEP_H
#define MINSEEK_CLUSTER_SWEEP_H
#include "bounds.h"

static inline double join_factor(double cluster_weight, double weight) {
    return cluster_weight / (cluster_weight + weight);
}

/* Gain of leaving the own cluster, divided by the point's weight. */
static inline double leave_gain(const kmeans_state *s, int32_t label, double weight, double own_sq) {
    const double cluster_weight = s->weight_in_clusters[label];
    return is_singleton(s, label) ? 0 : own_sq * cluster_weight / (cluster_weight - weight);
}

/* Bits of the centers of a pack that may be joined for at most `limit`: w / (w + v) square <= limit. */
static inline unsigned join_cost_le(const kmeans_state *s, int64_t pack, const vec squares[VECS], double weight,
                                    double limit) {
    const vec *cluster_weights = (const vec *)s->weight_in_clusters_packed + pack * VECS;
    const real factor = (real)(1 - s->error_rel), error_abs = (real)s->error_abs;
    const real real_limit = (real)(limit * (1 + 16 * REAL_EPSILON)), real_weight = (real)weight;
    unsigned bits = 0;
    UNROLL for (int e = 0; e < VECS; e++) {
        const vec w = cluster_weights[e];
        const vec excess = (squares[e] * factor - error_abs) * w - (w + real_weight) * real_limit;
        bits |= OF_REAL(le)(excess, 0) << e * LANES;
    }
    return bits;
}

/* Lists the packs of the groups that changed after `since` and may hold a cluster that can be joined for less than
 * `limit`: w / (w + v) bound^2 < limit, w being the smallest weight in the group. */
static inline int64_t select_cheaper(const kmeans_state *s, int64_t i, thread_scratch *t, double weight, double limit,
                                     int32_t since) {
    const float *lower_bounds = s->lower_bounds + i * s->n_groups;
    const float f32_limit = round_up(limit * (1 + 16 * FLT_EPSILON)), f32_weight = (float)weight;
    for (int64_t g = 0; g < s->n_groups; g++) {
        const float bound = lower_bound_f32(lower_bounds, s->bound_slack, g), w = (float)s->group_min_weight[g];
        const int cheap = (bound <= 0) | (bound * bound * w <= f32_limit * (w + f32_weight));
        t->group_bounds[g] = cheap & (s->group_clock[g] > since) ? -1 : bound;
    }
    return list_packs(s, t);
}

/* False if bounds and packed distances prove that no move of point i gains. Updates its bounds on the way. */
static int may_gain(const kmeans_state *s, int64_t i, thread_scratch *t) {
    const int32_t label = s->labels[i];
    const double weight = weight_of(s, i), own_weight = s->weight_in_clusters[label];
    if (is_singleton(s, label) || s->point_clock[i] == s->clock) return 0;
    /* while the own cluster stays, leaving gains what it did, and only changed clusters need inspection */
    const int32_t since = s->cluster_clock[label] > s->point_clock[i] ? -1 : s->point_clock[i];
    /* own_weight / (own_weight - v) upper^2 <= w / (w + v) lower^2, without divisions */
    const double leave = own_weight * (s->min_weight_all + weight) * (1 + 1e-12);
    const double join = s->min_weight_all * (own_weight - weight);
    const double upper = upper_bound(s, i), lower = max_f64(0, lower_bound_all(s, i));
    if (upper * upper * leave <= lower * lower * join) return 0;
    if (select_cheaper(s, i, t, weight, leave_gain(s, label, weight, upper * upper) * (1 + 1e-12), since) == 0)
        return 0;
    load_point(s, i, t); /* the upper bound does not suffice: the distance itself may */
    const double distance = distance_at_most(s, distance_sq(s, t, label));
    store_upper_bound(s, i, label, distance);
    const double gain = leave_gain(s, label, weight, distance * distance) * (1 + 1e-12);
    const int64_t count = select_cheaper(s, i, t, weight, gain, since);
    if (count == 0) return 0;
    inspect_packs(s, t, count, label);
    unsigned found = 0;
    for (int64_t c = 0; c < count; c++) {
        const int64_t pack = t->packs[c];
        found |= join_cost_le(s, pack, (const vec *)t->packed_sq + pack * VECS, weight, gain);
    }
    store_lower_bounds(s, i, t, -1, 0);
    return found != 0;
}

typedef struct {
    int32_t target; /* -1: no other cluster can be joined */
    double change;  /* of the loss */
} single_move;

/* Best move of the loaded point, in double. */
static single_move best_move(const kmeans_state *s, int64_t i, thread_scratch *t, double own_sq) {
    const int32_t label = s->labels[i];
    const double weight = weight_of(s, i), gain = leave_gain(s, label, weight, own_sq);
    int64_t count = 0;
    for (int64_t p = 0; p < s->n_packs; p++) {
        const int64_t g = p / s->packs_per_group;
        const double bound = lower_bound(s, i, g);
        const double cost = bound <= 0 ? 0 : join_factor(s->group_min_weight[g], weight) * bound * bound;
        if (cost < gain) t->packs[count++] = (int32_t)p;
    }
    inspect_packs(s, t, count, label);
    double lowest = INFINITY;
    int32_t target = -1;
    for (int64_t c = 0; c < count; c++) {
        const int64_t pack = t->packs[c];
        const vec *squares = (const vec *)t->packed_sq + pack * VECS;
        for (unsigned bits = join_cost_le(s, pack, squares, weight, min_f64(gain, lowest)); bits; bits &= bits - 1) {
            const int64_t k = pack * PACK + __builtin_ctz(bits);
            const double square = exact_distance_sq(s, t, k, t->packed_sq[k]);
            const double cost = join_factor(s->weight_in_clusters[k], weight) * square;
            if (cost < lowest) lowest = cost, target = (int32_t)k;
        }
    }
    return (single_move){target, target < 0 ? INFINITY : weight * (lowest - gain)};
}

/* Lets bounds lose what center k has moved within the current block. */
static void count_shift(kmeans_state *s, int64_t k, double shift) {
    const int64_t g = group_of(s, k);
    shift = shift * (1 + 1e-12) + 16 * DBL_EPSILON * s->max_norm;
    s->center_shift_total[k] += shift;
    s->center_shift_block[k] += shift;
    s->group_shift_block[g] = max_f64(s->group_shift_block[g], s->center_shift_block[k]);
    s->shift_block_all = max_f64(s->shift_block_all, s->group_shift_block[g]);
    s->bound_slack[g] = s->group_shift_total[g] + s->group_shift_block[g];
    s->weight_in_clusters_packed[k] = (real)s->weight_in_clusters[k];
    s->cluster_clock[k] = s->group_clock[g] = (int32_t)s->clock;
    refresh_group_min_weight(s, g);
}

/* Moves point i, loaded, to another cluster. All bounds stay valid. */
static void move_point(kmeans_state *s, int64_t i, const thread_scratch *t, double own_sq, int32_t to) {
    const int32_t from = s->labels[i];
    const double weight = weight_of(s, i), from_weight = s->weight_in_clusters[from];
    const double to_weight = s->weight_in_clusters[to];
    const double from_shift = weight * distance_at_most(s, own_sq) / (from_weight - weight);
    double to_shift = 2 * s->max_norm; /* an empty cluster's center may come from anywhere */
    if (to_weight > 0) to_shift = weight * distance_at_most(s, distance_sq(s, t, to)) / (to_weight + weight);
    add_and_update_center(s, t, from, -weight);
    add_and_update_center(s, t, to, weight);
    s->clock++;
    count_shift(s, from, from_shift);
    count_shift(s, to, to_shift);
    refresh_min_weight_all(s);
    s->labels[i] = to;
    s->point_clock[i] = -1;
    store_upper_bound(s, i, to, distance_at_most(s, distance_sq(s, t, to)));
    /* the former center is one of the others from now on */
    const int64_t g = group_of(s, from);
    const double distance = distance_at_least(s, distance_sq(s, t, from));
    float *bound = s->lower_bounds + i * s->n_groups + g, *bound_all = s->lower_bounds_all + i;
    *bound = min_f64(*bound, round_down(distance + s->group_shift_total[g]));
    *bound_all = min_f64(*bound_all, round_down(distance + s->shift_total_all));
}

/* Adds the shifts within a block of points to the totals. */
static void close_block(kmeans_state *s) {
    for (int64_t g = 0; g < s->n_groups; g++) {
        if (s->group_shift_block[g] == 0) continue;
        s->group_shift_total[g] += s->group_shift_block[g];
        s->group_shift_block[g] = 0;
        s->bound_slack[g] = s->group_shift_total[g];
        for (int64_t k = first_cluster(s, g); k < end_cluster(s, g); k++) s->center_shift_block[k] = 0;
    }
    s->shift_total_all += s->shift_block_all;
    s->shift_block_all = 0;
}

/* Lists in s->flagged the points from `first` to `end` that may gain by a move; the centers stay. */
static int64_t flag_block(kmeans_state *s, int64_t first, int64_t end) {
#pragma omp parallel num_threads(s->n_threads)
    {
        thread_scratch t = scratch_of(s, omp_get_thread_num());
#pragma omp for schedule(dynamic, 128)
        for (int64_t i = first; i < end; i++) {
            s->may_gain[i - first] = (unsigned char)may_gain(s, i, &t);
            if (!s->may_gain[i - first]) s->point_clock[i] = (int32_t)s->clock;
        }
    }
    int64_t count = 0;
    for (int64_t i = first; i < end; i++)
        if (s->may_gain[i - first]) s->flagged[count++] = i;
    return count;
}

/* One sweep over all points; returns how many moved. All threads inspect a block of points with the centers as they
 * are; then the flagged ones move one by one, each against the current centers. Threads change nothing but the time. */
int64_t sweep(kmeans_state *s) {
    thread_scratch t = scratch_of(s, 0);
    int64_t moves = 0;
    refresh_weights(s);
    refresh_bound_slack(s);
    for (int64_t b = 0; b < n_blocks(s); b++) {
        const int64_t count = flag_block(s, b * BLOCK, block_end(s, b)), moves_before = moves;
        for (int64_t f = 0; f < count; f++) {
            const int64_t i = s->flagged[f];
            const int32_t label = s->labels[i];
            if (is_singleton(s, label)) continue;
            load_point(s, i, &t);
            const double own_sq = distance_sq(s, &t, label);
            const single_move move = best_move(s, i, &t, own_sq);
            s->point_clock[i] = (int32_t)s->clock;
            if (move.target < 0 || !(move.change < -s->tolerance)) continue;
            move_point(s, i, &t, own_sq, move.target);
            moves++;
        }
        if (moves > moves_before) close_block(s);
    }
    return moves;
}
#endif
