/* Lloyd's update step: sums, weights and means of the clusters. Implementation header. */
#ifndef MINSEEK_CLUSTER_UPDATE_H
#define MINSEEK_CLUSTER_UPDATE_H
#include "bounds.h"

/* Moves the points to labels_new, with their weights. Serial, so that the number of threads changes nothing. */
void apply_assignment(kmeans_state *s) {
    thread_scratch t = scratch_of(s, 0);
    for (int64_t i = 0; i < s->n_points; i++) {
        const int32_t from = s->labels[i], to = s->labels_new[i];
        if (from == to) continue;
        load_point(s, i, &t);
        if (from >= 0) add_to_cluster(s, &t, from, -weight_of(s, i));
        add_to_cluster(s, &t, to, weight_of(s, i));
        s->labels[i] = to;
    }
}

/* Sums and weights of the clusters from the labels alone. */
void recompute_sums(kmeans_state *s) {
    thread_scratch t = scratch_of(s, 0);
    memset(s->cluster_sums, 0, (size_t)(s->n_clusters * s->n_features) * sizeof(double));
    memset(s->weight_in_clusters, 0, (size_t)s->n_clusters * sizeof(double));
    memset(s->cluster_counts, 0, (size_t)s->n_clusters * sizeof(int64_t));
#ifdef SPARSE
    memset(s->centers_packed, 0, (size_t)(s->n_packs * PACK * s->n_features) * sizeof(real));
#endif
    for (int64_t i = 0; i < s->n_points; i++) {
        load_point(s, i, &t);
        add_to_cluster(s, &t, s->labels[i], weight_of(s, i));
    }
}

/* Moves center k to the mean of its cluster and returns the distance, rounded up. */
static double update_center(kmeans_state *s, int64_t k) {
    double *c = s->centers + k * s->n_features, *sum = s->cluster_sums + k * s->n_features;
    double shift_sq = 0, squared_norm = 0;
    for (int64_t j = 0; j < s->n_features; j++) {
        const double mean = sum[j] / s->weight_in_clusters[k];
        shift_sq += (mean - c[j]) * (mean - c[j]);
        squared_norm += mean * mean;
        c[j] = mean;
    }
    if (s->centers_squared_norms) s->centers_squared_norms[k] = squared_norm;
    return sqrt(shift_sq) * (1 + 1e-12);
}

/* Moves every center to its mean; bounds lose what the centers move. A cluster without points keeps its center, but no
 * point is compared with it. */
void update_centers(kmeans_state *s) {
    double longest_all = 0;
    for (int64_t g = 0; g < s->n_groups; g++) {
        double longest = 0;
        for (int64_t k = first_cluster(s, g); k < end_cluster(s, g); k++) {
            if (!(s->weight_in_clusters[k] > 0)) {
                unpack_center(s, k);
                continue;
            }
            const double shift = update_center(s, k);
            s->center_shift_total[k] += shift;
            longest = max_f64(longest, shift);
#ifndef SPARSE
            pack_center(s, k);
#endif
        }
        s->group_shift_total[g] += longest;
        longest_all = max_f64(longest_all, longest);
    }
    s->shift_total_all += longest_all;
    memset(s->point_clock, 0xff, (size_t)s->n_points * sizeof(int32_t)); /* -1 */
    refresh_weights(s);
}

/* All centers into the packed layout; lanes without a center are infinitely far. */
void pack_centers(kmeans_state *s) {
    const int64_t count = s->n_packs * PACK * s->n_features;
#ifdef SPARSE
    memset(s->centers_packed, 0, (size_t)count * sizeof(real));
#else
    for (int64_t j = 0; j < count; j++) s->centers_packed[j] = (real)INFINITY;
#endif
    for (int64_t k = 0; k < s->n_clusters; k++) pack_center(s, k);
}

/* Sum of weighted squared distances to the own centers. Blocks are added in order, so that the number of threads
 * changes nothing. */
double inertia(kmeans_state *s) {
#pragma omp parallel num_threads(s->n_threads)
    {
        thread_scratch t = scratch_of(s, omp_get_thread_num());
#pragma omp for schedule(dynamic, 1)
        for (int64_t b = 0; b < n_blocks(s); b++) {
            double sum = 0;
            for (int64_t i = b * BLOCK; i < block_end(s, b); i++) {
                load_point(s, i, &t);
                const double square = distance_sq(s, &t, s->labels[i]);
                sum += weight_of(s, i) * square;
                if (s->distances_sq) s->distances_sq[i] = square;
            }
            s->block_sums[b] = sum;
        }
    }
    double total = 0;
    for (int64_t b = 0; b < n_blocks(s); b++) total += s->block_sums[b];
    return total;
}
#endif
