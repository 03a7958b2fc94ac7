/* Products of rows of weights with columns of activations: C [rows, columns] = A [rows, K] times B [K, columns].
 *
 * Columns come in blocks of 16, one per lane, so everything that is done to an activation (norms, rotations, softmax)
 * is done to 16 of them at once without ever summing across lanes, and a column never depends on its neighbors:
 * results are batch-invariant, bitwise independent of what else is in the batch. Activations are [block][feature][16]
 * in float32, and packed for a product as [block][K/2][16] pairs of bfloat16, or [block][K][16] float32. Rows of A are
 * [rows][K], whether they are weights, keys or (transposed) values.
 *
 * On processors with AMX a product of 32 rows and 32 columns runs in eight tile registers; elsewhere in vectors. Where
 * these cannot multiply bfloat16, rows are converted to float32 first, once for all blocks; see gemm_narrow.h for
 * passes of few columns.
 */
#ifndef MINSEEK_GEMM_H
#define MINSEEK_GEMM_H
#include "gemm_amx.h"
#include "gemm_narrow.h"

#define TILE_FLOATS (LANES * LANES)

/* At most 16 rows of operands. */
typedef struct {
    const operand *start;
    size_t stride;
    int count;
} operand_rows;

/* Rows times num_blocks blocks, a number known at compile time, into C [16][16] each, or added to it. A column's
 * products are summed up in the order of k, whatever the number of blocks. Some of `next` is prefetched for each 32 of
 * k and every MR rows. */
static inline __attribute__((always_inline)) void gemm_kernel(operand_rows a, const packed *const *b, int k,
                                                              int accumulate, float *const *c, const int num_blocks,
                                                              prefetch_stream *next) {
    for (int first = 0; first < a.count; first += MR) {
        const operand *row[MR];
        simd sums[NR_BLOCKS][MR][VECS_PER_BLOCK];
        int count = a.count - first < MR ? a.count - first : MR;
        for (int r = 0; r < MR; r++) {
            row[r] = a.start + (size_t)(first + (r < count ? r : 0)) * a.stride;
            for (int w = 0; w < num_blocks; w++)
                for (int p = 0; p < VECS_PER_BLOCK; p++) {
                    sums[w][r][p] = (simd){0};
                    if (accumulate && r < count)
                        sums[w][r][p] = *(const simd_u *)(c[w] + (first + r) * LANES + p * SIMD_WIDTH);
                }
        }
        for (int i = 0; i < k; i += PER_PACKED) {
            if (i % 32 == 0) prefetch_next(next);
#if defined(WEIGHT_BF16) && !CONVERTS_BF16
            __m512bh pairs[NR_BLOCKS];
            for (int w = 0; w < num_blocks; w++) pairs[w] = (__m512bh)*(const simd_bits_u *)(b[w] + packed_offset(i));
            for (int r = 0; r < MR; r++) {
                uint32_t pair;
                memcpy(&pair, row[r] + i, 4);
                const simd_bits all = SIMD_ALL(pair);
                for (int w = 0; w < num_blocks; w++)
                    sums[w][r][0] = (simd)_mm512_dpbf16_ps((__m512)sums[w][r][0], (__m512bh)all, pairs[w]);
            }
#else
            simd x[PER_PACKED][NR_BLOCKS][VECS_PER_BLOCK];
            for (int w = 0; w < num_blocks; w++)
                for (int p = 0; p < VECS_PER_BLOCK; p++) {
#if CONVERTS_BF16
                    const simd_bits pairs = *(const simd_bits_u *)(b[w] + packed_offset(i) + p * SIMD_WIDTH);
                    x[0][w][p] = (simd)(pairs << 16), x[1][w][p] = (simd)(pairs & 0xffff0000u);
#else
                    x[0][w][p] = *(const simd_u *)(b[w] + (size_t)i * LANES + p * SIMD_WIDTH);
#endif
                }
            for (int e = 0; e < PER_PACKED; e++)
                for (int r = 0; r < MR; r++) {
                    const float factor = row[r][i + e];
                    const simd all = SIMD_ALL(factor);
                    for (int w = 0; w < num_blocks; w++)
                        for (int p = 0; p < VECS_PER_BLOCK; p++) sums[w][r][p] += all * x[e][w][p];
                }
#endif
        }
        for (int w = 0; w < num_blocks; w++)
            for (int r = 0; r < count; r++)
                for (int p = 0; p < VECS_PER_BLOCK; p++)
                    *(simd_u *)(c[w] + (first + r) * LANES + p * SIMD_WIDTH) = sums[w][r][p];
    }
}

/* gemm_kernel for one block or two; b[1] may be NULL. */
static void gemm_vectors(operand_rows a, const packed *const *blocks, int k, int accumulate, float *const *out,
                         prefetch_stream *next) {
    const packed *b[2] = {blocks[0], blocks[1]}; /* copies that no store can change, so that they stay in registers */
    float *c[2] = {out[0], out[1]};
    if (NR_BLOCKS > 1 && b[1]) {
        gemm_kernel(a, b, k, accumulate, c, NR_BLOCKS, next);
        return;
    }
    gemm_kernel(a, b, k, accumulate, c, 1, next);
    prefetch_stream nothing = NO_PREFETCH;
    if (b[1]) gemm_kernel(a, b + 1, k, accumulate, c + 1, 1, &nothing);
}

