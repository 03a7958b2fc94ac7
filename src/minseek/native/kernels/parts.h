/* Activations packed for products, and the vectors that products are made of: as wide as the processor's. */
#ifndef MINSEEK_PARTS_H
#define MINSEEK_PARTS_H
#include "vector.h"

static inline size_t up_to(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

#ifdef WEIGHT_BF16
typedef uint32_t packed;
typedef uint32_t pair_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define PER_PACKED 2
#if !(defined(__AVX512BF16__) && defined(__AVX512BW__))
static inline uvec rounded(vec f) { /* bfloat16 in the upper half, to nearest even; NaN stays NaN */
    uvec bits = (uvec)f, odd = (bits >> 16) & 1;
    ivec nan = f != f;
    return ((bits + 0x7fff + odd) & ~(uvec)nan) | ((uvec)nan & 0x7fc00000u);
}
#endif
/* Features k and k + 1 of 16 columns. */
static inline void pack(packed *p, vec even, vec odd) {
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
    const __m512i by_turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                              21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(by_turns, both));
#else
    *(pair_vec *)p = (rounded(even) >> 16) | (rounded(odd) & 0xffff0000u);
#endif
}
static inline void unpack(const packed *p, vec *even, vec *odd) {
    const uvec both = *(const pair_vec *)p;
    *even = (vec)(both << 16), *odd = (vec)(both & 0xffff0000u);
}
#else
typedef float packed;
#define PER_PACKED 1
static inline void unpack(const packed *p, vec *even, vec *odd) { *even = loadf(p), *odd = loadf(p + LANES); }
static inline void pack(packed *p, vec even, vec odd) {
    storef(p, even);
    storef(p + LANES, odd);
}
#endif
/* Where feature k (even) of a packed block lies. */
static inline size_t packed_at(size_t k) { return k / PER_PACKED * LANES; }

#if defined(WEIGHT_BF16) && !defined(__AVX512BF16__)
#define WIDENS 1
typedef float factor; /* what vectors multiply by: rows as they are, or widened */
#else
#define WIDENS 0
typedef weight factor;
#endif

/* Two places that are fetched while something else is computed, so many cache lines of each at a time. They come into
 * the second cache: the first one can wait for 10 to 16 lines only, too few to keep memory busy. */
typedef struct {
    const char *at[2];
    int lines;
} fetching;
static const fetching NOTHING = {{NULL, NULL}, 0};
/* 16 rows of k weights from `first` and from `second` on: what the part-th of `parts` products fetches, `steps` times. */
static inline fetching fetching_rows(const weight *first, const weight *second, int k, int steps, int part, int parts) {
    const size_t bytes = (size_t)LANES * k * sizeof(weight), each = (size_t)(steps < 1 ? 1 : steps) * 64;
    const int lines = (int)((bytes + each * parts - 1) / (each * parts));
    const size_t done = (size_t)part * lines * each;
    return done < bytes ? (fetching){{(const char *)first + done, (const char *)second + done}, lines} : NOTHING;
}
static inline void fetch(fetching *f) {
    for (int p = 0; p < f->lines; p++, f->at[0] += 64, f->at[1] += 64) {
        __builtin_prefetch(f->at[0], 0, 2);
        __builtin_prefetch(f->at[1], 0, 2);
    }
}

/* A product's sums stay in registers: vectors as wide as the processor's (compilers take wider ones apart in memory), so
 * many rows at a time, and where there are 32 registers two blocks, so that each factor that is loaded serves twice. */
#if defined(__AVX512F__)
#define WIDTH 16
#define TOGETHER 8
#define ABREAST 2
#elif defined(__AVX__)
#define WIDTH 8
#define TOGETHER 4
#define ABREAST 1
#elif defined(__aarch64__)
#define WIDTH 4
#define TOGETHER 4
#define ABREAST 1
#else
#define WIDTH 4
#define TOGETHER 2
#define ABREAST 1
#endif
#define PARTS (LANES / WIDTH)
typedef float part __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t part_bits __attribute__((vector_size(4 * WIDTH)));
typedef float part_u __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef uint32_t part_bits_u __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
#if WIDTH == 16
#define ALL(X) {X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X}
#elif WIDTH == 8
#define ALL(X) {X, X, X, X, X, X, X, X}
#else
#define ALL(X) {X, X, X, X}
#endif
#endif
