/* Products of rows of weights with columns of activations along K: each output is a dot product of two contiguous rows.
 *
 * Lanes hold LANES neighbors of K, and two vectors take turns, so an output is the sum of 2 LANES partial sums, added
 * up at the end in one order. That order is the same however many rows and columns are multiplied together, so a
 * column's results do not depend on the batch, and nothing is padded to a block of columns. One column is multiplied
 * straight from the weights; for more, rows are unpacked into operands that stay in the second cache.
 */
#ifndef MINSEEK_GEMM_ROWS_H
#define MINSEEK_GEMM_ROWS_H
#include "rows.h"

#if OPERAND_BF16
typedef __m512bh operand_vec;
#define OPERANDS_PER_VEC 32
static inline operand_vec load_operands(const operand *p) { return (operand_vec)_mm512_loadu_si512(p); }
static inline vec multiply_add(vec sums, operand_vec a, operand_vec b) {
    return (vec)_mm512_dpbf16_ps((__m512)sums, a, b);
}
#else
typedef vec operand_vec;
#define OPERANDS_PER_VEC LANES
static inline operand_vec load_operands(const operand *p) { return loadf(p); }
static inline vec multiply_add(vec sums, operand_vec a, operand_vec b) { return sums + a * b; }
#endif

/* Rows and columns whose sums stay in registers together. */
#define TILE_ROWS (NUM_REGISTERS == 32 ? 4 : 2)
#define TILE_COLUMNS 3

/* Memory to prefetch into the second cache while a panel is multiplied: `lines` cache lines for each K_UNIT of it. */
typedef struct {
    const char *next, *end;
    int lines;
} prefetch_region;

/* Compilers load an operand again for each product with it, though there are registers enough. */
#if defined(__AVX512F__)
#define KEEP_IN_REGISTER(VEC) __asm__("" : "+v"(VEC))
#elif defined(__x86_64__)
#define KEEP_IN_REGISTER(VEC) __asm__("" : "+x"(VEC))
#elif defined(__aarch64__)
#define KEEP_IN_REGISTER(VEC) __asm__("" : "+w"(VEC))
#else
#define KEEP_IN_REGISTER(VEC) (void)(VEC)
#endif

