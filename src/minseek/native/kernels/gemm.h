/* Products of rows of weights with columns of activations: C [rows, columns] = A [rows, K] times B [K, columns].
 *
 * Columns come in blocks of LANES, one per lane, so everything that is done to an activation (norms, rotations,
 * softmax) is done to a vector of them without ever summing across lanes, and a column never depends on its neighbors:
 * results are batch-invariant, bitwise independent of what else is in the batch. Activations are
 * [block][feature][LANES] in float32, and packed for a product as [block][K/2][16] pairs of bfloat16, or
 * [block][K][LANES] float32. Rows of A are [rows][K], whether they are weights, keys or (transposed) values.
 *
 * On processors with AMX a product of 32 rows and 32 columns runs in eight tile registers; elsewhere in vectors, and
 * linear layers do not come here: see gemm_rows.h.
 */
#ifndef MINSEEK_GEMM_H
#define MINSEEK_GEMM_H
#include "formats.h"
#include "gemm_amx.h"

#define TILE_FLOATS (LANES * LANES)
/* Rows and blocks whose sums stay in registers together. */
#define MR (NUM_REGISTERS == 32 && LANES > 4 ? 8 : 4)
#define NR_BLOCKS 2

/* At most LANES rows of operands. */
typedef struct {
    const operand *start;
    size_t stride;
    int count;
} operand_rows;

/* Rows times num_blocks blocks, a number known at compile time, into C [LANES][LANES] each, or added to it. A column's
 * products are summed up in the order of k, whatever the number of blocks. Some of `next` is prefetched for each 32 of
 * k and every MR rows. */
ALWAYS_INLINE void gemm_kernel(operand_rows a, const packed *const *b, int k, int accumulate,
                               float *const *c, const int num_blocks, prefetch_stream *next) {
    for (int first = 0; first < a.count; first += MR) {
        const operand *row[MR];
        vec sums[NR_BLOCKS][MR];
        int count = a.count - first < MR ? a.count - first : MR;
        for (int r = 0; r < MR; r++) {
            row[r] = a.start + (size_t)(first + (r < count ? r : 0)) * a.stride;
            for (int w = 0; w < num_blocks; w++)
                sums[w][r] = accumulate && r < count ? loadf(c[w] + (first + r) * LANES) : broadcast(0);
        }
        for (int i = 0; i < k; i += PER_PACKED) {
            if (i % 32 == 0) prefetch_next(next);
#if OPERAND_BF16
            __m512bh pairs[NR_BLOCKS];
            for (int w = 0; w < num_blocks; w++) pairs[w] = (__m512bh)*(const uvec_u *)(b[w] + packed_offset(i));
            for (int r = 0; r < MR; r++) {
                uint32_t pair;
                memcpy(&pair, row[r] + i, 4);
                const uvec all = ALL(pair);
                for (int w = 0; w < num_blocks; w++)
                    sums[w][r] = (vec)_mm512_dpbf16_ps((__m512)sums[w][r], (__m512bh)all, pairs[w]);
            }
#else
            vec x[NR_BLOCKS];
            for (int w = 0; w < num_blocks; w++) x[w] = loadf(b[w] + (size_t)i * LANES);
            for (int r = 0; r < MR; r++) {
                const vec all = broadcast(row[r][i]);
                for (int w = 0; w < num_blocks; w++) sums[w][r] += all * x[w];
            }
#endif
        }
        for (int w = 0; w < num_blocks; w++)
            for (int r = 0; r < count; r++) storef(c[w] + (first + r) * LANES, sums[w][r]);
    }
}

/* gemm_kernel for one block or two; b[1] may be NULL. */
static void gemm_vectors(operand_rows a, const packed *const *blocks, int k, int accumulate, float *const *out,
                         prefetch_stream *next) {
    const packed *b[2] = {blocks[0], blocks[1]}; /* copies that no store can change, so that they stay in registers */
    float *c[2] = {out[0], out[1]};
    if (b[1])
        gemm_kernel(a, b, k, accumulate, c, 2, next);
    else
        gemm_kernel(a, b, k, accumulate, c, 1, next);
}

#if !OPERAND_BF16 && defined(WEIGHT_BF16)
/* Operands of a row that are converted at a time: LANES rows fit into a core's first cache. */
#define CONVERTED_K 256
/* k operands of each of `rows` rows. */
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

/* A panel times one or two blocks (b[1] may be NULL): c[0] = a0 b0, c[1] = a0 b1, c[2] = a1 b0, c[3] = a1 b1,
 * [LANES][LANES] each, or added to them. */
static void gemm_tile(int amx, const row_panel *a, const packed *const *b, int k, int accumulate, float *const *c,
                      prefetch_stream next) {
    const int halves = a->half[1] ? 2 : 1;
#if HAS_AMX && !defined(EMULATE_AMX)
    if (amx && a->rows[0] == LANES && (halves == 1 || a->rows[1] == LANES) && k % 32 == 0) {
        gemm_amx(a, b, k, accumulate, c, next);
        return;
    }
#endif
    (void)amx;
#if !OPERAND_BF16 && defined(WEIGHT_BF16)
    float operands[LANES * CONVERTED_K];
    next.lines = 0; /* the conversion reads ahead */
    for (int start = 0; start < k; start += CONVERTED_K) {
        const int length = k - start < CONVERTED_K ? k - start : CONVERTED_K;
        const packed *piece[2] = {b[0] + packed_offset(start), b[1] ? b[1] + packed_offset(start) : NULL};
        for (int h = 0; h < halves; h++) {
            convert_rows(a->half[h] + start, a->stride, a->rows[h], length, operands, CONVERTED_K);
            const operand_rows rows = {operands, CONVERTED_K, a->rows[h]};
            gemm_vectors(rows, piece, length, accumulate || start, c + 2 * h, &next);
        }
    }
#else
    next.lines /= halves * LANES / MR; /* with many blocks none: there is time enough */
    for (int h = 0; h < halves; h++) {
        const operand_rows rows = {a->half[h], a->stride, a->rows[h]};
        gemm_vectors(rows, b, k, accumulate, c + 2 * h, &next);
    }
#endif
}
#endif
