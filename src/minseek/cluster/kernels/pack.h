/* Centers are packed 16 side by side: a pack is one to eight registers, whichever the processor has; kernels loop over
 * VECS registers of LANES numbers. Implementation header, included once through state.h. */
#ifndef MINSEEK_CLUSTER_PACK_H
#define MINSEEK_CLUSTER_PACK_H
#include <float.h>
#include "lanes.h"

/* `value`: dtype of the data. `real`: arithmetic of packed distances; what matters is decided in double. */
#ifdef DATA_DOUBLE
typedef double value;
#else
typedef float value;
#endif
#if defined(SPARSE) || defined(DATA_DOUBLE)
typedef double real;
typedef f64_vec vec;
#define REAL_EPSILON DBL_EPSILON
#define REAL_IS_FLOAT 0
#define OF_REAL(op) f64_##op
#else
typedef float real;
typedef f32_vec vec;
#define REAL_EPSILON FLT_EPSILON
#define REAL_IS_FLOAT 1
#define OF_REAL(op) f32_##op
#endif

#define PACK 16 /* centers side by side */
#define LANES (SIMD_BYTES / (int)sizeof(real))
#define VECS (PACK / LANES)
#define F64_VECS (8 / F64_LANES) /* eight doubles, whatever the width, so that sums are added in one order */

/* One bit per center: v <= limit. NaN gives 0. */
static inline unsigned pack_le(const vec v[VECS], real limit) {
    unsigned bits = 0;
    UNROLL for (int e = 0; e < VECS; e++) bits |= OF_REAL(le)(v[e], limit) << e * LANES;
    return bits;
}

/* Infinity for the centers whose bit is set. */
static inline void pack_set_inf(vec v[VECS], unsigned bits) {
    const vec infinite = OF_REAL(all)((real)INFINITY);
    UNROLL for (int e = 0; e < VECS; e++) v[e] = OF_REAL(blend)(bits >> e * LANES, infinite, v[e]);
}

static inline vec pack_min(const vec v[VECS]) {
    vec smallest = v[0];
    UNROLL for (int e = 1; e < VECS; e++) smallest = OF_REAL(min)(smallest, v[e]);
    return smallest;
}
static inline real pack_hmin(const vec v[VECS]) { return OF_REAL(hmin)(pack_min(v)); }

/* Packs whose distances are computed together: as many sums as registers hold without being spilled. */
#define TILE (VECS <= 2 ? 4 : VECS == 4 ? 2 : 1)

/* Smallest number of each pack of a tile. */
static inline void tile_hmin(const vec v[TILE][VECS], real smallest[TILE]) {
    vec m[4] = {{0}};
    UNROLL for (int q = 0; q < TILE; q++) m[q] = pack_min(v[q]);
    if (TILE == 4)
        OF_REAL(hmin4)(m, smallest);
    else
        UNROLL for (int q = 0; q < TILE; q++) smallest[q] = OF_REAL(hmin)(m[q]);
}
#endif
