/* Products with few columns. A vector holds 16; where there are no more than 8 or 4, 2 or 4 rows share it:
 *
 *     lanes      column 0, row 0 | column 0, row 1 | column 1, row 0 | column 1, row 1 | …
 *     operands   w[0][k]           w[1][k]           w[0][k]           w[1][k]           …
 *     block      x[k][0]           x[k][0]           x[k][1]           x[k][1]           …
 *
 * A lane still sums up one row's products with one column in the order of k, so its result is the same to the last bit.
 * Operands are [rows / interleave][K][interleave]; a replicated block has each column `interleave` times.
 */
#ifndef MINSEEK_GEMM_NARROW_H
#define MINSEEK_GEMM_NARROW_H
#include "simd.h"
#if CONVERTS_BF16

typedef uint64_t simd_u64 __attribute__((vector_size(4 * SIMD_WIDTH)));

static inline vec interleave_low(vec a, vec b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
static inline vec interleave_high(vec a, vec b) {
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
static inline vec even_lanes(vec a) { /* then zeros */
    return __builtin_shufflevector(a, broadcast(0), 0, 2, 4, 6, 8, 10, 12, 14, 16, 16, 16, 16, 16, 16, 16, 16);
}
static inline vec odd_lanes(vec a) {
    return __builtin_shufflevector(a, broadcast(0), 1, 3, 5, 7, 9, 11, 13, 15, 16, 16, 16, 16, 16, 16, 16, 16);
}

/* rows <= 16 rows of k weights as operands [rows / interleave][k][interleave]; rows missing in the last group repeat
 * its first. */
static void pack_rows_interleaved(const weight *a, int rows, int k, int interleave, float *out) {
    for (int first = 0; first < rows; first += interleave) {
        const weight *row[4];
        for (int j = 0; j < interleave; j++) row[j] = a + (size_t)(first + j < rows ? first + j : first) * k;
        float *o = out + (size_t)first * k;
        int i = 0;
        for (; i + LANES <= k; i += LANES, o += interleave * LANES) {
            const vec v0 = load(row[0] + i), v1 = load(row[1] + i);
            if (interleave == 2) {
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
        for (; i < k; i++, o += interleave)
            for (int j = 0; j < interleave; j++) o[j] = weight_to_f32(row[j][i]);
    }
}

/* The first 16 / interleave columns of a packed block, each `interleave` times. */
static void replicate_block(const packed *x, int k, int interleave, packed *out) {
    for (int i = 0; i < k; i += PER_PACKED)
        for (int l = 0; l < LANES; l++) out[packed_offset(i) + l] = x[packed_offset(i) + l / interleave];
}

/* The operands of `interleave` rows, repeated over the vector. */
static inline __attribute__((always_inline)) simd repeat_operands(const float *p, const int interleave) {
    if (interleave == 2) {
        uint64_t pair;
        memcpy(&pair, p, sizeof pair);
#if SIMD_WIDTH == 16
        const simd_u64 all = {pair, pair, pair, pair, pair, pair, pair, pair};
#elif SIMD_WIDTH == 8
        const simd_u64 all = {pair, pair, pair, pair};
#else
        const simd_u64 all = {pair, pair};
#endif
        return (simd)all;
    }
#if SIMD_WIDTH == 16
    return (simd)_mm512_broadcast_f32x4(_mm_loadu_ps(p));
#elif SIMD_WIDTH == 8
    return (simd)_mm256_broadcast_ps((const __m128 *)p);
#else
    return *(const simd_u *)p;
#endif
}

/* Row r of 32 in c[0] and c[2] [16][16]; NULL if the panel has no such row. */
static inline float *output_row(const row_panel *a, float *const *c, int r) {
    if (r < LANES) return r < a->rows[0] ? c[0] + r * LANES : NULL;
    return a->half[1] && r - LANES < a->rows[1] ? c[2] + (r - LANES) * LANES : NULL;
}

static inline __attribute__((always_inline)) void gemm_narrow_kernel(const row_panel *a, const packed *x, int k,
                                                                     int accumulate, float *const *c,
                                                                     const int interleave, prefetch_stream *next) {
    const int groups = ((a->half[1] ? LANES + a->rows[1] : a->rows[0]) + interleave - 1) / interleave;
    for (int first = 0; first < groups; first += MR) {
        const float *operands[MR];
        simd sums[MR][VECS_PER_BLOCK];
        const int count = groups - first < MR ? groups - first : MR;
        for (int g = 0; g < MR; g++) {
            operands[g] = a->packed.operands + (size_t)(first + (g < count ? g : 0)) * interleave * k;
            vec start = broadcast(0);
            if (accumulate && g < count) {
                vec row[4];
                for (int j = 0; j < interleave; j++) {
                    const float *source = output_row(a, c, (first + g) * interleave + j);
                    row[j] = source ? loadf(source) : broadcast(0);
                }
                start = interleave == 2
                            ? interleave_low(row[0], row[1])
                            : interleave_low(interleave_low(row[0], row[2]), interleave_low(row[1], row[3]));
            }
            memcpy(sums[g], &start, sizeof start);
        }
        for (int i = 0; i < k; i += PER_PACKED) {
            if (i % 32 == 0) prefetch_next(next);
            simd b[PER_PACKED][VECS_PER_BLOCK];
            for (int p = 0; p < VECS_PER_BLOCK; p++) {
                const simd_bits pairs = *(const simd_bits_u *)(x + packed_offset(i) + p * SIMD_WIDTH);
                b[0][p] = (simd)(pairs << 16), b[1][p] = (simd)(pairs & 0xffff0000u);
            }
            for (int e = 0; e < PER_PACKED; e++)
                for (int g = 0; g < MR; g++) {
                    const simd all = repeat_operands(operands[g] + (size_t)(i + e) * interleave, interleave);
                    for (int p = 0; p < VECS_PER_BLOCK; p++) sums[g][p] += all * b[e][p];
                }
        }
        for (int g = 0; g < count; g++) {
            vec v;
            memcpy(&v, sums[g], sizeof v);
            const vec even = even_lanes(v), odd = odd_lanes(v);
            const vec row[4] = {interleave == 2 ? even : even_lanes(even), interleave == 2 ? odd : even_lanes(odd),
                                odd_lanes(even), odd_lanes(odd)};
            for (int j = 0; j < interleave; j++) {
                float *target = output_row(a, c, (first + g) * interleave + j);
                if (target) storef(target, row[j]);
            }
        }
    }
}

/* The interleaved rows of a panel times a replicated block, into c[0] and c[2] [16][16], or added to them. */
static void gemm_narrow(const row_panel *a, const packed *x, int k, int accumulate, float *const *c,
                        prefetch_stream next) {
    next.lines /= (2 * LANES / a->packed.interleave + MR - 1) / MR; /* k is gone through so often for 32 rows */
    if (a->packed.interleave == 2)
        gemm_narrow_kernel(a, x, k, accumulate, c, 2, &next);
    else
        gemm_narrow_kernel(a, x, k, accumulate, c, 4, &next);
}
#endif
#endif
