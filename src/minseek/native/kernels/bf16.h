/* Conversion between float32 and bfloat16, which is the upper half of a float32's bits: rounded to nearest even, NaN
 * stays NaN. */
#ifndef MINSEEK_BF16_H
#define MINSEEK_BF16_H
#include "vector.h"

typedef uint16_t u16vec_u __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint32_t bf16_pairs_u __attribute__((vector_size(4 * LANES), aligned(2), may_alias));

static inline float bf16_to_f32(uint16_t b) {
    const uint32_t bits = (uint32_t)b << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
static inline vec bf16_to_f32_vec(const uint16_t *p) {
#if LANES == 16
    return (vec)((uvec)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)) << 16);
#elif defined(__AVX2__)
    return (vec)((uvec)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)) << 16);
#else
    return (vec)(__builtin_convertvector(*(const u16vec_u *)p, uvec) << 16);
#endif
}
/* Pairs of bfloat16 side by side: the first and the second of each. */
static inline void bf16_unpair(const void *p, vec *first, vec *second) {
    const uvec pairs = *(const bf16_pairs_u *)p;
    *first = (vec)(pairs << 16), *second = (vec)(pairs & 0xffff0000u);
}

/* The bfloat16 is in the upper half of the result. */
static inline uvec bf16_rounded_bits(vec f) {
    const uvec bits = (uvec)f, odd = (bits >> 16) & 1;
    const ivec nan = f != f;
    return ((bits + 0x7fff + odd) & ~(uvec)nan) | ((uvec)nan & 0x7fc00000u);
}
static inline uint16_t f32_to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return f != f ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
static inline void f32_to_bf16_vec(uint16_t *p, vec f) {
#if LANES == 8 && defined(__AVX2__)
    const __m256i bits = (__m256i)(bf16_rounded_bits(f) >> 16);
    const __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi32(bits, bits), 0x88);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(both));
#else
    *(u16vec_u *)p = __builtin_convertvector(bf16_rounded_bits(f) >> 16, u16vec_u);
#endif
}

#endif
