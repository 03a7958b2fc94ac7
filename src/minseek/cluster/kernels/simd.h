/* Vectors as wide as the processor's registers, and the few operations on them that compilers do badly.
 *
 * Centers are packed 16 side by side. A pack is one to eight registers, whichever the processor has; kernels loop over
 * VECS registers of LANES numbers and name no width. Implementation header, included once through state.h. */
#ifndef MINSEEK_CLUSTER_SIMD_H
#define MINSEEK_CLUSTER_SIMD_H
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* `value`: dtype of the data. `real`: arithmetic of packed distances; what matters is decided in double. */
#ifdef DATA_DOUBLE
typedef double value;
#else
typedef float value;
#endif
#if defined(SPARSE) || defined(DATA_DOUBLE)
typedef double real;
typedef int64_t real_bits;
#define REAL_EPSILON DBL_EPSILON
#define REAL_IS_FLOAT 0
#else
typedef float real;
typedef int32_t real_bits;
#define REAL_EPSILON FLT_EPSILON
#define REAL_IS_FLOAT 1
#endif

#if defined(__AVX512F__)
#define SIMD_BYTES 64
#elif defined(__AVX2__)
#define SIMD_BYTES 32
#else
#define SIMD_BYTES 16
#endif

#define PACK 16 /* centers side by side */
#define LANES (SIMD_BYTES / (int)sizeof(real))
#define VECS (PACK / LANES)
#define F64_LANES (SIMD_BYTES / (int)sizeof(double))
#define F64_VECS (8 / F64_LANES) /* eight doubles, whatever the width, so that sums are added in one order */
#define UNROLL _Pragma("GCC unroll 8")

typedef real vec __attribute__((vector_size(SIMD_BYTES)));
typedef real_bits vec_bits __attribute__((vector_size(SIMD_BYTES)));
typedef double f64_vec __attribute__((vector_size(SIMD_BYTES), aligned(8), may_alias)); /* at any address */

#if REAL_IS_FLOAT
#define X86(prefix, op) prefix##op##_ps
#define X86_CMP_MASK _mm512_cmp_ps_mask
typedef float quarter __attribute__((vector_size(16)));
#else
#define X86(prefix, op) prefix##op##_pd
#define X86_CMP_MASK _mm512_cmp_pd_mask
typedef double quarter __attribute__((vector_size(16)));
#endif

/* One bit per lane: v <= limit. NaN gives 0. */
static inline unsigned vec_le(vec v, real limit) {
#if SIMD_BYTES == 64
    return (unsigned)X86_CMP_MASK(v, X86(_mm512_, set1)(limit), _CMP_LE_OQ);
#elif SIMD_BYTES == 32
    return (unsigned)X86(_mm256_, movemask)(X86(_mm256_, cmp)(v, X86(_mm256_, set1)(limit), _CMP_LE_OQ));
#elif defined(__SSE2__)
    return (unsigned)X86(_mm_, movemask)(X86(_mm_, cmple)(v, X86(_mm_, set1)(limit)));
#else
    unsigned bits = 0;
    for (int l = 0; l < LANES; l++) bits |= (unsigned)(v[l] <= limit) << l;
    return bits;
#endif
}

static inline vec vec_min(vec a, vec b) {
#if SIMD_BYTES == 64
    return X86(_mm512_, min)(a, b);
#elif SIMD_BYTES == 32
    return X86(_mm256_, min)(a, b);
#elif defined(__SSE2__)
    return X86(_mm_, min)(a, b);
#else
    vec_bits less = a < b;
    return (vec)(((vec_bits)a & less) | ((vec_bits)b & ~less));
#endif
}

/* Infinity in the lanes whose bit is set. */
static inline vec vec_set_inf(vec v, unsigned bits) {
#if SIMD_BYTES == 64 && REAL_IS_FLOAT
    return _mm512_mask_mov_ps(v, (__mmask16)bits, _mm512_set1_ps(INFINITY));
#elif SIMD_BYTES == 64
    return _mm512_mask_mov_pd(v, (__mmask8)bits, _mm512_set1_pd(INFINITY));
#else
    static const real_bits LANE_BIT[8] __attribute__((aligned(32))) = {1, 2, 4, 8, 16, 32, 64, 128};
    const vec_bits lane_bit = *(const vec_bits *)LANE_BIT, hit = (lane_bit & (real_bits)bits) == lane_bit;
    const vec infinite = (vec){0} + (real)INFINITY;
    return (vec)(((vec_bits)v & ~hit) | ((vec_bits)infinite & hit));
#endif
}

