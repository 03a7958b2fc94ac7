/* Nearest centers and distances of rows that the centers were not fitted to: decided in double precision, one row
 * independent of the others. Implementation header. */
#ifndef MINSEEK_CLUSTER_NEAREST_H
#define MINSEEK_CLUSTER_NEAREST_H
#include "distances.h"

#define OUTSIDE 4.0  /* times max_norm: packed distances of rows farther than this are not precise enough */
#define FAR 1048576. /* times max_norm: rows farther than this are left to the caller; squares could overflow */

static inline double loaded_squared_norm(const kmeans_state *s, const thread_scratch *t) {
#ifdef SPARSE
    (void)s;
    return t->squared_norm;
#else
    double sum = 0;
    for (int64_t j = 0; j < s->n_features; j++) sum += t->x64[j] * t->x64[j];
    return sum;
#endif
}
/* NaN is far. */
static inline int is_far(const kmeans_state *s, double squared_norm) {
    const double limit = FAR * s->max_norm;
    return !(squared_norm <= limit * limit);
}

static int32_t nearest_of_all(const kmeans_state *s, const thread_scratch *t, double *nearest_sq) {
    int32_t nearest = 0;
    *nearest_sq = INFINITY;
    for (int64_t k = 0; k < s->n_clusters; k++) {
        const double square = distance_sq(s, t, k);
        if (square < *nearest_sq) *nearest_sq = square, nearest = (int32_t)k;
    }
    return nearest;
}

/* Packed distances leave a few candidates, which are compared in double; the first of equally near ones. */
static int32_t nearest_of_candidates(const kmeans_state *s, thread_scratch *t, double *nearest_sq) {
    for (int64_t p = 0; p < s->n_packs; p++) t->packs[p] = (int32_t)p;
    inspect_packs(s, t, s->n_packs, -1);
    real smallest = (real)INFINITY;
    for (int64_t p = 0; p < s->n_packs; p++) smallest = t->pack_min[p] < smallest ? t->pack_min[p] : smallest;
    /* outside max_norm rounding errors grow with the square of the norm */
    const double allowance = 4 * s->error_abs * OUTSIDE * OUTSIDE + 4 * s->f64_error;
    const real limit = (real)((double)smallest * (1 + max_f64(1e-3, 3 * s->error_rel)) + allowance);
    int32_t nearest = 0;
    *nearest_sq = INFINITY;
    for (int64_t p = 0; p < s->n_packs; p++) {
        const vec *squares = (const vec *)t->packed_sq + p * VECS;
        for (unsigned bits = pack_le(squares, limit); bits; bits &= bits - 1) {
            const int64_t k = p * PACK + __builtin_ctz(bits);
            if (k >= s->n_clusters) continue;
            const double square = distance_sq(s, t, k);
            if (square < *nearest_sq) *nearest_sq = square, nearest = (int32_t)k;
        }
    }
    return nearest;
}

/* Writes labels_new and distances_sq; -1 for far rows. Returns how many are far. */
int64_t nearest(kmeans_state *s) {
    int64_t far_rows = 0;
#pragma omp parallel num_threads(s->n_threads) reduction(+ : far_rows)
    {
        thread_scratch t = scratch_of(s, omp_get_thread_num());
#pragma omp for schedule(dynamic, 512)
        for (int64_t i = 0; i < s->n_points; i++) {
            load_point(s, i, &t);
            const double squared_norm = loaded_squared_norm(s, &t), inside = OUTSIDE * s->max_norm;
            if (is_far(s, squared_norm))
                s->labels_new[i] = -1, s->distances_sq[i] = -1, far_rows++;
            else if (squared_norm <= inside * inside)
                s->labels_new[i] = nearest_of_candidates(s, &t, s->distances_sq + i);
            else
                s->labels_new[i] = nearest_of_all(s, &t, s->distances_sq + i);
        }
    }
    return far_rows;
}

/* Squared distances of points first ... first + count - 1 to every center, [count, k]; -1 for far rows. */
void pairwise_distances_sq(kmeans_state *s, int64_t first, int64_t count, double *out) {
#pragma omp parallel num_threads(s->n_threads)
    {
        thread_scratch t = scratch_of(s, omp_get_thread_num());
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count; i++) {
            load_point(s, first + i, &t);
            const int far_row = is_far(s, loaded_squared_norm(s, &t));
            for (int64_t k = 0; k < s->n_clusters; k++)
                out[i * s->n_clusters + k] = far_row ? -1 : distance_sq(s, &t, k);
        }
    }
}
#endif
