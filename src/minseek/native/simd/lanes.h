/* Vectors as wide as the processor's registers, for the kernels of every folder, and the few operations on them that
 * compilers do badly, written once for AVX-512, AVX2, SSE2 and any other processor. Kernels loop over lanes; none names
 * a width or an instruction set. Wider vectors than the registers would be kept in memory and taken apart in every
 * operation.
 *
 * Offered (T is f32 or f64; everything else is the compiler's own: + - * < & << [] convertvector):
 *
 *     SIMD_BYTES, F32_LANES, F64_LANES        bytes of a register, floats and doubles in it
 *     f32_vec f64_vec i32_vec u32_vec i64_vec u64_vec     vectors; with _u at any address, for loads and stores
 *     u16_vec_u                               half a register of 16-bit numbers, F32_LANES of them
 *     VECTOR, UNALIGNED                       to declare others
 *     UNROLL, ROUND_HERE                      for loops over registers; against contraction
 *     T_all(x)                                x in every lane, without an addition
 *     T_le(v, limit)                          one bit a lane, lane 0 lowest: v <= limit; NaN gives 0
 *     T_blend(bits, a, b)                     lanes of a where the bit is set, of b elsewhere
 *     T_min(a, b), T_max(a, b)                b where a lane is NaN
 *     T_hmin(v), T_hmin4(v, out)              smallest lane of a vector, of each of four; T_le(v, it) says where
 *     f64_sum8(v)                             sum of eight doubles, in one order at every width
 *     bf16_widen(p), bf16_widen_some(p, n)    F32_LANES, or the first n, bfloat16 numbers as floats; the rest is zero
 *     bf16_nearest(v)                         what bf16_narrow adds to round to nearest even
 *     bf16_narrow(v, addend)                  bits of bfloat16 in the lower halves, cut off after an addition
 *     bf16_store_some(p, u, n)                the lower halves of the first n lanes
 *     u64_mul_low(a, factor)                  products, 64 bits, of the lower halves of 64-bit lanes
 *     u64_high_to_low(a)                      upper halves moved to the lower ones; what is above is undefined
 */
#ifndef MINSEEK_LANES_H
#define MINSEEK_LANES_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define SIMD_BYTES 64
#elif defined(__AVX2__)
#define SIMD_BYTES 32
#else
#define SIMD_BYTES 16
#endif
#define F32_LANES (SIMD_BYTES / 4)
#define F64_LANES (SIMD_BYTES / 8)

#define UNROLL _Pragma("GCC unroll 8")
#define VECTOR(bytes) __attribute__((vector_size(bytes)))
#define UNALIGNED(bytes, align) __attribute__((vector_size(bytes), aligned(align), may_alias))

typedef float f32_vec VECTOR(SIMD_BYTES);
typedef double f64_vec VECTOR(SIMD_BYTES);
typedef int32_t i32_vec VECTOR(SIMD_BYTES);
typedef uint32_t u32_vec VECTOR(SIMD_BYTES);
typedef int64_t i64_vec VECTOR(SIMD_BYTES);
typedef uint64_t u64_vec VECTOR(SIMD_BYTES);
typedef float f32_vec_u UNALIGNED(SIMD_BYTES, 4);
typedef double f64_vec_u UNALIGNED(SIMD_BYTES, 8);
typedef uint32_t u32_vec_u UNALIGNED(SIMD_BYTES, 4);
typedef uint16_t u16_vec_u UNALIGNED(SIMD_BYTES / 2, 2);

#if SIMD_BYTES == 64
#include "lanes_avx512.h"
#elif SIMD_BYTES == 32
#include "lanes_avx2.h"
#elif defined(__SSE2__)
#include "lanes_sse2.h"
#else
#include "lanes_portable.h"
#endif

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

/* By halves: a chain of eight additions would wait for each. */
static inline double f64_sum8(const f64_vec v[8 / F64_LANES]) {
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

/* bfloat16 is the upper half of a float's bits. */
static inline f32_vec bf16_widen(const uint16_t *p) {
    return (f32_vec)(__builtin_convertvector(*(const u16_vec_u *)p, u32_vec) << 16);
}
static inline f32_vec bf16_widen_some(const uint16_t *p, int count) {
    u16_vec_u halves = {0};
    if (count == F32_LANES) return bf16_widen(p);
    memcpy(&halves, p, (size_t)count * 2);
    return (f32_vec)(__builtin_convertvector(halves, u32_vec) << 16);
}
static inline u32_vec bf16_nearest(f32_vec v) { return (((u32_vec)v >> 16) & 1) + 0x7FFF; }
/* Infinities stay, and a NaN stays one though it loses its lower half. */
static inline u32_vec bf16_narrow(f32_vec v, u32_vec addend) {
    const u32_vec bits = (u32_vec)v, magnitude = bits & 0x7FFFFFFF;
    const u32_vec finite = (u32_vec)(magnitude < 0x7F800000), nan = (u32_vec)(magnitude > 0x7F800000);
    return (bits + (addend & finite)) >> 16 | (nan & 0x40);
}
static inline void bf16_store_some(uint16_t *p, u32_vec v, int count) {
    const u16_vec_u halves = __builtin_convertvector(v, u16_vec_u);
    if (count == F32_LANES)
        *(u16_vec_u *)p = halves;
    else
        memcpy(p, &halves, (size_t)count * 2);
}
#endif
