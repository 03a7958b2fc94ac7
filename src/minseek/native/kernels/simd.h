/* Operands of matrix products: vectors as wide as the processor's, packed activations, panels of rows, prefetching. */
#ifndef MINSEEK_SIMD_H
#define MINSEEK_SIMD_H
#include "weight.h"

static inline size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

/* A product's sums stay in registers: vectors as wide as the processor's (compilers take wider ones apart in memory),
 * MR rows at a time, and where there are 32 registers two blocks, so that each operand that is loaded serves twice. */
#if defined(__AVX512F__)
#define SIMD_WIDTH 16
#define MR 8
#define NR_BLOCKS 2
#elif defined(__AVX__)
#define SIMD_WIDTH 8
#define MR 4
#define NR_BLOCKS 1
#elif defined(__aarch64__)
#define SIMD_WIDTH 4
#define MR 4
#define NR_BLOCKS 1
#else
#define SIMD_WIDTH 4
#define MR 2
#define NR_BLOCKS 1
#endif
#define VECS_PER_BLOCK (LANES / SIMD_WIDTH)
typedef float simd __attribute__((vector_size(4 * SIMD_WIDTH)));
typedef uint32_t simd_bits __attribute__((vector_size(4 * SIMD_WIDTH)));
typedef float simd_u __attribute__((vector_size(4 * SIMD_WIDTH), aligned(4), may_alias));
typedef uint32_t simd_bits_u __attribute__((vector_size(4 * SIMD_WIDTH), aligned(4), may_alias));
#if SIMD_WIDTH == 16
#define SIMD_ALL(X) {X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X}
#elif SIMD_WIDTH == 8
#define SIMD_ALL(X) {X, X, X, X, X, X, X, X}
#else
#define SIMD_ALL(X) {X, X, X, X}
#endif

/* Activations packed for products: pairs of bfloat16, or float32. */
#ifdef WEIGHT_BF16
typedef uint32_t packed;
typedef uint32_t packed_u __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define PER_PACKED 2
/* Features k and k + 1 of 16 columns. */
static inline void pack(packed *p, vec even, vec odd) {
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
    const __m512i alternating = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                                 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(alternating, both));
#else
    *(packed_u *)p = (bf16_rounded_bits(even) >> 16) | (bf16_rounded_bits(odd) & 0xffff0000u);
#endif
}
static inline void unpack(const packed *p, vec *even, vec *odd) { bf16_unpair(p, even, odd); }
#else
typedef float packed;
#define PER_PACKED 1
static inline void unpack(const packed *p, vec *even, vec *odd) { *even = loadf(p), *odd = loadf(p + LANES); }
static inline void pack(packed *p, vec even, vec odd) {
    storef(p, even);
    storef(p + LANES, odd);
}
#endif
/* Offset of feature k (even) in a packed block. */
static inline size_t packed_offset(size_t k) { return k / PER_PACKED * LANES; }

/* Operands that vectors multiply by: weights, or weights as float32 where vectors cannot multiply bfloat16. */
#if defined(WEIGHT_BF16) && !defined(__AVX512BF16__)
#define CONVERTS_BF16 1
typedef float operand;
#else
#define CONVERTS_BF16 0
typedef weight operand;
#endif

/* Rows of a panel converted for many products with the same blocks, and the number of rows that share a vector (see
 * gemm_narrow.h); UNPACKED rows are read as the weights they are. */
typedef struct {
    const float *operands;
    int interleave;
} packed_panel;
static const packed_panel UNPACKED = {NULL, 1};

/* Up to 32 rows of weights in two halves of at most 16, of which the second may be NULL. */
typedef struct {
    const weight *half[2];
    int rows[2];
    size_t stride;
    packed_panel packed;
} row_panel;

/* The 32 rows from `first` on, or those that are left of `total`; `weights` are [total, k]. */
static inline row_panel panel_at(const weight *weights, int first, int total, int k) {
    const int left = total - first;
    const weight *start = weights + (size_t)first * k;
    return (row_panel){{start, left > LANES ? start + (size_t)LANES * k : NULL},
                       {left < LANES ? left : LANES, left - LANES < LANES ? left - LANES : LANES}, (size_t)k, UNPACKED};
}

/* Two regions that are prefetched while something else is computed, `lines` cache lines of each at a time. They go to
 * the second cache: the first one can wait for 10 to 16 lines only, too few to keep memory busy. */
typedef struct {
    const char *next[2];
    int lines;
} prefetch_stream;
static const prefetch_stream NO_PREFETCH = {{NULL, NULL}, 0};
/* 16 rows of k weights from `first` and from `second` on, divided among `parts` products of `steps` calls of
 * prefetch_next: the share of product `part`. */
static inline prefetch_stream prefetch_rows(const weight *first, const weight *second, int k, int steps, int part,
                                            int parts) {
    const size_t bytes = (size_t)LANES * k * sizeof(weight), stride = (size_t)(steps < 1 ? 1 : steps) * 64;
    const int lines = (int)((bytes + stride * parts - 1) / (stride * parts));
    const size_t offset = (size_t)part * lines * stride;
    if (offset >= bytes) return NO_PREFETCH;
    return (prefetch_stream){{(const char *)first + offset, (const char *)second + offset}, lines};
}
static inline void prefetch_next(prefetch_stream *s) {
    for (int i = 0; i < s->lines; i++, s->next[0] += 64, s->next[1] += 64) {
        __builtin_prefetch(s->next[0], 0, 2);
        __builtin_prefetch(s->next[1], 0, 2);
    }
}

#endif
