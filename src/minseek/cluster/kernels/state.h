/* Everything the k-means kernels work on: points, clusters, and bounds on distances that need not be computed.
 *
 * The data are read in place (an array, a memory-mapped file, a CSR matrix). Loading a point subtracts the origin and
 * multiplies by a power of two, in double; x_real is the same in `real`, for packed distances. Bounds are those of
 * Elkan (upper), Hamerly (lower, all clusters) and Yinyang (lower, a group of clusters). They are never updated when
 * centers move: shifts are summed up instead, and subtracted when a bound is read.
 *
 * Compiled once per kind of data: -DDATA_DOUBLE for float64, -DSPARSE for CSR. Implementation header. */
#ifndef MINSEEK_CLUSTER_STATE_H
#define MINSEEK_CLUSTER_STATE_H
#include "pack.h"
#include <omp.h>
#include <stdlib.h>

#define BLOCK 4096 /* points that a sweep inspects before any of them moves; points whose sums are added in order */

/* Mirrored field by field in kmeans_state.py. Sizes: n points, d features, k clusters, p packs of 16 centers,
 * g groups of packs_per_group packs, b blocks of points. */
typedef struct {
    int64_t n_points, n_features, n_clusters, n_packs, n_groups, packs_per_group, n_threads;
    int64_t clock;                     /* moves so far */
    int64_t scratch_bytes;             /* of one thread */
    double scale;                      /* a power of two */
    double max_norm;                   /* no loaded point or center is farther from the origin */
    double error_rel, error_abs;       /* a packed square q proves that the true one >= (1 - error_rel) q - error_abs */
    double f64_error;                  /* of a square in double; zero except for CSR, where terms cancel */
    double shift_total_all;            /* group_shift_total, over all groups */
    double shift_block_all;            /* group_shift_block, over all groups */
    double min_weight_all;             /* group_min_weight, over all groups */
    double tolerance;                  /* a move must lower the loss by more than this */
    const value *x;                    /* [n, d], or the values of a CSR matrix */
    const int32_t *indices;            /* CSR */
    const int64_t *indptr;             /* CSR */
    const int64_t *row_ids;            /* [n] row of x that holds a point; NULL: in order */
    const double *sample_weight;       /* [n]; NULL: one each */
    const double *origin;              /* [d]; NULL: zero */
    int32_t *labels;                   /* [n]; -1: none yet */
    int32_t *labels_new;               /* [n] written by `assign` */
    double *cluster_sums;              /* [k, d] weighted sums of the points */
    double *weight_in_clusters;        /* [k] */
    int64_t *cluster_counts;           /* [k] points */
    double *centers;                   /* [k, d] */
    double *centers_squared_norms;     /* [16 p]; CSR only */
    real *centers_packed;              /* [p, d, 16] centers (CSR: cluster sums), 16 side by side */
    real *weight_in_clusters_packed;   /* [16 p]; 1 where there is no center */
    float *upper_bounds;               /* [n] distance to the own center <= upper + center_shift_total[label] */
    float *lower_bounds;               /* [n, g] distance to any other center of the group >= lower - bound_slack */
    float *lower_bounds_all;           /* [n] the same for all groups: lower - shift_total_all - shift_block_all */
    int32_t *point_clock;              /* [n] clock when no move of the point gained; -1: not known any more */
    int32_t *cluster_clock;            /* [k] clock of the last change of the cluster */
    int32_t *group_clock;              /* [g] clock of the last change in the group */
    double *center_shift_total;        /* [k] distance that each center has moved in all */
    double *center_shift_block;        /* [k] distance since the current block of points began */
    double *group_shift_total;         /* [g] sum over blocks of the longest shift in the group */
    double *group_shift_block;         /* [g] longest shift since the current block began */
    double *bound_slack;               /* [g] group_shift_total + group_shift_block */
    double *group_min_weight;          /* [g] smallest weight of a cluster of the group */
    int32_t *move_target;              /* [n] cluster of the best move; written by `scan_moves`, as the next three */
    double *move_change;               /* [n] change of the loss by that move */
    double *gap;                       /* [n] squared distance to the nearest other center minus that to the own */
    int32_t *nearest_other;            /* [n] that other center */
    double *distances_sq;              /* [n] to the own center, written by `inertia`; or NULL */
    double *block_sums;                /* [b, 16] */
    int64_t *flagged;                  /* [BLOCK] points that may gain by a move */
    unsigned char *may_gain;           /* [BLOCK] */
    char *scratch;                     /* [n_threads, scratch_bytes] */
} kmeans_state;

