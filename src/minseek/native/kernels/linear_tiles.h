/* Linear layers in tile registers (AMX): panels of 32 rows, columns in blocks of 16. */
#ifndef MINSEEK_LINEAR_TILES_H
#define MINSEEK_LINEAR_TILES_H
#include "context.h"
#include "gemm.h"
#include "gemm_rows.h"
#include "layout.h"
#include "norm.h"

/* out [block][features][LANES] = (out +) w x + bias. */
typedef struct {
    const weight_matrix *w;
    const weight *bias;
    int rows, offset; /* offset: of the first row among the features of out */
} matrix;

/* Matrices [rows, k] that are multiplied with the same columns. */
typedef struct {
    const matrix *matrices;
    int count, k;
    const operand *x;
    int num_columns;
    int accumulate; /* into out */
    float *out;
    int features;     /* of out */
    const void *next; /* where the next phase begins for this thread, to be prefetched */
} linear_args;

#define SWIGLU_ROWS 32

static inline int num_blocks(int num_columns) { return (num_columns + LANES - 1) / LANES; }

/* `count` floats as operands. */
static inline void store_row(const float *y, int count, operand *out) {
#if OPERAND_BF16
    int i = 0;
    for (; i + LANES <= count; i += LANES) f32_to_bf16_vec(out + i, loadf(y + i));
    for (; i < count; i++) out[i] = f32_to_bf16(y[i]);
#else
    memcpy(out, y, sizeof(float) * count);
#endif
}

#if HAS_AMX
static inline int num_panels(int rows, int panel) { return (rows + panel - 1) / panel; }
/* First panel of this thread, and the one after its last. */
static inline int first_panel(const thread_ctx *ctx, int panels) {
    return (int)((int64_t)panels * ctx->thread / ctx->num_threads);
}
static inline int end_panel(const thread_ctx *ctx, int panels) {
    return (int)((int64_t)panels * (ctx->thread + 1) / ctx->num_threads);
}

/* Number of operands of a row that are multiplied at a time. A panel in tiles is to stay in the first cache for all
 * blocks, which pays if they are many and come from the second one. */
#define FIRST_CACHE 400            /* operands of 32 rows, with as many of 32 columns */
#define SECOND_CACHE (1024 * 1024) /* bytes of all blocks */
static int k_block(int blocks, int k) {
    if (k % 32 || blocks < 16 || (size_t)blocks * LANES * k * sizeof(weight) > SECOND_CACHE) return k;
    const int pieces = (k + FIRST_CACHE - 1) / FIRST_CACHE;
    return (int)round_up((k + pieces - 1) / pieces, 32);
}

/* Blocks b and b + 1 of x, from operand k_start of k on; NULL for one that is not there. */
typedef struct {
    const packed *block[2];
} block_pair;
static inline block_pair blocks_at(const operand *x, int b, int blocks, int k, int k_start) {
    const packed *first = (const packed *)x + b * packed_offset(k) + packed_offset(k_start);
    return (block_pair){{first, b + 1 < blocks ? first + packed_offset(k) : NULL}};
}

/* Rows first..first + count - 1 of a matrix as they are, or unpacked; `count` at most LANES. */
static const weight *rows_at(const weight_matrix *w, int first, int count, int k, operand *panel) {
    if (w->format == BF16) return (const weight *)(w->rows + (size_t)first * w->row_bytes);
    unpack_rows(w, first, count, k, panel);
    return panel;
}
static size_t rows_stride(const weight_matrix *w, int k) { return w->format == BF16 ? (size_t)k : padded_k(k); }

/* The 32 rows from `first` on, or those that are left. */
static row_panel matrix_panel(const weight_matrix *w, int first, int total, int k, operand *panel) {
    const int left = total - first, low = left < LANES ? left : LANES, high = left - low < LANES ? left - low : LANES;
    const weight *rows = rows_at(w, first, low + high, k, panel);
    const size_t stride = rows_stride(w, k);
    return (row_panel){{rows, high > 0 ? rows + LANES * stride : NULL}, {low, high}, stride};
}

