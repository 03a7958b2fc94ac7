/* Vectors as wide as the processor's registers: 64 bytes with AVX-512, 32 with AVX2, 16 otherwise. Wider ones would be
 * kept in memory and taken apart for every operation. */
#ifndef MINSEEK_LOWBIT_SIMD_H
#define MINSEEK_LOWBIT_SIMD_H
#include <stdint.h>
#if defined(__AVX512F__) || defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define SIMD_BYTES 64
#elif defined(__AVX2__)
#define SIMD_BYTES 32
#else
#define SIMD_BYTES 16
#endif
#define LANES (SIMD_BYTES / 4) /* words in a vector */

#define VECTOR(bytes) __attribute__((vector_size(bytes)))
#define UNALIGNED(bytes, align) __attribute__((vector_size(bytes), aligned(align), may_alias))

typedef float f32_vec VECTOR(SIMD_BYTES);
typedef uint32_t u32_vec VECTOR(SIMD_BYTES);
typedef uint64_t u64_vec VECTOR(SIMD_BYTES);
typedef uint32_t u32_vec_u UNALIGNED(SIMD_BYTES, 4);
typedef uint16_t u16_vec_u UNALIGNED(SIMD_BYTES / 2, 2); /* LANES of them */

/* Makes the compiler round a vector to its type here, and not contract the operation with the next one. */
#if defined(__AVX512F__)
#define ROUND_HERE(v) __asm__("" : "+v"(v))
#elif defined(__x86_64__)
#define ROUND_HERE(v) __asm__("" : "+x"(v))
#elif defined(__aarch64__)
#define ROUND_HERE(v) __asm__("" : "+w"(v))
#else
#define ROUND_HERE(v) __asm__("" : "+m"(v))
#endif

/* Products, 64 bits, of the lower halves of 64-bit lanes with a factor. */
static inline u64_vec mul_low(u64_vec a, uint32_t factor) {
#if defined(__AVX512F__)
    return (u64_vec)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(factor));
#elif defined(__AVX2__)
    return (u64_vec)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(factor));
#elif defined(__SSE2__)
    return (u64_vec)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(factor));
#else
    return (a & 0xFFFFFFFFu) * factor;
#endif
}

/* The upper halves of 64-bit lanes, moved to the lower; the upper halves are undefined afterwards. */
static inline u64_vec high_to_low(u64_vec a) {
#if defined(__AVX512F__)
    return (u64_vec)_mm512_shuffle_epi32((__m512i)a, _MM_PERM_DDBB); /* not the port of products and shifts */
#else
    return a >> 32;
#endif
}
#endif
