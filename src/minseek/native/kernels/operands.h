/* Operands of matrix products: packed activations, panels of rows, prefetching. */
#ifndef MINSEEK_OPERANDS_H
#define MINSEEK_OPERANDS_H
#include "weight.h"

static inline size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

/* Operands are bfloat16 where vectors multiply it, else float32. */
#if defined(WEIGHT_BF16) && defined(__AVX512BF16__)
#define OPERAND_BF16 1
typedef uint16_t operand;
#else
#define OPERAND_BF16 0
typedef float operand;
#endif

/* Activations packed with columns in lanes: pairs of bfloat16, or float32. */
#if OPERAND_BF16
typedef uint32_t packed;
#define PER_PACKED 2
/* Features k and k + 1 of one block of columns. */
static inline void pack(packed *p, vec even, vec odd) {
    const __m512i alternating = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                                 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(alternating, both));
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

/* Rows of weights in two halves of at most LANES, of which the second may be NULL. */
typedef struct {
    const weight *half[2];
    int rows[2];
    size_t stride;
} row_panel;

/* The 2 LANES rows from `first` on, or those that are left of `total`; `weights` are [total, k]. */
static inline row_panel panel_at(const weight *weights, int first, int total, int k) {
    const int left = total - first;
    const weight *start = weights + (size_t)first * k;
    return (row_panel){{start, left > LANES ? start + (size_t)LANES * k : NULL},
                       {left < LANES ? left : LANES, left - LANES < LANES ? left - LANES : LANES}, (size_t)k};
}

/* Two regions that are prefetched while something else is computed, `lines` cache lines of each at a time. They go to
 * the second cache: the first one can wait for 10 to 16 lines only, too few to keep memory busy. */
typedef struct {
    const char *next[2];
    int lines;
} prefetch_stream;
static const prefetch_stream NO_PREFETCH = {{NULL, NULL}, 0};
/* LANES rows of `row_bytes` from `first` and from `second` on, divided among `parts` products of `steps` calls of
 * prefetch_next: the share of product `part`. */
static inline prefetch_stream prefetch_rows(const void *first, const void *second, size_t row_bytes, int steps,
                                            int part, int parts) {
    const size_t bytes = LANES * row_bytes, stride = (size_t)(steps < 1 ? 1 : steps) * 64;
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
