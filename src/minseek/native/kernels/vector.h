/* Sixteen floats at a time, in whatever registers the processor has; weights are bfloat16 (-DWEIGHT_BF16) or float32. */
#ifndef MINSEEK_VECTOR_H
#define MINSEEK_VECTOR_H
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#define LANES 16
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float vec_u __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#ifdef WEIGHT_BF16
typedef uint16_t weight;
typedef uint16_t half_vec __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
static inline vec load(const weight *p) { return (vec)(__builtin_convertvector(*(const half_vec *)p, uvec) << 16); }
static inline float widen(weight w) {
    uint32_t bits = (uint32_t)w << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
static inline weight narrow(float f) { /* to nearest even; the cache never holds NaN worth keeping apart */
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return (weight)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
static inline void narrow_row(weight *p, vec f) { /* the same of sixteen */
    uvec bits = (uvec)f;
    *(half_vec *)p = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, half_vec);
}
/* 32 in a row, as two vectors; place_of tells where lane l of each belongs. */
static inline void load_wide(const weight *p, vec *a, vec *b) {
    typedef uint32_t wide __attribute__((vector_size(4 * LANES), aligned(2), may_alias));
    uvec both = *(const wide *)p;
    *a = (vec)(both << 16), *b = (vec)(both & 0xffff0000u);
}
static inline int place_of(int second, int l) { return 2 * l + second; }
#else
typedef float weight;
static inline vec load(const weight *p) { return *(const vec_u *)p; }
static inline void narrow_row(weight *p, vec f) { *(vec_u *)p = f; }
static inline void load_wide(const weight *p, vec *a, vec *b) { *a = load(p), *b = load(p + LANES); }
static inline int place_of(int second, int l) { return LANES * second + l; }
static inline float widen(weight w) { return w; }
static inline weight narrow(float f) { return f; }
#endif

static inline vec splat(float f) { return (vec){f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f}; } /* 0 + f is an addition */
static inline vec loadf(const float *p) { return *(const vec_u *)p; }
static inline void storef(float *p, vec v) { *(vec_u *)p = v; }
static inline float sum(vec v) { /* by halves; memcpy is how every compiler takes a vector apart */
    typedef float vec8 __attribute__((vector_size(32)));
    typedef float vec4 __attribute__((vector_size(16)));
    vec8 half[2];
    vec4 quarter[2];
    memcpy(half, &v, sizeof half);
    half[0] += half[1];
    memcpy(quarter, half, sizeof quarter);
    vec4 b = quarter[0] + quarter[1];
    return (b[0] + b[2]) + (b[1] + b[3]);
}

/* exp for x <= 88, relative error below 2e-7; anything under -87 gives 0. */
static inline vec vexp(vec x) {
    ivec tiny = x < splat(-87.0f);
    vec n = x * 1.44269504f;
    vec magic = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vec k = (n + magic) - magic;
    vec r = x - k * 0.693359375f + k * 2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec scale = (__builtin_convertvector(k, ivec) + 127) << 23;
    ivec bits = (ivec)(p * (vec)scale);
    return (vec)(bits & ~tiny);
}

static inline vec vmax(vec a, vec b) {
#ifdef __AVX512F__
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#else
    ivec more = a > b;
    return (vec)(((ivec)a & more) | ((ivec)b & ~more));
#endif
}
static inline float highest(vec v) {
    float lane[LANES], top = -INFINITY;
    storef(lane, v);
    for (int i = 0; i < LANES; i++) top = lane[i] > top ? lane[i] : top;
    return top;
}

#define NEVER (-1e30f) /* a score that gives no weight; not infinite, so that nothing is infinity less infinity */

/* exp(x - top) for x <= top, as exact as weights that are rounded to the model's dtype need it: relative error 3e-6 for
 * bfloat16, but for a factor that all x have in common. */
static inline vec vexp_weight(vec x, vec top) {
#if defined(__AVX512DQ__) && defined(WEIGHT_BF16)
    const vec t = x * 1.44269504f - top * 1.44269504f;
    const vec f = (vec)_mm512_reduce_ps((__m512)t, 1); /* t - floor(t); scalef takes the floor itself */
    vec p = splat(0.0520114417f) + f * 0.0135340744f;
    p = p * f + 0.2414429276f;
    p = p * f + 0.6930037509f;
    p = p * f + 1.0000026014f;
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)t);
#else
    return vexp(x - top);
#endif
}

/* x / (1 + exp(-x)), as exact as what is rounded to the model's dtype need be. */
static inline vec silu(vec x) {
    const vec held = vmax(x, splat(-80.0f)); /* exp(80) is still a number */
#if defined(__AVX512DQ__) && defined(WEIGHT_BF16)
    const vec d = 1.0f + vexp_weight(-held, splat(0)), r = (vec)_mm512_rcp14_ps((__m512)d);
    return x * (r * (2.0f - d * r));
#else
    return x / (1.0f + vexp(-held));
#endif
}

#endif