/* `rows` rows of operands, `stride` apart, times `columns` columns, both known at compile time: out [rows][columns]. */
ALWAYS_INLINE void multiply_tile(const int rows, const int columns, const operand *a, size_t stride,
                                 const operand *x, size_t k, prefetch_region *ahead, float (*out)[TILE_COLUMNS]) {
    vec sums[TILE_ROWS][TILE_COLUMNS][2];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) sums[r][c][0] = sums[r][c][1] = broadcast(0);
    for (size_t i = 0; i < k; i += K_UNIT) {
        if (ahead->next < ahead->end)
            for (int line = 0; line < ahead->lines; line++, ahead->next += 64) __builtin_prefetch(ahead->next, 0, 2);
#pragma GCC unroll 8
        for (int v = 0; v < K_UNIT / OPERANDS_PER_VEC; v++) {
            operand_vec w[TILE_ROWS];
            for (int r = 0; r < rows; r++) {
                w[r] = load_operands(a + r * stride + i + v * OPERANDS_PER_VEC);
                KEEP_IN_REGISTER(w[r]);
            }
            for (int c = 0; c < columns; c++) {
                const operand_vec factor = load_operands(x + c * k + i + v * OPERANDS_PER_VEC);
                for (int r = 0; r < rows; r++) sums[r][c][v % 2] = multiply_add(sums[r][c][v % 2], w[r], factor);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) out[r][c] = sum(sums[r][c][0] + sums[r][c][1]);
}

/* Layout of a product's outputs: column c, row r of [column / lanes][features][lanes]. */
typedef struct {
    float *out;
    int features, lanes;
} output_layout;
static inline float *output_column(const output_layout *o, int column) {
    return o->out + (size_t)(column / o->lanes) * o->features * o->lanes + column % o->lanes;
}

/* A matrix times columns x [num_columns][padded_k(k)]; outputs are added to `accumulate`d ones, and to the bias. */
typedef struct {
    const weight_matrix *w;
    const weight *bias;
    const operand *x;
    int k, num_columns, accumulate;
    output_layout output; /* of the matrix's first row */
} row_product;

static inline void put(const row_product *p, float *out, int row, float y) {
    if (p->bias) y += weight_to_f32(p->bias[row]);
    *out = p->accumulate ? *out + y : y;
}

#ifndef PANEL_BYTES
#define PANEL_BYTES (48 * 1024)
#endif
/* Rows of a panel that is unpacked at once: as many as fit into half of a small second cache, at least 8. */
static inline int panel_rows(int k) {
    const int rows = (int)(PANEL_BYTES / (padded_k(k) * sizeof(operand))) / 8 * 8;
    return rows < 8 ? 8 : rows > 64 ? 64 : rows;
}
static inline size_t panel_operands(int k) { return panel_rows(k) * padded_k(k); }

/* Rows first..first + count - 1, which are `a`, times all columns. */
static void multiply_panel(const row_product *p, const operand *a, int first, int count, prefetch_region ahead) {
    const size_t k = padded_k(p->k);
    const int groups = (p->num_columns + TILE_COLUMNS - 1) / TILE_COLUMNS, lanes = p->output.lanes;
    for (int g = 0; g < groups; g++) {
        const int start = (int)((int64_t)p->num_columns * g / groups);
        const int columns = (int)((int64_t)p->num_columns * (g + 1) / groups) - start;
        const operand *x = p->x + start * k;
        float *out[TILE_COLUMNS];
        for (int c = 0; c < columns; c++) out[c] = output_column(&p->output, start + c);
        for (int r = 0; r < count;) {
            float tile[TILE_ROWS][TILE_COLUMNS];
            const operand *row = a + r * k;
            const int rows = count - r < TILE_ROWS ? 1 : TILE_ROWS;
#define CASE(ROWS, COLUMNS) \
    case 10 * ROWS + COLUMNS: multiply_tile(ROWS, COLUMNS, row, k, x, k, &ahead, tile); break;
            switch (10 * rows + columns) {
                CASE(1, 1) CASE(1, 2) CASE(1, 3) CASE(TILE_ROWS, 1) CASE(TILE_ROWS, 2) CASE(TILE_ROWS, 3)
            }
#undef CASE
            for (int i = 0; i < rows; i++)
                for (int c = 0; c < columns; c++) put(p, out[c] + (size_t)(first + r + i) * lanes, first + r + i,
                                                      tile[i][c]);
            r += rows;
        }
    }
}

/* True if rows of k can be multiplied as they are. */
static inline int are_operands(const weight_matrix *w, int k) {
    return w->format == (OPERAND_BF16 ? BF16 : F32) && padded_k(k) == (size_t)k;
}

/* Rows first..last - 1 of a product; `next` is prefetched with the last of them, `panel` holds panel_operands(k). */
static void multiply_rows(const row_product *p, int first, int last, const void *next, operand *panel) {
    const weight_matrix *w = p->w;
#if !OPERAND_BF16
    if (p->num_columns == 1) {
        float out[64];
        for (int r = first; r < last; r += 64) {
            const int count = last - r < 64 ? last - r : 64;
            dot_rows(w, r, r + count, p->x, p->k, out);
            for (int i = 0; i < count; i++) put(p, p->output.out + (size_t)(r + i) * p->output.lanes, r + i, out[i]);
        }
        return;
    }
#endif
    const int in_place = are_operands(w, p->k), step = panel_rows(p->k), most_columns = 48;
    for (int r = first; r < last; r += step) {
        const int count = last - r < step ? last - r : step;
        const uint8_t *rows = w->rows + (size_t)r * w->row_bytes;
        if (!in_place) unpack_rows(w, r, count, p->k, panel);
        prefetch_region ahead = {r + count < last ? (const char *)rows + count * w->row_bytes : next, NULL, 0};
        if (p->num_columns < most_columns) {
            const size_t bytes = (size_t)count * w->row_bytes, lines = (bytes + 63) / 64;
            const size_t tiles = (size_t)((count + TILE_ROWS - 1) / TILE_ROWS) *
                                 ((p->num_columns + TILE_COLUMNS - 1) / TILE_COLUMNS);
            const size_t steps = tiles * (padded_k(p->k) / K_UNIT);
            ahead.end = ahead.next + bytes;
            ahead.lines = (int)((lines + steps - 1) / steps);
        }
        multiply_panel(p, in_place ? (const operand *)rows : panel, r, count, ahead);
    }
}
#endif
