/* Linear layers of a pass, their rows divided among its threads. */
#ifndef MINSEEK_LINEAR_H
#define MINSEEK_LINEAR_H
#include "context.h"
#include "gemm_rows.h"
#include "linear_tiles.h"

/* This thread's rows of `total`. */
static inline int first_row(const thread_ctx *ctx, int total) {
    return split_range(total, ctx->thread, ctx->num_threads);
}
static inline int end_row(const thread_ctx *ctx, int total) {
    return split_range(total, ctx->thread + 1, ctx->num_threads);
}
/* Address at which this thread begins to read a matrix. */
static const void *thread_weight_begin(const thread_ctx *ctx, const weight_matrix *w, int rows) {
    return w->rows + (size_t)first_row(ctx, rows) * w->row_bytes;
}

/* This thread's share of the rows of all matrices; `next` is prefetched with the last ones. */
static void linear(const thread_ctx *ctx, const linear_args *args) {
#if HAS_AMX
    if (ctx->amx) {
        linear_tiles(ctx, args);
        return;
    }
#endif
    int total = 0, start = 0;
    for (int i = 0; i < args->count; i++) total += args->matrices[i].rows;
    const int begin = first_row(ctx, total), end = end_row(ctx, total);
    for (int i = 0; i < args->count; start += args->matrices[i++].rows) {
        const matrix *m = args->matrices + i;
        const int first = begin > start ? begin - start : 0, last = end - start < m->rows ? end - start : m->rows;
        const output_layout output = {args->out + (size_t)m->offset * LANES, args->features, LANES};
        const row_product p = {m->w, m->bias, args->x, args->k, args->num_columns, args->accumulate, output};
        const int ends_here = end - start <= m->rows || i + 1 == args->count;
        multiply_rows(&p, first, last, ends_here ? args->next : args->matrices[i + 1].w->rows, ctx->panel);
    }
}

/* This thread's share of act = silu(gate x) * (up x), the input of the product that follows. */
static void swiglu(const thread_ctx *ctx, const layer_weights *w, const operand *x, int num_columns, operand *act,
                   const void *next) {
#if HAS_AMX
    if (ctx->amx) {
        swiglu_tiles(ctx, w, x, num_columns, act, next);
        return;
    }
#endif
    const int k = ctx->model->hidden_size, total = ctx->model->intermediate_size, end = end_row(ctx, total);
    const size_t act_k = padded_k(total);
    float *gates = ctx->tile, *ups = gates + (size_t)num_columns * SWIGLU_ROWS;
    for (int first = first_row(ctx, total); first < end; first += SWIGLU_ROWS) {
        const int last = end - first < SWIGLU_ROWS ? end : first + SWIGLU_ROWS;
        const size_t skipped = first; /* outputs of row r are at r - first */
        const row_product gate = {&w->gate, w->gate_bias, x, k, num_columns, 0, {gates - skipped, SWIGLU_ROWS, 1}};
        const row_product up = {&w->up, w->up_bias, x, k, num_columns, 0, {ups - skipped, SWIGLU_ROWS, 1}};
        multiply_rows(&gate, first, last, w->up.rows + first * w->up.row_bytes, ctx->panel);
        multiply_rows(&up, first, last, last < end ? w->gate.rows + last * w->gate.row_bytes : next, ctx->panel);
        for (int c = 0; c < num_columns; c++) {
            float y[SWIGLU_ROWS];
            for (int r = 0; r < SWIGLU_ROWS; r += LANES)
                storef(y + r, silu(loadf(gates + c * SWIGLU_ROWS + r)) * loadf(ups + c * SWIGLU_ROWS + r));
            store_row(y, last - first, act + c * act_k + first);
        }
    }
    if (ctx->thread == ctx->num_threads - 1)
        for (int c = 0; c < num_columns; c++)
            memset(act + c * act_k + total, 0, sizeof(operand) * (act_k - total));
}

/* Logits [columns][vocab_size] of this thread's part of the vocabulary. */
static void lm_head(const thread_ctx *ctx, const operand *x, int num_logits, float *logits) {
#if HAS_AMX
    if (ctx->amx) {
        lm_head_tiles(ctx, x, num_logits, logits);
        return;
    }
#endif
    const decoder *m = ctx->model;
    const row_product p = {&m->lm_head, m->lm_head_bias, x, m->hidden_size, num_logits, 0, {logits, m->vocab_size, 1}};
    const int end = end_row(ctx, m->vocab_size);
    multiply_rows(&p, first_row(ctx, m->vocab_size), end, m->embedding.rows, ctx->panel);
}

/* Columns `first`.. of x [features][LANES], RMSNorm applied if there is one, as input of a product: in `out`, at most
 * `num_columns` columns. */
static void pack_block(const thread_ctx *ctx, const float *x, const weight *norm, int features, int block,
                       int num_columns, operand *out) {
    const float eps = ctx->model->rms_norm_eps;
#if HAS_AMX
    if (ctx->amx) {
        pack_block_tiles(x, norm, eps, features, (packed *)out + block * packed_offset(features));
        return;
    }
#endif
    const vec scale = norm ? inverse_rms_columns(x, eps, features) : broadcast(1);
    const size_t k = padded_k(features);
    const int first = block * LANES, count = num_columns - first < LANES ? num_columns - first : LANES;
    for (int start = 0; start < features; start += LANES) {
        const int length = features - start < LANES ? features - start : LANES;
        ivec v[LANES];
        for (int i = 0; i < LANES; i++) {
            vec y = i < length ? loadf(x + (start + i) * LANES) * scale : broadcast(0);
            if (norm && i < length) y *= weight_to_f32(norm[start + i]);
            v[i] = (ivec)y;
        }
        transpose(v);
        for (int l = 0; l < count; l++) {
            float y[LANES];
            storef(y, (vec)v[l]);
            store_row(y, length, out + (first + l) * k + start);
        }
    }
    for (int l = 0; l < count; l++) memset(out + (first + l) * k + features, 0, sizeof(operand) * (k - features));
}

#endif
