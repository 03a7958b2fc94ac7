/* k-means++: the cost of each of up to 16 candidates for the next center. Implementation header. */
#ifndef MINSEEK_CLUSTER_INIT_H
#define MINSEEK_CLUSTER_INIT_H
#include "distances.h"

/* costs[c] = sum over points of weight * min(closest_sq, squared distance to candidate c). Candidates are the centers,
 * at most 16. Blocks are added in order, so that the number of threads changes nothing. */
void candidate_costs(kmeans_state *s, const double *closest_sq, double *costs) {
#pragma omp parallel num_threads(s->n_threads)
    {
        thread_scratch t = scratch_of(s, omp_get_thread_num());
#pragma omp for schedule(dynamic, 1)
        for (int64_t b = 0; b < n_blocks(s); b++) {
            double *sums = s->block_sums + b * PACK;
            memset(sums, 0, PACK * sizeof(double));
            for (int64_t i = b * BLOCK; i < block_end(s, b); i++) {
                const double weight = weight_of(s, i), closest = closest_sq[i];
                load_point(s, i, &t);
                t.packs[0] = 0;
                inspect_packs(s, &t, 1, -1);
                for (int l = 0; l < PACK; l++) sums[l] += weight * min_f64((double)t.packed_sq[l], closest);
            }
        }
    }
    memset(costs, 0, PACK * sizeof(double));
    for (int64_t b = 0; b < n_blocks(s); b++)
        for (int l = 0; l < PACK; l++) costs[l] += s->block_sums[b * PACK + l];
}

/* closest_sq = min(closest_sq, squared distance to the first center). */
void add_center(kmeans_state *s, double *closest_sq) {
#pragma omp parallel num_threads(s->n_threads)
    {
        thread_scratch t = scratch_of(s, omp_get_thread_num());
#pragma omp for schedule(dynamic, BLOCK)
        for (int64_t i = 0; i < s->n_points; i++) {
            load_point(s, i, &t);
            closest_sq[i] = min_f64(closest_sq[i], distance_sq(s, &t, 0));
        }
    }
}
#endif