/* Memory of one thread. */
typedef struct {
    double *x64;            /* [d] the loaded point; CSR: the scaled values of its row */
    real *x_real;           /* [d] the same for packed distances */
    const int32_t *indices; /* CSR: columns of x64 */
    int64_t n_entries;      /* CSR */
    double squared_norm;    /* CSR */
    real *packed_sq;        /* [16 p] squared distances to the centers of the inspected packs */
    float *group_bounds;    /* [g] current lower bounds; -1: to be inspected */
    real *pack_min;         /* [p] smallest square in a pack, the own center left out; later of a group, [g] */
    int32_t *packs;         /* [p] packs to inspect */
} thread_scratch;

static inline double max_f64(double a, double b) { return a > b ? a : b; }
static inline double min_f64(double a, double b) { return a < b ? a : b; }
static inline int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }

static inline double weight_of(const kmeans_state *s, int64_t i) { return s->sample_weight ? s->sample_weight[i] : 1; }
static inline int64_t row_of(const kmeans_state *s, int64_t i) { return s->row_ids ? s->row_ids[i] : i; }
static inline int is_singleton(const kmeans_state *s, int32_t k) { return s->cluster_counts[k] == 1; }
static inline int64_t n_blocks(const kmeans_state *s) { return (s->n_points + BLOCK - 1) / BLOCK; }
static inline int64_t block_end(const kmeans_state *s, int64_t b) { return min_i64((b + 1) * BLOCK, s->n_points); }

/* Groups: that of a cluster, and the packs and clusters of a group. */
static inline int64_t group_of(const kmeans_state *s, int64_t k) { return k / PACK / s->packs_per_group; }
static inline int64_t first_pack(const kmeans_state *s, int64_t g) { return g * s->packs_per_group; }
static inline int64_t end_pack(const kmeans_state *s, int64_t g) { return min_i64(first_pack(s, g + 1), s->n_packs); }
static inline int64_t first_cluster(const kmeans_state *s, int64_t g) { return first_pack(s, g) * PACK; }
static inline int64_t end_cluster(const kmeans_state *s, int64_t g) {
    return min_i64(first_cluster(s, g + 1), s->n_clusters);
}

/* Counts one point more (weight > 0) or less in cluster k; false if none is left. */
static inline int count_point(kmeans_state *s, int64_t k, double weight) {
    s->cluster_counts[k] += weight > 0 ? 1 : -1;
    s->weight_in_clusters[k] = s->cluster_counts[k] ? s->weight_in_clusters[k] + weight : 0;
    return s->cluster_counts[k] != 0;
}

/* Bounds are kept as floats, rounded to the safe side. */
static inline float round_down(double v) { return v > 3e38 ? 3e38f : (float)(v - fabs(v) * 1.2e-7 - 1e-37); }
static inline float round_up(double v) { return (float)(v + fabs(v) * 1.2e-7 + 1e-37); }

/* Cuts one thread's scratch into its arrays, beginning at `memory`, and returns where they end. */
static inline char *scratch_layout(const kmeans_state *s, char *memory, thread_scratch *t) {
    const size_t d = (size_t)s->n_features, p = (size_t)s->n_packs, g = (size_t)s->n_groups;
#define CUT(field, count)                                                                                              \
    t->field = (void *)memory, memory += (((size_t)(count) * sizeof(*t->field)) + 127) / 64 * 64
    CUT(x64, d);
    CUT(x_real, d);
    CUT(packed_sq, p * PACK);
    CUT(group_bounds, g);
    CUT(pack_min, p + 4);
    CUT(packs, p + 4);
#undef CUT
    return memory;
}
static inline thread_scratch scratch_of(const kmeans_state *s, int thread) {
    thread_scratch t = {0};
    scratch_layout(s, s->scratch + thread * s->scratch_bytes, &t);
    return t;
}
#endif