#if CONVERTS_BF16
/* Operands of a row converted at a time for a panel that is not packed: 16 rows fit into a core's cache. */
#define CONVERTED_K 256
#ifndef PACKED_K
#define PACKED_K 4096 /* longer rows are not packed but converted piece by piece in each product */
#endif
/* k operands of each of `rows` rows, k even. */
static void convert_rows(const weight *a, size_t stride, int rows, int k, float *out, size_t out_stride) {
    for (int r = 0; r < rows; r++) {
        const weight *source = a + (size_t)r * stride;
        float *target = out + (size_t)r * out_stride;
        int i = 0;
        for (; i + LANES <= k; i += LANES) storef(target + i, load(source + i));
        for (; i < k; i++) target[i] = weight_to_f32(source[i]);
    }
}
#endif

/* Number of rows that share a vector in products of rows of k with num_columns columns. */
static inline int interleave_for(int num_columns, int k) {
#if CONVERTS_BF16
    if (k <= PACKED_K) return num_columns <= LANES / 4 ? 4 : num_columns <= LANES / 2 ? 2 : 1;
#endif
    (void)num_columns, (void)k;
    return 1;
}
/* Floats of scratch that replicate_columns and pack_panel need for rows of k. */
static inline size_t panel_floats(int k) {
#if CONVERTS_BF16
    if (k <= PACKED_K) return (size_t)(2 * LANES + LANES / 2) * round_up(k, 2);
#endif
    (void)k;
    return 0;
}
/* The block x as products with `interleave` rows a vector need it, in the first part of the scratch. */
static const packed *replicate_columns(const packed *x, int k, int interleave, float *scratch) {
#if CONVERTS_BF16
    if (interleave > 1) {
        replicate_block(x, k, interleave, (packed *)scratch);
        return (packed *)scratch;
    }
#endif
    (void)k, (void)interleave, (void)scratch;
    return x;
}
/* Convert a panel's rows of k into the second part of the scratch, where they have to be. */
static void pack_panel(row_panel *a, int k, int interleave, float *scratch) {
#if CONVERTS_BF16
    if (k <= PACKED_K) {
        float *operands = scratch + (size_t)LANES / 2 * round_up(k, 2);
        for (int h = 0; h < 2 && a->half[h]; h++) {
            float *half = operands + (size_t)h * LANES * k;
            if (interleave > 1)
                pack_rows_interleaved(a->half[h], a->rows[h], k, interleave, half);
            else
                convert_rows(a->half[h], k, a->rows[h], k, half, k);
        }
        a->packed = (packed_panel){operands, interleave};
    }
#endif
    (void)a, (void)k, (void)interleave, (void)scratch;
}

/* A panel times one or two blocks (b[1] may be NULL): c[0] = a0 b0, c[1] = a0 b1, c[2] = a1 b0, c[3] = a1 b1, [16][16]
 * each, or added to them. */
static void gemm_tile(int amx, const row_panel *a, const packed *const *b, int k, int accumulate, float *const *c,
                      prefetch_stream next) {
    const int halves = a->half[1] ? 2 : 1;
#if HAS_AMX
    if (amx && a->rows[0] == LANES && (halves == 1 || a->rows[1] == LANES) && k % 32 == 0) {
        gemm_amx(a, b, k, accumulate, c, next);
        return;
    }
#endif
    (void)amx;
#if CONVERTS_BF16
    if (!a->packed.operands) {
        float operands[LANES * CONVERTED_K];
        prefetch_stream nothing = NO_PREFETCH;
        for (int start = 0; start < k; start += CONVERTED_K) {
            const int length = k - start < CONVERTED_K ? k - start : CONVERTED_K;
            const packed *piece[2] = {b[0] + packed_offset(start), b[1] ? b[1] + packed_offset(start) : NULL};
            for (int h = 0; h < halves; h++) {
                convert_rows(a->half[h] + start, a->stride, a->rows[h], length, operands, CONVERTED_K);
                const operand_rows rows = {operands, CONVERTED_K, a->rows[h]};
                gemm_vectors(rows, piece, length, accumulate || start, c + 2 * h, &nothing);
            }
        }
        return;
    }
    if (a->packed.interleave > 1) {
        gemm_narrow(a, b[0], k, accumulate, c, next);
        return;
    }
    const operand *half[2] = {a->packed.operands, a->packed.operands + (size_t)LANES * k};
    const size_t stride = k;
#else
    const operand *const *half = a->half;
    const size_t stride = a->stride;
#endif
    next.lines /= halves > 1 ? 2 * LANES / MR : LANES / MR; /* with many blocks none: there is time enough */
    gemm_vectors((operand_rows){half[0], stride, a->rows[0]}, b, k, accumulate, c, &next);
    if (halves > 1) gemm_vectors((operand_rows){half[1], stride, a->rows[1]}, b, k, accumulate, c + 2, &next);
}
#endif
