/* What every kernel of the k-means works on: points, centres, and what is known of distances without computing them.
 *
 * The data are read where they lie (an array, a memory-mapped file, a CSR matrix). A point is staged: origin subtracted, multiplied by a
 * power of two, in double; the same in `calc` for the wide products. Compiled once for each kind of data: -DDATA=float or double, -DSPARSE. */
#ifndef MINSEEK_CLUSTER_WORK_H
#define MINSEEK_CLUSTER_WORK_H
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define GROUP 16 /* centres that are computed with at a time */
#if defined(SPARSE) || defined(DATA_DOUBLE)
typedef double calc;
#define UNIT DBL_EPSILON
#define UNIT_IS_FLOAT 0
#else
typedef float calc;
#define UNIT FLT_EPSILON
#define UNIT_IS_FLOAT 1
#endif
#ifdef DATA_DOUBLE
typedef double data;
#else
typedef float data;
#endif
#define PER_VEC (64 / (int)sizeof(calc))
#define VECS (GROUP / PER_VEC) /* registers for a group */
typedef calc vec __attribute__((vector_size(64)));
typedef double wide __attribute__((vector_size(64), aligned(8), may_alias)); /* eight doubles wherever they lie */

/* Mirrored field by field in work.py. Sizes: n points, d columns, k centres, g groups of 16 centres, s spans of groups. */
typedef struct {
    int64_t points, dims, clusters, groups, spans, width; /* a span is `width` groups */
    int64_t threads;
    int64_t computed;      /* groups whose distances were computed, in all */
    int64_t clock;         /* moves so far */
    double scale;          /* a power of two */
    double reach;          /* no staged point is farther from the origin */
    double shrink, blur;   /* a quick square q proves a true one of at least shrink q - blur */
    double haze;           /* how far a square in double precision may be off; zero but for CSR, where terms cancel */
    double drift_all, recent_all, lightest_all;
    double tolerance;      /* a move must lower the loss by more than this */
    const data *x;         /* [n, d], or the values of a CSR matrix */
    const int32_t *columns; /* CSR */
    const int64_t *starts; /* CSR */
    const int64_t *rows;   /* [n]: where in x a point lies; NULL: in order */
    const double *weights; /* [n]; NULL: one each */
    const double *origin;  /* [d]; NULL: zero */
    int32_t *labels;       /* [n]; -1: none yet */
    int32_t *next;         /* [n]: what `assign` found */
    double *sums;          /* [k, d] */
    double *sizes;         /* [k]: weights of the clusters */
    int64_t *counts;       /* [k]: their points */
    double *centres;       /* [k, d] */
    double *squares;       /* [16 g]: squared norms of the centres; sparse only */
    calc *lanes;           /* [g, d, 16]: centres (sparse: sums), sixteen side by side */
    calc *bulks;           /* [16 g]: sizes, for the wide products; 1 where there is no centre */
    float *upper;          /* [n]: distance to the own centre is at most upper + path[own] */
    float *lower;          /* [n, s]: distance to any other centre of the span is at least lower - drift - recent */
    float *lowest;         /* [n]: the same for all spans: lowest - drift_all - recent_all */
    int32_t *seen;         /* [n]: the clock when the point was found to gain nothing; -1: since then everything has changed */
    int32_t *changed;      /* [k]: the clock when the cluster last changed */
    int32_t *stamp;        /* [s]: the same of the span */
    double *path;          /* [k]: how far each centre has moved in all */
    double *stride;        /* [k]: how far since the current block of points began */
    double *drift;         /* [s]: sum over blocks of the longest move in the span */
    double *slack;         /* [s]: drift + recent */
    double *recent;        /* [s]: the longest move since the current block began */
    double *lightest;      /* [s]: the smallest size in the span */
    int32_t *best;         /* [n]: `scan` leaves where each point would go best */
    double *change;        /* [n]: what that changes */
    double *gap;           /* [n]: how much farther (squared) the nearest other centre is; `spread`: the squared distance to the own; or NULL */
    int32_t *rival;        /* [n]: which centre that is */
} work;

static inline double weight_of(const work *w, int64_t i) { return w->weights ? w->weights[i] : 1.0; }
static inline int64_t row_of(const work *w, int64_t i) { return w->rows ? w->rows[i] : i; }
static inline int alone(const work *w, int32_t k) { return w->counts[k] == 1; }
static inline int64_t span_of(const work *w, int64_t k) { return k / GROUP / w->width; }
static inline double larger(double a, double b) { return a > b ? a : b; }
static inline double smaller(double a, double b) { return a < b ? a : b; }

/* Bounds are kept as floats, rounded to the safe side. */
static inline float down(double v) { return v > 3e38 ? 3e38f : (float)(v - fabs(v) * 1.2e-7 - 1e-37); }
static inline float up(double v) { return (float)(v + fabs(v) * 1.2e-7 + 1e-37); }

/* Memory of one thread. */
typedef struct {
    double *exact; /* [d] staged; sparse: the values of the row, scaled */
    calc *quick;   /* [d] the same for the wide products */
    const int32_t *columns;
    int64_t count; /* entries in exact; sparse: of the row */
    double square; /* sparse: squared norm */
    calc *out;     /* [16 g] squared distances to the centres of the groups that were looked at */
    float *now;    /* [s] lower bounds as they stand; -1: to be looked at */
    calc *least;   /* [g] smallest square in a group, the own centre aside */
    int32_t *look; /* [g] groups to look at */
} row;

static inline size_t round_up(size_t bytes) { return (bytes + 127) / 64 * 64; }
static inline row new_row(const work *w) {
    size_t d = (size_t)w->dims, s = (size_t)w->spans, k = (size_t)w->groups * GROUP;
    size_t bytes[] = {round_up(d * sizeof(double)), round_up(d * sizeof(calc)), round_up(k * sizeof(calc)), round_up(s * sizeof(float)), round_up((k / GROUP + 4) * sizeof(calc)), round_up((k / GROUP + 4) * sizeof(int32_t))};
    char *room = aligned_alloc(64, bytes[0] + bytes[1] + bytes[2] + bytes[3] + bytes[4] + bytes[5]);
    row r = {.exact = (double *)room};
    r.quick = (calc *)(room += bytes[0]);
    r.out = (calc *)(room += bytes[1]);
    r.now = (float *)(room += bytes[2]);
    r.least = (calc *)(room += bytes[3]);
    r.look = (int32_t *)(room += bytes[4]);
    return r;
}
static inline void free_row(row *r) { free(r->exact); }
#endif
