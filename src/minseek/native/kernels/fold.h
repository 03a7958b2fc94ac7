/* Products with few columns. A vector has room for 16; where no more than 8 or 4 are there, 2 or 4 rows share it:
 *
 *     lanes      column 0, row 0 | column 0, row 1 | column 1, row 0 | column 1, row 1 | …
 *     factors    w[0][k]           w[1][k]           w[0][k]           w[1][k]           …
 *     block      x[k][0]           x[k][0]           x[k][1]           x[k][1]           …
 *
 * A lane still sums up one row's products with one column in the order of k, so its result is the same to the last bit.
 * Factors lie as [rows / fold][K][fold]; in a block that is spread out each column is there `fold` times.
 */
#ifndef MINSEEK_FOLD_H
#define MINSEEK_FOLD_H
#include "parts.h"
#if WIDENS

typedef uint64_t part_twos __attribute__((vector_size(4 * WIDTH)));

static inline vec interleave_low(vec a, vec b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
static inline vec interleave_high(vec a, vec b) {
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
static inline vec even_lanes(vec a) { /* and zeros behind them */
    return __builtin_shufflevector(a, splat(0), 0, 2, 4, 6, 8, 10, 12, 14, 16, 16, 16, 16, 16, 16, 16, 16);
}
static inline vec odd_lanes(vec a) {
    return __builtin_shufflevector(a, splat(0), 1, 3, 5, 7, 9, 11, 13, 15, 16, 16, 16, 16, 16, 16, 16, 16);
}

/* rows <= 16 rows of k weights, widened, [rows / fold][k][fold]; whatever for rows that the last ones lack. */
static void fold_rows(const weight *a, int rows, int k, int fold, float *out) {
    for (int first = 0; first < rows; first += fold) {
        const weight *row[4];
        for (int j = 0; j < fold; j++) row[j] = a + (size_t)(first + j < rows ? first + j : first) * k;
        float *o = out + (size_t)first * k;
        int i = 0;
        for (; i + LANES <= k; i += LANES, o += fold * LANES) {
            const vec v0 = load(row[0] + i), v1 = load(row[1] + i);
            if (fold == 2) {
                storef(o, interleave_low(v0, v1));
                storef(o + LANES, interleave_high(v0, v1));
                continue;
            }
            const vec v2 = load(row[2] + i), v3 = load(row[3] + i);
            const vec even[2] = {interleave_low(v0, v2), interleave_high(v0, v2)};
            const vec odd[2] = {interleave_low(v1, v3), interleave_high(v1, v3)};
            for (int h = 0; h < 2; h++) {
                storef(o + 2 * h * LANES, interleave_low(even[h], odd[h]));
                storef(o + (2 * h + 1) * LANES, interleave_high(even[h], odd[h]));
            }
        }
        for (; i < k; i++, o += fold)
            for (int j = 0; j < fold; j++) o[j] = widen(row[j][i]);
    }
}

/* The first 16 / fold columns of a packed block, each `fold` times. */
static void spread(const packed *x, int k, int fold, packed *out) {
    for (int i = 0; i < k; i += PER_PACKED)
        for (int l = 0; l < LANES; l++) out[packed_at(i) + l] = x[packed_at(i) + l / fold];
}

/* The factors of `fold` rows, again and again. */
static inline __attribute__((always_inline)) part repeated(const float *p, const int fold) {
    if (fold == 2) {
        uint64_t two;
        memcpy(&two, p, sizeof two);
#if WIDTH == 16
        const part_twos all = {two, two, two, two, two, two, two, two};
#elif WIDTH == 8
        const part_twos all = {two, two, two, two};
#else
        const part_twos all = {two, two};
#endif
        return (part)all;
    }
#if WIDTH == 16
    return (part)_mm512_broadcast_f32x4(_mm_loadu_ps(p));
#elif WIDTH == 8
    return (part)_mm256_broadcast_ps((const __m128 *)p);
#else
    return *(const part_u *)p;
#endif
}

/* Where row r of 32 is left, in c0 or c1 [16][16]; NULL if there is none. */
static inline float *row_of(float *c0, int rows0, float *c1, int rows1, int r) {
    if (r < LANES) return r < rows0 ? c0 + r * LANES : NULL;
    return r - LANES < rows1 ? c1 + (r - LANES) * LANES : NULL;
}

static inline __attribute__((always_inline)) void product_folded_by(const float *wide, int rows0, int rows1,
                                                                    const packed *x, int k, int add, float *c0,
                                                                    float *c1, const int fold, fetching *ahead) {
    const int groups = ((rows1 ? LANES + rows1 : rows0) + fold - 1) / fold;
    for (int first = 0; first < groups; first += TOGETHER) {
        const float *from[TOGETHER];
        part sum[TOGETHER][PARTS];
        const int count = groups - first < TOGETHER ? groups - first : TOGETHER;
        for (int g = 0; g < TOGETHER; g++) {
            from[g] = wide + (size_t)(first + (g < count ? g : 0)) * fold * k;
            vec begin = splat(0);
            if (add && g < count) {
                vec c[4];
                for (int j = 0; j < fold; j++) {
                    const float *at = row_of(c0, rows0, c1, rows1, (first + g) * fold + j);
                    c[j] = at ? loadf(at) : splat(0);
                }
                begin = fold == 2 ? interleave_low(c[0], c[1])
                                  : interleave_low(interleave_low(c[0], c[2]), interleave_low(c[1], c[3]));
            }
            memcpy(sum[g], &begin, sizeof begin);
        }
        for (int i = 0; i < k; i += PER_PACKED) {
            if (i % 32 == 0) fetch(ahead);
            part b[PER_PACKED][PARTS];
            for (int p = 0; p < PARTS; p++) {
                const part_bits pairs = *(const part_bits_u *)(x + packed_at(i) + p * WIDTH);
                b[0][p] = (part)(pairs << 16), b[1][p] = (part)(pairs & 0xffff0000u);
            }
            for (int e = 0; e < PER_PACKED; e++)
                for (int g = 0; g < TOGETHER; g++) {
                    const part all = repeated(from[g] + (size_t)(i + e) * fold, fold);
                    for (int p = 0; p < PARTS; p++) sum[g][p] += all * b[e][p];
                }
        }
        for (int g = 0; g < count; g++) {
            vec v;
            memcpy(&v, sum[g], sizeof v);
            const vec even = even_lanes(v), odd = odd_lanes(v);
            const vec own[4] = {fold == 2 ? even : even_lanes(even), fold == 2 ? odd : even_lanes(odd), odd_lanes(even),
                                odd_lanes(odd)};
            for (int j = 0; j < fold; j++) {
                float *at = row_of(c0, rows0, c1, rows1, (first + g) * fold + j);
                if (at) storef(at, own[j]);
            }
        }
    }
}

/* rows0 rows of folded factors, and rows1 from row 16 on, times a block that is spread out, into c0 and c1 [16][16], or
 * added to them; some of `ahead` is fetched for each 32 of k. */
static void product_folded(const float *wide, int rows0, int rows1, const packed *x, int k, int add, float *c0, float *c1,
                           int fold, fetching ahead) {
    ahead.lines /= (2 * LANES / fold + TOGETHER - 1) / TOGETHER; /* so often are all k gone through for 32 rows */
    if (fold == 2)
        product_folded_by(wide, rows0, rows1, x, k, add, c0, c1, 2, &ahead);
    else
        product_folded_by(wide, rows0, rows1, x, k, add, c0, c1, 4, &ahead);
}
#endif
#endif
