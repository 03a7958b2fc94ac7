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
    return (vec)(__builtin_convertvector(*(const u16vec_u *)p, uvec) << 16);
}
/* 16 pairs of bfloat16 side by side: the first and the second of each. */
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
    *(u16vec_u *)p = __builtin_convertvector(bf16_rounded_bits(f) >> 16, u16vec_u);
}

#endif
