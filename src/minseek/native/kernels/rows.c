/* Rows of weights in any format: multiplied with one column, or unpacked. Sums are as in gemm_rows.h. */
#include "rows.h"

#define VECS_PER_GROUP (32 / LANES)
/* The sum of row `r` of [count] rows of blocks times x [k] for all of them, count known at compile time. */
ALWAYS_INLINE void dot_blocks(const int format, const int count, const uint8_t *const *rows, const float *x, int k,
                              vec (*sums)[2]) {
    const int weights = block_weights(format), bytes = block_bytes(format), blocks = k / weights;
    for (int b = 0; b < blocks; b++) {
        block_scales scales[4];
        for (int r = 0; r < count; r++) {
            if (is_dense(format) && count == 1) __builtin_prefetch(rows[r] + (size_t)b * bytes + 2048);
            read_scales(format, rows[r] + (size_t)b * bytes, &scales[r]);
        }
        for (int g = 0; g < weights / 32; g++)
#pragma GCC unroll 8
            for (int i = 0; i < VECS_PER_GROUP; i++) {
                const vec factor = loadf(x + (size_t)b * weights + 32 * g + i * LANES);
                for (int r = 0; r < count; r++) {
                    const uint8_t *block = rows[r] + (size_t)b * bytes;
                    sums[r][i % 2] += group_weights(format, block, &scales[r], g, i * LANES) * factor;
                }
            }
    }
    if (!is_dense(format) || k % 32 == 0) return;
    const int left = k % 32, whole = k - left; /* of dense rows only */
    float factors[32] = {0};
    memcpy(factors, x + whole, sizeof(float) * left);
    for (int r = 0; r < count; r++) {
        uint8_t last[128] = {0};
        memcpy(last, rows[r] + (size_t)blocks * bytes, (size_t)left * bytes / 32);
        for (int i = 0; i < VECS_PER_GROUP; i++)
            sums[r][i % 2] += load_dense(format, last + i * LANES * bytes / 32) * loadf(factors + i * LANES);
    }
}

/* Rows at a time whose dot products with one column are computed together. Dense rows come from memory one after the
 * other; packed ones need several, as the sums of one are too few to be computed without waiting. */
#define DOT_ROWS 4
ALWAYS_INLINE void dot_format(const int format, const weight_matrix *w, int first, int last, const float *x, int k,
                              float *out) {
    const int together = is_dense(format) ? 1 : DOT_ROWS;
    for (int r = first; r < last;) {
        const int count = last - r < together ? 1 : together;
        const uint8_t *rows[DOT_ROWS];
        vec sums[DOT_ROWS][2] = {{{0}}};
        for (int i = 0; i < count; i++) rows[i] = w->rows + (size_t)(r + i) * w->row_bytes;
        if (count == DOT_ROWS)
            dot_blocks(format, DOT_ROWS, rows, x, k, sums);
        else
            dot_blocks(format, 1, rows, x, k, sums);
        for (int i = 0; i < count; i++) out[r - first + i] = sum(sums[i][0] + sums[i][1]);
        r += count;
    }
}
void dot_rows(const weight_matrix *w, int first, int last, const float *x, int k, float *out) {
    switch (w->format) {
#define CASE(FORMAT) \
    case FORMAT: dot_format(FORMAT, w, first, last, x, k, out); break;
        EACH_FORMAT(CASE)
#undef CASE
    }
}

#if OPERAND_BF16
static inline void store_operands(operand *p, const vec *w) { 
    _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh((__m512)w[1], (__m512)w[0]));
}
#else
static inline void store_operands(operand *p, const vec *w) { /* 32 */
    for (int i = 0; i < VECS_PER_GROUP; i++) storef(p + i * LANES, w[i]);
}
#endif

ALWAYS_INLINE void unpack_format(const int format, const uint8_t *row, int k, operand *out) {
    const int weights = block_weights(format), bytes = block_bytes(format), blocks = k / weights;
    for (int b = 0; b < blocks; b++) {
        const uint8_t *block = row + (size_t)b * bytes;
        block_scales scales;
        read_scales(format, block, &scales);
        for (int g = 0; g < weights / 32; g++) {
            vec w[VECS_PER_GROUP];
#pragma GCC unroll 8
            for (int i = 0; i < VECS_PER_GROUP; i++) w[i] = group_weights(format, block, &scales, g, i * LANES);
            store_operands(out + (size_t)b * weights + 32 * g, w);
        }
    }
    const int done = blocks * weights;
    memset(out + done, 0, sizeof(operand) * (padded_k(k) - done));
    if (!is_dense(format) || k == done) return;
    uint8_t last[128] = {0};
    vec w[VECS_PER_GROUP];
    memcpy(last, row + (size_t)blocks * bytes, (size_t)(k - done) * bytes / 32);
    for (int i = 0; i < VECS_PER_GROUP; i++) w[i] = load_dense(format, last + i * LANES * bytes / 32);
    store_operands(out + done, w);
}
void unpack_rows(const weight_matrix *w, int first, int count, int k, operand *out) {
    for (int r = 0; r < count; r++) {
        const uint8_t *row = w->rows + (size_t)(first + r) * w->row_bytes;
        operand *o = out + (size_t)r * padded_k(k);
        switch (w->format) {
#define CASE(FORMAT) \
    case FORMAT: unpack_format(FORMAT, row, k, o); break;
            EACH_FORMAT(CASE)
#undef CASE
        }
    }
}
void unpack_row_f32(const weight_matrix *w, int64_t index, int k, float *out) {
    const uint8_t *row = w->rows + index * w->row_bytes;
    const int weights = block_weights(w->format), bytes = block_bytes(w->format);
    for (int start = 0; start < k; start += weights) {
        const int count = k - start < weights ? k - start : weights;
        uint8_t block[256] = {0};
        block_scales scales;
        memcpy(block, row + (size_t)start / weights * bytes, (size_t)bytes * count / weights);
        read_scales(w->format, block, &scales);
        for (int e = 0; e < count; e += LANES) {
            float lanes[LANES];
            storef(lanes, group_weights(w->format, block, &scales, e / 32, e % 32));
            memcpy(out + start + e, lanes, sizeof(float) * (count - e < LANES ? count - e : LANES));
        }
    }
}

/* `count` rows of k weights as float32, [count][k]. */
void dequantize_rows(const weight_matrix *w, int64_t first, int64_t count, int32_t k, float *out) {
    for (int64_t r = 0; r < count; r++) unpack_row_f32(w, first + r, k, out + r * k);
}