/* Add a matrix's bias to its rows first..first + 31 in the blocks b and b + 1. */
static void add_bias(const matrix *m, int first, int b, const linear_args *args) {
    for (int j = b; j < b + 2 && j < num_blocks(args->num_columns); j++)
        for (int r = first; r < first + 32 && r < m->rows; r++) {
            float *o = args->out + ((size_t)j * args->features + m->offset + r) * LANES;
            storef(o, loadf(o) + weight_to_f32(m->bias[r]));
        }
}

/* This thread's share of the rows; each panel is prefetched while the one before it is multiplied, and the next phase's
 * first with the last. */
static void linear_tiles(const thread_ctx *ctx, const linear_args *args) {
    const matrix *ms = args->matrices;
    const int k = args->k, blocks = num_blocks(args->num_columns), pairs = (blocks + 1) / 2;
    const int piece = k_block(blocks, k), pieces = (k + piece - 1) / piece;
    int panels = 0;
    for (int i = 0; i < args->count; i++) panels += num_panels(ms[i].rows, 32);
    const int end = end_panel(ctx, panels);
    for (int p = first_panel(ctx, panels), matrix_start = 0, i = 0; p < end; p++) {
        while (p - matrix_start >= num_panels(ms[i].rows, 32)) matrix_start += num_panels(ms[i++].rows, 32);
        const int first = (p - matrix_start) * 32, matrix_continues = ms[i].rows - first > 32;
        const size_t row_bytes = ms[i].w->row_bytes;
        const row_panel rows = matrix_panel(ms[i].w, first, ms[i].rows, k, ctx->panel);
        const char *next = p + 1 == end        ? args->next
                           : matrix_continues ? (const char *)ms[i].w->rows + (first + 32) * row_bytes
                                              : (const char *)ms[i + 1].w->rows;
        for (int part = 0; part < pieces * pairs; part++) {
            const int k_start = part / pairs * piece, b = part % pairs * 2;
            const int length = k - k_start < piece ? k - k_start : piece;
            const block_pair columns = blocks_at(args->x, b, blocks, k, k_start);
            row_panel rows_from_k = rows;
            rows_from_k.half[0] += k_start;
            if (rows_from_k.half[1]) rows_from_k.half[1] += k_start;
            float *c[4];
            for (int j = 0; j < 4; j++) {
                const int feature = ms[i].offset + first + j / 2 * LANES;
                c[j] = args->out + ((size_t)(b + j % 2) * args->features + feature) * LANES;
            }
            gemm_tile(ctx->amx, &rows_from_k, columns.block, length, args->accumulate || k_start, c,
                      prefetch_rows(next, next + LANES * row_bytes, row_bytes, length / 32, part, pieces * pairs));
            if (ms[i].bias && k_start + length == k) add_bias(&ms[i], first, b, args);
        }
    }
}

