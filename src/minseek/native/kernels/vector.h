/* Vectors of floats, as many as a register of the processor holds: LANES. */
#ifndef MINSEEK_VECTOR_H
#define MINSEEK_VECTOR_H
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

/* A vector is a register: compilers keep wider ones in memory and take them apart for every operation. */
#if defined(__AVX512F__)
#define LANES 16
#define NUM_REGISTERS 32
#define ALL(X) {X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X}
#elif defined(__AVX__)
#define LANES 8
#define NUM_REGISTERS 16
#define ALL(X) {X, X, X, X, X, X, X, X}
#else
#define LANES 4
#ifdef __aarch64__
#define NUM_REGISTERS 32
#else
#define NUM_REGISTERS 16
#endif
#define ALL(X) {X, X, X, X}
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef float vec_u __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t uvec_u __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline vec broadcast(float f) { return (vec)ALL(f); } /* not 0 + f, which would be an addition */
static inline vec loadf(const float *p) { return *(const vec_u *)p; }
static inline void storef(float *p, vec v) { *(vec_u *)p = v; }
static inline float sum(vec v) { /* by halves; memcpy is how every compiler takes a vector apart */
    typedef float vec4 __attribute__((vector_size(16)));
    vec4 quarter[LANES / 4];
#if LANES == 16
    typedef float vec8 __attribute__((vector_size(32)));
    vec8 half[2];
    memcpy(half, &v, sizeof half);
    half[0] += half[1];
    memcpy(quarter, half, sizeof half[0]);
#else
    memcpy(quarter, &v, sizeof quarter);
#endif
    const vec4 b = LANES == 4 ? quarter[0] : quarter[0] + quarter[LANES / 4 > 1];
    return (b[0] + b[2]) + (b[1] + b[3]);
}

/* exp for x <= 88, relative error below 2e-7; 0 for x < -87. */
static inline vec vexp(vec x) {
    ivec underflow = x < broadcast(-87.0f);
    vec n = x * 1.44269504f;
    vec magic = broadcast(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vec k = (n + magic) - magic;
    vec r = x - k * 0.693359375f + k * 2.12194440e-4f;
    vec p = broadcast(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec scale = (__builtin_convertvector(k, ivec) + 127) << 23;
    ivec bits = (ivec)(p * (vec)scale);
    return (vec)(bits & ~underflow);
}

static inline vec vmax(vec a, vec b) {
#ifdef __AVX512F__
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    ivec greater = a > b;
    return (vec)(((ivec)a & greater) | ((ivec)b & ~greater));
#endif
}
/* Maximum over the lanes. */
static inline float hmax(vec v) {
    float lane[LANES], max = -INFINITY;
    storef(lane, v);
    for (int i = 0; i < LANES; i++) max = lane[i] > max ? lane[i] : max;
    return max;
}

#define MASKED (-1e30f) /* a masked score; finite, so that infinity is never subtracted from infinity */

/* exp(x - max) for x <= max, as exact as weights that are rounded to the model's dtype need it: relative error 3e-6 for
 * bfloat16, apart from a factor common to all x. */
static inline vec vexp_weight(vec x, vec max) {
#if defined(__AVX512DQ__) && defined(WEIGHT_BF16)
    const vec t = x * 1.44269504f - max * 1.44269504f;
    const vec f = (vec)_mm512_reduce_ps((__m512)t, 1); /* t - floor(t); scalef takes the floor itself */
    vec p = broadcast(0.0520114417f) + f * 0.0135340744f;
    p = p * f + 0.2414429276f;
    p = p * f + 0.6930037509f;
    p = p * f + 1.0000026014f;
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)t);
#else
    return vexp(x - max);
#endif
}

/* x / (1 + exp(-x)), as exact as a result rounded to the model's dtype needs it. */
static inline vec silu(vec x) {
    const vec clamped = vmax(x, broadcast(-80.0f)); /* exp(80) is finite */
#if defined(__AVX512DQ__) && defined(WEIGHT_BF16)
    const vec d = 1.0f + vexp_weight(-clamped, broadcast(0)), r = (vec)_mm512_rcp14_ps((__m512)d);
    return x * (r * (2.0f - d * r));
#else
    return x / (1.0f + vexp(-clamped));
#endif
}

#endif
