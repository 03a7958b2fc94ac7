/* Linear layers of a pass, divided among its threads by panels of 32 rows. */
#ifndef MINSEEK_LINEAR_H
#define MINSEEK_LINEAR_H
#include "context.h"
#include "gemm.h"
#include "norm.h"

/* out [block][rows][16] = (out +) w x + bias. */
typedef struct {
    const weight *w, *bias;
    int rows, offset; /* offset: of the first row among the features of out */
} matrix;

/* Matrices [rows, k] that are multiplied with the same columns. */
typedef struct {
    const matrix *matrices;
    int count, k;
    const packed *x;
    int num_columns;
    int accumulate; /* into out */
    float *out;
    int features;       /* of out */
    const weight *next; /* where the next phase begins for this thread, to be prefetched */
} linear_args;

static inline int num_blocks(int num_columns) { return (num_columns + LANES - 1) / LANES; }
static inline int num_panels(int rows, int panel) { return (rows + panel - 1) / panel; }
/* First panel of this thread, and the one after its last. */
static inline int first_panel(const thread_ctx *ctx, int panels) {
    return (int)((int64_t)panels * ctx->thread / ctx->num_threads);
}
static inline int end_panel(const thread_ctx *ctx, int panels) {
    return (int)((int64_t)panels * (ctx->thread + 1) / ctx->num_threads);
}

/* This thread's first row of a matrix that is multiplied by panels. */
static const weight *thread_weight_begin(const thread_ctx *ctx, const weight *w, int rows, int panel, int k) {
    return w + (size_t)first_panel(ctx, num_panels(rows, panel)) * panel * k;
}

/* Number of operands of a row that are multiplied at a time. A panel in tiles is to stay in the first cache for all
 * blocks, which pays if they are many and come from the second one. */
#define FIRST_CACHE 400            /* operands of 32 rows, with as many of 32 columns */
#define SECOND_CACHE (1024 * 1024) /* bytes of all blocks */
static int k_block(int amx, int blocks, int k) {
    if (!amx || k % 32 || blocks < 16 || (size_t)blocks * LANES * k * sizeof(weight) > SECOND_CACHE) return k;
    const int pieces = (k + FIRST_CACHE - 1) / FIRST_CACHE;
    return (int)round_up((k + pieces - 1) / pieces, 32);
}

/* Blocks b and b + 1 of x, from operand k_start of k on; NULL for one that is not there. */
typedef struct {
    const packed *block[2];
} block_pair;
static inline block_pair blocks_at(const packed *x, int b, int blocks, int k, int k_start) {
    const packed *first = x + b * packed_offset(k) + packed_offset(k_start);
    return (block_pair){{first, b + 1 < blocks ? first + packed_offset(k) : NULL}};
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
static void linear(const thread_ctx *ctx, const linear_args *args) {
    const matrix *ms = args->matrices;
    const int k = args->k, blocks = num_blocks(args->num_columns), interleave = interleave_for(args->num_columns, k);
    const int piece = k_block(ctx->amx, blocks, k), pieces = (k + piece - 1) / piece, pairs = (blocks + 1) / 2;
    int panels = 0;
    for (int i = 0; i < args->count; i++) panels += num_panels(ms[i].rows, 32);
    const int end = end_panel(ctx, panels);
    const packed *x = replicate_columns(args->x, k, interleave, ctx->panel);
    for (int p = first_panel(ctx, panels), matrix_start = 0, i = 0; p < end; p++) {
        while (p - matrix_start >= num_panels(ms[i].rows, 32)) matrix_start += num_panels(ms[i++].rows, 32);
        const int first = (p - matrix_start) * 32;
        row_panel rows = panel_at(ms[i].w, first, ms[i].rows, k);
        const int matrix_continues = ms[i].rows - first > 32;
        const weight *next =
            p + 1 == end ? args->next : matrix_continues ? rows.half[0] + (size_t)32 * k : ms[i + 1].w;
        pack_panel(&rows, k, interleave, ctx->panel);
        for (int part = 0; part < pieces * pairs; part++) {
            const int k_start = part / pairs * piece, b = part % pairs * 2;
            const int length = k - k_start < piece ? k - k_start : piece;
            const block_pair columns = blocks_at(x, b, blocks, k, k_start);
            row_panel rows_from_k = rows;
            rows_from_k.half[0] += k_start;
            if (rows_from_k.half[1]) rows_from_k.half[1] += k_start;
            float *c[4];
            for (int j = 0; j < 4; j++) {
                const int feature = ms[i].offset + first + j / 2 * LANES;
                c[j] = args->out + ((size_t)(b + j % 2) * args->features + feature) * LANES;
            }
            gemm_tile(ctx->amx, &rows_from_k, columns.block, length, args->accumulate || k_start, c,
                      prefetch_rows(next, next + (size_t)LANES * k, k, length / 32, part, pieces * pairs));
            if (ms[i].bias && k_start + length == k) add_bias(&ms[i], first, b, args);
        }
    }
}

/* This thread's share of act = silu(gate x) * (up x), packed for the product that follows. */
static void swiglu(const thread_ctx *ctx, const layer_weights *w, const packed *x, int num_columns, packed *act,
                   const weight *next) {
    const int k = ctx->model->hidden_size, total = ctx->model->intermediate_size, panels = num_panels(total, LANES);
    const int blocks = num_blocks(num_columns), interleave = interleave_for(num_columns, k), pairs = (blocks + 1) / 2;
    float tile[4][TILE_FLOATS];
    float *c[4] = {tile[0], tile[1], tile[2], tile[3]};
    x = replicate_columns(x, k, interleave, ctx->panel);
    for (int p = first_panel(ctx, panels), end = end_panel(ctx, panels); p < end; p++) {
        const int first = p * LANES, rows = total - first < LANES ? total - first : LANES;
        const weight *gate = w->gate + (size_t)first * k, *up = w->up + (size_t)first * k;
        const weight *next_gate = p + 1 < end ? gate + (size_t)LANES * k : next;
        const weight *next_up = p + 1 < end ? up + (size_t)LANES * k : next + (size_t)LANES * k;
        row_panel both = {{gate, up}, {rows, rows}, (size_t)k, UNPACKED};
        pack_panel(&both, k, interleave, ctx->panel);
        for (int b = 0; b < blocks; b += 2) {
            const block_pair columns = blocks_at(x, b, blocks, k, 0);
            gemm_tile(ctx->amx, &both, columns.block, k, 0, c,
                      prefetch_rows(next_gate, next_up, k, k / 32, b / 2, pairs));
            for (int j = 0; j < 2 && b + j < blocks; j++) {
                packed *o = act + (size_t)(b + j) * packed_offset(total) + packed_offset(first);
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

/* Columns of x [features][16], RMSNorm applied if there is one, packed. */
static void pack_block(const float *x, const weight *norm, float eps, int features, packed *out) {
    const vec scale = norm ? inverse_rms_columns(x, eps, features) : broadcast(1);
    for (int i = 0; i < features; i += 2) {
        vec even = loadf(x + i * LANES) * scale, odd = loadf(x + (i + 1) * LANES) * scale;
        if (norm) even *= weight_to_f32(norm[i]), odd *= weight_to_f32(norm[i + 1]);
        pack(out + packed_offset(i), even, odd);
    }
}

#endif