/* This thread's share of act = silu(gate x) * (up x), packed for the product that follows. */
static void swiglu_tiles(const thread_ctx *ctx, const layer_weights *w, const operand *x, int num_columns,
                         operand *act, const void *next) {
    const int k = ctx->model->hidden_size, total = ctx->model->intermediate_size, panels = num_panels(total, LANES);
    const int blocks = num_blocks(num_columns), pairs = (blocks + 1) / 2;
    const size_t gate_bytes = w->gate.row_bytes, up_bytes = w->up.row_bytes;
    float tile[4][TILE_FLOATS];
    float *c[4] = {tile[0], tile[1], tile[2], tile[3]};
    for (int p = first_panel(ctx, panels), end = end_panel(ctx, panels); p < end; p++) {
        const int first = p * LANES, rows = total - first < LANES ? total - first : LANES, last = p + 1 == end;
        const weight *gate = rows_at(&w->gate, first, rows, k, ctx->panel);
        const weight *up = rows_at(&w->up, first, rows, k, ctx->panel + LANES * padded_k(k));
        const void *next_gate = last ? next : w->gate.rows + (first + LANES) * gate_bytes;
        const void *next_up =
            last ? (const char *)next + LANES * gate_bytes : (const char *)w->up.rows + (first + LANES) * up_bytes;
        const row_panel gates = {{gate, NULL}, {rows, 0}, rows_stride(&w->gate, k)};
        const row_panel ups = {{up, NULL}, {rows, 0}, rows_stride(&w->up, k)};
        const row_panel both = {{gate, up}, {rows, rows}, gates.stride};
        for (int b = 0; b < blocks; b += 2) {
            const block_pair columns = blocks_at(x, b, blocks, k, 0);
            const prefetch_stream stream = prefetch_rows(next_gate, next_up, gate_bytes, k / 32, b / 2, pairs);
            if (gates.stride == ups.stride)
                gemm_tile(ctx->amx, &both, columns.block, k, 0, c, stream);
            else {
                gemm_tile(ctx->amx, &gates, columns.block, k, 0, c, stream);
                gemm_tile(ctx->amx, &ups, columns.block, k, 0, c + 2, NO_PREFETCH);
            }
            for (int j = 0; j < 2 && b + j < blocks; j++) {
                packed *o = (packed *)act + (size_t)(b + j) * packed_offset(total) + packed_offset(first);
                for (int r = 0; r < rows; r += 2) {
                    vec y[2];
                    for (int e = 0; e < 2; e++) {
                        vec g = loadf(tile[j] + (r + e) * LANES), u = loadf(tile[j + 2] + (r + e) * LANES);
                        if (w->gate_bias) g += weight_to_f32(w->gate_bias[first + r + e]);
                        if (w->up_bias) u += weight_to_f32(w->up_bias[first + r + e]);
                        y[e] = silu(g) * u;
                    }
                    pack(o + packed_offset(r), y[0], y[1]);
                }
            }
        }
    }
}

static void lm_head_tiles(const thread_ctx *ctx, const operand *x, int num_logits, float *logits) {
    const decoder *m = ctx->model;
    const weight_matrix *w = &m->lm_head;
    const int k = m->hidden_size, vocab = m->vocab_size, blocks = num_blocks(num_logits);
    const int panels = num_panels(vocab, 32);
    const weight *bias = m->lm_head_bias;
    float tile[4][TILE_FLOATS];
    float *c[4] = {tile[0], tile[1], tile[2], tile[3]};
    for (int p = first_panel(ctx, panels), end = end_panel(ctx, panels); p < end; p++) {
        const int first = p * 32;
        const row_panel rows = matrix_panel(w, first, vocab, k, ctx->panel);
        const char *next = (const char *)w->rows + (first + 32) * w->row_bytes;
        for (int b = 0; b < blocks; b += 2) {
            const block_pair columns = blocks_at(x, b, blocks, k, 0);
            gemm_tile(ctx->amx, &rows, columns.block, k, 0, c,
                      b ? NO_PREFETCH : prefetch_rows(next, next + LANES * w->row_bytes, w->row_bytes, k / 32, 0, 1));
            for (int j = 0; j < 4; j++) {
                const int row = first + j / 2 * LANES, column = (b + j % 2) * LANES;
                for (int l = 0; l < LANES && column + l < num_logits; l++)
                    for (int i = 0; i < LANES && row + i < vocab; i++)
                        logits[(size_t)(column + l) * vocab + row + i] =
                            tile[j][i * LANES + l] + (bias ? weight_to_f32(bias[row + i]) : 0.0f);
            }
        }
    }
}

/* One block of columns x [features][LANES], RMSNorm applied if there is one, packed. */
static void pack_block_tiles(const float *x, const weight *norm, float eps, int features, packed *out) {
    const vec scale = norm ? inverse_rms_columns(x, eps, features) : broadcast(1);
    for (int i = 0; i < features; i += 2) {
        vec even = loadf(x + i * LANES) * scale, odd = loadf(x + (i + 1) * LANES) * scale;
        if (norm) even *= weight_to_f32(norm[i]), odd *= weight_to_f32(norm[i + 1]);
        pack(out + packed_offset(i), even, odd);
    }
}
#endif
#endif
