/* Structures of a pass: sequences, a thread's scratch, and the context that functions pass on. */
#ifndef MINSEEK_CONTEXT_H
#define MINSEEK_CONTEXT_H
#include "barrier.h"
#include "decoder.h"
#include "operands.h"

/* One sequence's part of a pass, mirrored in native/structs.py. Arrays of pointers have one for each layer. */
typedef struct {
    int32_t num_tokens, first_column; /* new tokens, and the column of the first */
    int32_t position;                 /* of the first new token */
    int32_t window_start;             /* new tokens from this one on count in attn_window_sum, too */
    int32_t query_index, block;       /* queries go into a ring of `block` rows, from row query_index on */
    const int32_t *lengths, *capacities; /* pairs of each layer before this pass, and pairs that a head can hold */
    weight *const *keys, *const *values; /* [H, capacity, D] */
    weight *const *raw_keys;             /* keys without their positions, [H, capacity, D]; or NULL */
    int32_t *const *positions;           /* [H, capacity]; or NULL, where pair i has position i */
    /* Attention received by each pair, mean over the group's heads, summed over queries, [H, capacity]; or NULL. */
    float *const *attn_sum, *const *attn_window_sum;
    float *const *queries; /* queries without their positions, [H * G, block, D]; or NULL */
} sequence;

/* Scratch of one thread for attention over n pairs, n rounded up to 32; see scratch_layout(). */
typedef struct {
    float *scores[2];         /* [n][LANES] */
    packed *weights[2];       /* [n / PER_PACKED][LANES] */
    weight *transposed;       /* values of one head, [D][n] */
    float *attention_sums[2]; /* attention received, over all queries and over those in the window: [n][LANES] */
    packed *queries;          /* two tiles of [D / PER_PACKED][LANES] */
    float *columns;           /* [D][LANES], twice */
    weight *last_keys;        /* [LANES][D]: the last keys, when they are fewer than LANES */
} thread_scratch;

/* One thread of a pass. */
typedef struct {
    const decoder *model;
    barrier *barrier;
    int thread, num_threads;
    int amx;        /* tile registers are available */
    operand *panel; /* scratch for rows that are unpacked */
    float *tile;    /* scratch of swiglu: [2][num_columns][SWIGLU_ROWS] */
    thread_scratch scratch;
} thread_ctx;

/* Input and output of one layer's attention, activations [block][features][LANES]. */
typedef struct {
    const layer_weights *weights;
    int layer;
    const float *qkv;           /* [block][(H G + 2 H) D][LANES] */
    const float *cosine, *sine; /* of each column's position, [block][D/2][LANES] */
    float *out;                 /* [block][H G D][LANES] */
} layer_io;

static inline int query_width(const decoder *m) { return m->num_heads * m->head_dim; }
static inline int kv_width(const decoder *m) { return m->num_kv_heads * m->head_dim; }
static inline int qkv_width(const decoder *m) { return query_width(m) + 2 * kv_width(m); }
static inline int group_size(const decoder *m) { return m->num_heads / m->num_kv_heads; }
static inline void wait_for_all(const thread_ctx *ctx) { barrier_wait(ctx->barrier, ctx->num_threads); }

/* Divide memory among a thread's arrays; without memory, only count. Returns the bytes. */
static size_t scratch_layout(size_t max_kv_len, size_t dim, char *memory, thread_scratch *s) {
    const size_t n = round_up(max_kv_len, 32);
    size_t bytes = 0;
#define TAKE(FIELD, COUNT) s->FIELD = (void *)(memory + bytes), bytes += round_up((COUNT) * sizeof(*s->FIELD), 64)
    TAKE(scores[0], n * LANES);
    TAKE(scores[1], n * LANES);
    TAKE(attention_sums[0], n * LANES);
    TAKE(attention_sums[1], n * LANES);
    TAKE(weights[0], n / PER_PACKED * LANES);
    TAKE(weights[1], n / PER_PACKED * LANES);
    TAKE(transposed, dim * n);
    TAKE(queries, 2 * dim / PER_PACKED * LANES);
    TAKE(columns, 2 * dim * LANES);
    TAKE(last_keys, LANES * dim);
#undef TAKE
    return bytes;
}

#endif