/* Smallest lane. */
static inline real vec_hmin(vec v) {
#if SIMD_BYTES == 64
    return X86(_mm512_reduce_, min)(v);
#elif defined(__SSE2__)
#if SIMD_BYTES == 32
    quarter half[2];
    memcpy(half, &v, sizeof(half));
    quarter m = X86(_mm_, min)(half[0], half[1]);
#else
    quarter m = v;
#endif
#if REAL_IS_FLOAT
    m = _mm_min_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_min_ss(m, _mm_shuffle_ps(m, m, 1)));
#else
    return _mm_cvtsd_f64(_mm_min_sd(m, _mm_unpackhi_pd(m, m)));
#endif
#else
    real smallest = v[0];
    for (int l = 1; l < LANES; l++) smallest = v[l] < smallest ? v[l] : smallest;
    return smallest;
#endif
}

/* These operate on a whole pack. */
static inline unsigned pack_le(const vec v[VECS], real limit) {
    unsigned bits = 0;
    UNROLL for (int e = 0; e < VECS; e++) bits |= vec_le(v[e], limit) << e * LANES;
    return bits;
}

static inline void pack_set_inf(vec v[VECS], unsigned bits) {
    UNROLL for (int e = 0; e < VECS; e++) v[e] = vec_set_inf(v[e], bits >> e * LANES);
}

static inline real pack_hmin(const vec v[VECS]) {
    vec smallest = v[0];
    UNROLL for (int e = 1; e < VECS; e++) smallest = vec_min(smallest, v[e]);
    return vec_hmin(smallest);
}

/* Packs whose distances are computed together: as many sums as registers hold without being spilled. */
#define TILE (VECS <= 2 ? 4 : VECS == 4 ? 2 : 1)

/* Smallest number of each pack of a tile. */
static inline void tile_hmin(vec v[TILE][VECS], real smallest[TILE]) {
#if SIMD_BYTES == 64 && REAL_IS_FLOAT /* four at a time: transposed while they are reduced */
    __m512 a = v[0][0], b = v[1][0], c = v[2][0], d = v[3][0];
    __m512d ab = _mm512_castps_pd(_mm512_min_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    __m512d cd = _mm512_castps_pd(_mm512_min_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
    __m512 low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), high = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
    __m512d all = _mm512_castps_pd(_mm512_min_ps(low, high));
    __m256 half = _mm256_min_ps(_mm256_castpd_ps(_mm512_castpd512_pd256(all)),
                                _mm256_castpd_ps(_mm512_extractf64x4_pd(all, 1)));
    _mm_storeu_ps(smallest, _mm_min_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#elif SIMD_BYTES == 64
    for (int q = 0; q < 4; q += 2) {
        __m512d a = _mm512_min_pd(v[q][0], v[q][1]), b = _mm512_min_pd(v[q + 1][0], v[q + 1][1]);
        __m512d ab = _mm512_min_pd(_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
        __m256d half = _mm256_min_pd(_mm512_castpd512_pd256(ab), _mm512_extractf64x4_pd(ab, 1));
        _mm_storeu_pd(smallest + q, _mm_min_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1)));
    }
#else
    UNROLL for (int q = 0; q < TILE; q++) smallest[q] = pack_hmin(v[q]);
#endif
}

/* Sum of eight doubles by halves: a chain of eight additions would wait for each. */
static inline double f64_hsum(const f64_vec v[F64_VECS]) {
#if SIMD_BYTES == 64
    const double a = v[0][0] + v[0][4], b = v[0][1] + v[0][5], c = v[0][2] + v[0][6], d = v[0][3] + v[0][7];
    return (a + c) + (b + d);
#elif SIMD_BYTES == 32
    const f64_vec s = v[0] + v[1];
    return (s[0] + s[2]) + (s[1] + s[3]);
#else
    const f64_vec s = (v[0] + v[2]) + (v[1] + v[3]);
    return s[0] + s[1];
#endif
}
#endif
