/* Points of a CSR matrix, and their squared distances to centers. Implementation header.
 *
 * |x - c|^2 = |x|^2 - 2 x.s / weight + |c|^2, where s is the sum of the cluster: a move then costs as much as the row
 * has entries. centers_packed holds the sums. */
#ifndef MINSEEK_CLUSTER_SPARSE_H
#define MINSEEK_CLUSTER_SPARSE_H
#include "state.h"

static inline void load_point(const kmeans_state *s, int64_t i, thread_scratch *t) {
    const int64_t row = row_of(s, i), first = s->indptr[row];
    t->n_entries = s->indptr[row + 1] - first;
    t->indices = s->indices + first;
    t->squared_norm = 0;
    for (int64_t j = 0; j < t->n_entries; j++) {
        t->x64[j] = (double)s->x[first + j] * s->scale;
        t->squared_norm += t->x64[j] * t->x64[j];
    }
}

static inline double dot_with_sum(const kmeans_state *s, const thread_scratch *t, int64_t k) {
    const double *sum = s->cluster_sums + k * s->n_features;
    double dot = 0;
    for (int64_t j = 0; j < t->n_entries; j++) dot += t->x64[j] * sum[t->indices[j]];
    return dot;
}

static inline double square_from_dot(const kmeans_state *s, const thread_scratch *t, int64_t k, double dot) {
    return max_f64(0, t->squared_norm - 2 * dot / s->weight_in_clusters[k] + s->centers_squared_norms[k]);
}

/* Squared distance of the loaded point to center k. */
static inline double distance_sq(const kmeans_state *s, const thread_scratch *t, int64_t k) {
    return s->weight_in_clusters[k] > 0 ? square_from_dot(s, t, k, dot_with_sum(s, t, k)) : INFINITY;
}

static inline double exact_distance_sq(const kmeans_state *s, const thread_scratch *t, int64_t k, real packed_sq) {
    (void)s, (void)t, (void)k;
    return packed_sq;
}

/* Squared distances to the centers of one pack. */
static inline void pack_distances_sq(const kmeans_state *s, const thread_scratch *t, int64_t pack, vec out[VECS]) {
    const vec *sums = (const vec *)s->centers_packed + pack * s->n_features * VECS;
    vec dots[VECS];
    UNROLL for (int e = 0; e < VECS; e++) dots[e] = (vec){0};
    for (int64_t j = 0; j < t->n_entries; j++)
        UNROLL for (int e = 0; e < VECS; e++) dots[e] += sums[(int64_t)t->indices[j] * VECS + e] * t->x64[j];
    real dot[PACK];
    memcpy(dot, dots, sizeof(dot));
    for (int l = 0; l < PACK; l++) {
        const int64_t k = pack * PACK + l;
        const int exists = k < s->n_clusters && s->weight_in_clusters[k] > 0;
        dot[l] = exists ? square_from_dot(s, t, k, dot[l]) : INFINITY;
    }
    memcpy(out, dot, sizeof(dot));
}

static inline void tile_distances_sq(const kmeans_state *s, const thread_scratch *t, const int32_t *packs,
                                     vec out[TILE][VECS]) {
    UNROLL for (int q = 0; q < TILE; q++) pack_distances_sq(s, t, packs[q], out[q]);
}

static inline void pack_center(kmeans_state *s, int64_t k) {
    real *lane = s->centers_packed + k / PACK * s->n_features * PACK + k % PACK;
    const double *sum = s->cluster_sums + k * s->n_features;
    for (int64_t j = 0; j < s->n_features; j++) lane[j * PACK] = sum[j];
}

static inline void unpack_center(kmeans_state *s, int64_t k) { (void)s, (void)k; } /* its weight of zero says so */

/* Adds the loaded point to cluster k, `weight` times; a negative weight takes it away. */
static inline void add_to_cluster(kmeans_state *s, const thread_scratch *t, int64_t k, double weight) {
    double *sum = s->cluster_sums + k * s->n_features;
    real *lane = s->centers_packed + k / PACK * s->n_features * PACK + k % PACK;
    for (int64_t j = 0; j < t->n_entries; j++) {
        const int64_t column = t->indices[j];
        sum[column] += weight * t->x64[j];
        lane[column * PACK] = sum[column];
    }
    if (count_point(s, k, weight)) return;
    memset(sum, 0, (size_t)s->n_features * sizeof(double));
    pack_center(s, k);
}

/* Adds the loaded point to cluster k as add_to_cluster does, and updates the center. */
static inline void add_and_update_center(kmeans_state *s, const thread_scratch *t, int64_t k, double weight) {
    const double dot = dot_with_sum(s, t, k), before = s->weight_in_clusters[k];
    const double sum_squared_norm = s->centers_squared_norms[k] * before * before;
    add_to_cluster(s, t, k, weight);
    const double now = s->weight_in_clusters[k];
    const double square = max_f64(0, sum_squared_norm + 2 * weight * dot + weight * weight * t->squared_norm);
    s->centers_squared_norms[k] = square / (now * now);
}
#endif
