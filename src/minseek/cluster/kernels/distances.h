/* Distances of the loaded point to the packs that bounds could not rule out. Implementation header. */
#ifndef MINSEEK_CLUSTER_DISTANCES_H
#define MINSEEK_CLUSTER_DISTANCES_H
#ifdef SPARSE
#include "sparse.h"
#else
#include "dense.h"
#endif

/* Lower bound on a true squared distance, given the packed one. */
static inline double least_sq(const kmeans_state *s, double packed_sq) {
    return max_f64(0, packed_sq * (1 - s->error_rel) - s->error_abs);
}

/* Bounds on a true distance from its square in double, safe against rounding of the center too. */
static inline double distance_at_most(const kmeans_state *s, double square) {
    return sqrt(square + s->f64_error) * (1 + 1e-12) + 8 * DBL_EPSILON * s->max_norm;
}
static inline double distance_at_least(const kmeans_state *s, double square) {
    return max_f64(0, sqrt(max_f64(0, square - s->f64_error)) * (1 - 1e-12) - 8 * DBL_EPSILON * s->max_norm);
}

/* Bit of cluster k within a pack; 0 if it is in another one. */
static inline unsigned lane_bit(int32_t k, int64_t pack) { return k >= 0 && k / PACK == pack ? 1u << k % PACK : 0; }

/* Fills packed_sq and pack_min for the first `count` of t->packs; the own center (`label`) counts as infinitely far. */
static __attribute__((noinline)) void inspect_packs(const kmeans_state *s, thread_scratch *t, int64_t count,
                                                    int32_t label) {
    int64_t c = 0;
    if (TILE > 1)
        for (; c + TILE <= count; c += TILE) {
            const int32_t *packs = t->packs + c;
            vec out[TILE][VECS];
            real smallest[TILE];
            tile_distances_sq(s, t, packs, out);
            UNROLL for (int q = 0; q < TILE; q++) pack_set_inf(out[q], lane_bit(label, packs[q]));
            tile_hmin(out, smallest);
            UNROLL for (int q = 0; q < TILE; q++) {
                memcpy(t->packed_sq + packs[q] * PACK, out[q], sizeof(out[q]));
                t->pack_min[packs[q]] = smallest[q];
            }
        }
    for (; c < count; c++) {
        const int64_t pack = t->packs[c];
        vec out[VECS];
        pack_distances_sq(s, t, pack, out);
        pack_set_inf(out, lane_bit(label, pack));
        memcpy(t->packed_sq + pack * PACK, out, sizeof(out));
        t->pack_min[pack] = pack_hmin(out);
    }
}
#endif
