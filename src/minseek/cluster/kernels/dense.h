/* Points of an array, and their squared distances to centers. Implementation header. */
#ifndef MINSEEK_CLUSTER_DENSE_H
#define MINSEEK_CLUSTER_DENSE_H
#include "state.h"

static inline void load_point(const kmeans_state *s, int64_t i, thread_scratch *t) {
    const int64_t d = s->n_features;
    const value *restrict x = s->x + row_of(s, i) * d;
    const double *restrict origin = s->origin, scale = s->scale;
    double *restrict x64 = t->x64;
    if (origin)
        for (int64_t j = 0; j < d; j++) x64[j] = ((double)x[j] - origin[j]) * scale;
    else
        for (int64_t j = 0; j < d; j++) x64[j] = (double)x[j] * scale;
#if REAL_IS_FLOAT
    real *restrict x_real = t->x_real;
    for (int64_t j = 0; j < d; j++) x_real[j] = (real)x64[j];
#else
    t->x_real = t->x64;
#endif
}

/* Squared distance of the loaded point to center k, in double. */
static inline double distance_sq(const kmeans_state *s, const thread_scratch *t, int64_t k) {
    const double *c = s->centers + k * s->n_features, *x = t->x64;
    f64_vec total[F64_VECS];
    UNROLL for (int e = 0; e < F64_VECS; e++) total[e] = (f64_vec){0};
    int64_t j = 0;
    for (; j + 8 <= s->n_features; j += 8)
        UNROLL for (int e = 0; e < F64_VECS; e++) {
            const int64_t feature = j + e * F64_LANES;
            const f64_vec difference = *(const f64_vec_u *)(x + feature) - *(const f64_vec_u *)(c + feature);
            total[e] += difference * difference;
        }
    double rest = 0;
    for (; j < s->n_features; j++) rest += (x[j] - c[j]) * (x[j] - c[j]);
    return f64_sum8(total) + rest;
}

/* Squared distances to the centers of one pack. Sums of even and of odd features do not wait for each other. */
static inline void pack_distances_sq(const kmeans_state *s, const thread_scratch *t, int64_t pack, vec out[VECS]) {
    const vec *c = (const vec *)s->centers_packed + pack * s->n_features * VECS;
    const real *x = t->x_real;
    const int64_t d = s->n_features;
    vec even[VECS], odd[VECS];
    UNROLL for (int e = 0; e < VECS; e++) even[e] = odd[e] = (vec){0};
    int64_t j = 0;
    if (VECS < 8) /* else one sum of each takes half of all registers */
        for (; j + 2 <= d; j += 2)
            UNROLL for (int e = 0; e < VECS; e++) {
                const vec p = x[j] - c[j * VECS + e], q = x[j + 1] - c[(j + 1) * VECS + e];
                even[e] += p * p;
                odd[e] += q * q;
            }
    for (; j < d; j++)
        UNROLL for (int e = 0; e < VECS; e++) {
            const vec p = x[j] - c[j * VECS + e];
            even[e] += p * p;
        }
    UNROLL for (int e = 0; e < VECS; e++) out[e] = even[e] + odd[e];
}

/* Squared distances to the centers of TILE packs at once. */
static inline void tile_distances_sq(const kmeans_state *s, const thread_scratch *t, const int32_t *packs,
                                     vec out[TILE][VECS]) {
    const vec *c[TILE];
    const real *x = t->x_real;
    vec total[TILE][VECS];
    UNROLL for (int q = 0; q < TILE; q++) {
        c[q] = (const vec *)s->centers_packed + packs[q] * s->n_features * VECS;
        UNROLL for (int e = 0; e < VECS; e++) total[q][e] = (vec){0};
    }
    for (int64_t j = 0; j < s->n_features; j++) {
        const vec xj = OF_REAL(all)(x[j]);
        UNROLL for (int q = 0; q < TILE; q++)
            UNROLL for (int e = 0; e < VECS; e++) {
                const vec difference = xj - c[q][j * VECS + e];
                total[q][e] += difference * difference;
            }
    }
    memcpy(out, total, sizeof(total));
}

/* Packed squared distances in double precision. */
static inline double exact_distance_sq(const kmeans_state *s, const thread_scratch *t, int64_t k, real packed_sq) {
    return REAL_IS_FLOAT ? distance_sq(s, t, k) : packed_sq;
}

static inline void pack_center(kmeans_state *s, int64_t k) {
    real *lane = s->centers_packed + k / PACK * s->n_features * PACK + k % PACK;
    const double *c = s->centers + k * s->n_features;
    for (int64_t j = 0; j < s->n_features; j++) lane[j * PACK] = (real)c[j];
}

/* Nothing is near a center that does not exist. */
static inline void unpack_center(kmeans_state *s, int64_t k) {
    real *lane = s->centers_packed + k / PACK * s->n_features * PACK + k % PACK;
    for (int64_t j = 0; j < s->n_features; j++) lane[j * PACK] = (real)INFINITY;
}

/* Adds the loaded point to cluster k, `weight` times; a negative weight takes it away. */
static inline void add_to_cluster(kmeans_state *s, const thread_scratch *t, int64_t k, double weight) {
    double *restrict sum = s->cluster_sums + k * s->n_features;
    const double *restrict x = t->x64;
    for (int64_t j = 0; j < s->n_features; j++) sum[j] += weight * x[j];
    if (count_point(s, k, weight)) return;
    memset(sum, 0, (size_t)s->n_features * sizeof(double)); /* nothing is left, not even rounding errors */
}

/* Adds the loaded point to cluster k as add_to_cluster does, and updates the center. */
static inline void add_and_update_center(kmeans_state *s, const thread_scratch *t, int64_t k, double weight) {
    const double *sum = s->cluster_sums + k * s->n_features;
    double *c = s->centers + k * s->n_features;
    add_to_cluster(s, t, k, weight);
    for (int64_t j = 0; j < s->n_features; j++) c[j] = sum[j] / s->weight_in_clusters[k];
    pack_center(s, k);
}
#endif
