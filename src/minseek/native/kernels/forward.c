/* One pass of a Llama-family decoder over new tokens of many sequences, on the CPU: chunks of prefill and single tokens
 * of decoding together, each token a column. See gemm.h for the layout of columns, attention.h for attention.
 *
 * All threads run through the layers together. Weights are read once a pass: with few columns that is its floor, with
 * many it is the products.
 */
#include "decode_attention.h"
#include "linear.h"

/* Work in units that the next free thread takes. */
typedef struct {
    atomic_int next;
} task_queue;
static inline int next_task(task_queue *q) { return atomic_fetch_add(&q->next, 1); }

/* Input and output of a pass, mirrored in native/structs.py. */
typedef struct {
    const int32_t *tokens; /* [num_columns] */
    const sequence *sequences;
    const float *cosine, *sine;    /* [num_columns, D/2], of the tokens' positions */
    char *memory;                  /* forward_bytes(), aligned to 64 */
    const int32_t *output_columns; /* different columns whose hidden states are wanted */
    float *logits;                 /* [num_logits, vocab_size], of the first of them */
    float *hidden;                 /* [num_outputs, hidden_size], after the last norm */
    int32_t num_columns, num_sequences, max_kv_len, num_outputs, num_logits;
    int32_t reserved;
} forward_args;
int64_t sizeof_forward_args(void) { return sizeof(forward_args); }
int64_t sizeof_sequence(void) { return sizeof(sequence); }

/* Memory of a pass. */
typedef struct {
    float *x;             /* the residual stream, [block][hidden_size][LANES] */
    float *qkv;           /* [block][(H G + 2 H) D][LANES] */
    float *attn_out;      /* [block][H G D][LANES]; later the columns whose logits are wanted */
    float *cosine, *sine; /* of each column's position, [block][D/2][LANES] */
    operand *in;          /* input of the next product */
    operand *act;         /* [num_columns, intermediate_size], or packed */
    char *scratch;        /* one thread_scratch a thread */
    operand *panels;      /* scratch for unpacked rows, one a thread */
    float *tiles;         /* scratch of swiglu, one a thread */
    task_queue *tasks;    /* of attention, one a layer */
} workspace;

static size_t scratch_bytes(const decoder *m, size_t max_kv_len) {
    thread_scratch unused;
    return round_up(scratch_layout(max_kv_len, m->head_dim, NULL, &unused), 4096);
}

/* Operands of a thread's scratch for panels of any matrix. */
static size_t max_panel_operands(const decoder *m) {
    const int ks[] = {m->hidden_size, query_width(m), m->intermediate_size};
    size_t most = 0;
    for (int i = 0; i < 3; i++) {
        const size_t rows = panel_operands(ks[i]), tiles = 2 * LANES * padded_k(ks[i]);
        if (rows > most) most = rows;
        if (HAS_AMX && tiles > most) most = tiles;
    }
    return round_up(most, 64);
}
static size_t tile_floats(size_t num_columns) { return 2 * num_columns * SWIGLU_ROWS; }

/* Scores and values of one head share arrays, so they are at least as long as a head is wide. */
static size_t scratch_kv_len(const decoder *m, int64_t max_kv_len) {
    return max_kv_len > m->head_dim ? max_kv_len : m->head_dim;
}

/* Divide memory among the arrays of a pass; without memory, only count. Returns the bytes. */
static size_t workspace_layout(const decoder *m, size_t num_columns, size_t max_kv_len, char *memory, workspace *w) {
    const size_t hidden = m->hidden_size, width = query_width(m), widest = hidden > width ? hidden : width;
    const size_t columns = round_up(num_columns, LANES);
    size_t bytes = 0;
#define TAKE(FIELD, COUNT) w->FIELD = (void *)(memory + bytes), bytes += round_up((COUNT) * sizeof(*w->FIELD), 64)
    TAKE(x, columns * hidden);
    TAKE(qkv, columns * qkv_width(m));
    TAKE(attn_out, columns * widest);
    TAKE(cosine, columns * m->head_dim / 2);
    TAKE(sine, columns * m->head_dim / 2);
    TAKE(in, columns * padded_k(widest));
    TAKE(act, columns * padded_k(m->intermediate_size));
    TAKE(scratch, m->num_threads * scratch_bytes(m, max_kv_len));
    TAKE(panels, m->num_threads * max_panel_operands(m));
    TAKE(tiles, m->num_threads * tile_floats(num_columns));
    TAKE(tasks, m->num_layers);
#undef TAKE
    return bytes;
}

/* Bytes of memory, aligned to 64, that forward() needs for num_columns columns and max_kv_len pairs a sequence. */
int64_t forward_bytes(const decoder *m, int64_t num_columns, int64_t max_kv_len) {
    workspace unused;
    return workspace_layout(m, num_columns, scratch_kv_len(m, max_kv_len), NULL, &unused);
}

/* Embeddings and angles of this thread's blocks of columns. */
static void embed(const thread_ctx *ctx, const workspace *ws, const forward_args *args) {
    const decoder *m = ctx->model;
    const int hidden = m->hidden_size, half = m->head_dim / 2;
    float *row = (float *)ctx->panel; /* holds at least eight rows of operands */
    for (int b = ctx->thread; b < num_blocks(args->num_columns); b += ctx->num_threads)
        for (int l = 0; l < LANES; l++) {
            const int c = b * LANES + l, valid = c < args->num_columns;
            float *x = ws->x + (size_t)b * hidden * LANES + l;
            if (valid) unpack_row_f32(&m->embedding, args->tokens[c], hidden, row);
            for (int i = 0; i < hidden; i++) x[i * LANES] = valid ? row[i] : 0;
            for (int i = 0; i < half; i++) {
                ws->cosine[((size_t)b * half + i) * LANES + l] = valid ? args->cosine[(size_t)c * half + i] : 1;
                ws->sine[((size_t)b * half + i) * LANES + l] = valid ? args->sine[(size_t)c * half + i] : 0;
            }
        }
}

/* This thread's blocks of x [block][features][LANES] as input of a product, RMSNorm applied if there is one. */
static void pack_blocks(const thread_ctx *ctx, const float *x, const weight *norm, int features, int num_columns,
                        operand *out) {
    for (int b = ctx->thread; b < num_blocks(num_columns); b += ctx->num_threads)
        pack_block(ctx, x + (size_t)b * features * LANES, norm, features, b, num_columns, out);
}

/* Attention of all sequences and heads, each a task; `after` is prefetched with this thread's last one. */
static void attention(const thread_ctx *ctx, const layer_io *io, const forward_args *args, task_queue *queue,
                      const void *after) {
    const decoder *m = ctx->model;
    const int heads = m->num_kv_heads, num_tasks = args->num_sequences * heads;
    for (int task; (task = next_task(queue)) < num_tasks;) {
        const sequence *s = args->sequences + task / heads;
        if (s->num_tokens > 1 || group_size(m) > LANES) {
            prefill_attention(ctx, io, task % heads, s);
            continue;
        }
        const int following = task + ctx->num_threads; /* most likely, threads being equally fast */
        const void *next = after;
        if (following < num_tasks) {
            const sequence *following_sequence = args->sequences + following / heads;
            const size_t offset = (size_t)(following % heads) * following_sequence->capacities[io->layer] * m->head_dim;
            next = following_sequence->keys[io->layer] + offset;
        }
        decode_attention(ctx, io, task % heads, s, next);
    }
}

static void run_layer(const thread_ctx *ctx, const workspace *ws, const forward_args *args, int layer) {
    const decoder *m = ctx->model;
    const layer_weights *w = m->layers + layer;
    const int hidden = m->hidden_size, inner = m->intermediate_size, width = query_width(m), kv = kv_width(m);
    const int columns = args->num_columns;
    const matrix qkv[] = {
        {&w->q, w->q_bias, width, 0}, {&w->k, w->k_bias, kv, width}, {&w->v, w->v_bias, kv, width + kv}};
    const matrix o = {&w->o, w->o_bias, hidden, 0}, down = {&w->down, w->down_bias, hidden, 0};
    const void *o_begin = thread_weight_begin(ctx, &w->o, hidden);
    const void *gate_begin = thread_weight_begin(ctx, &w->gate, inner);
    const void *down_begin = thread_weight_begin(ctx, &w->down, hidden);
    const void *after = layer + 1 < m->num_layers ? thread_weight_begin(ctx, &w[1].q, width)
                                                  : thread_weight_begin(ctx, &m->lm_head, m->vocab_size);

    /* Blocks of columns are divided among threads as before, so no barrier is needed first. */
    pack_blocks(ctx, ws->x, w->attn_norm, hidden, columns, ws->in);
    wait_for_all(ctx);
    linear(ctx, &(linear_args){qkv, 3, hidden, ws->in, columns, 0, ws->qkv, qkv_width(m), o_begin});
    wait_for_all(ctx);
    const layer_io io = {w, layer, ws->qkv, ws->cosine, ws->sine, ws->attn_out};
    attention(ctx, &io, args, ws->tasks + layer, o_begin);
    wait_for_all(ctx);
    pack_blocks(ctx, ws->attn_out, NULL, width, columns, ws->in);
    wait_for_all(ctx);
    linear(ctx, &(linear_args){&o, 1, width, ws->in, columns, 1, ws->x, hidden, gate_begin});
    wait_for_all(ctx);
    pack_blocks(ctx, ws->x, w->mlp_norm, hidden, columns, ws->in);
    wait_for_all(ctx);
    swiglu(ctx, w, ws->in, columns, ws->act, down_begin);
    wait_for_all(ctx);
    linear(ctx, &(linear_args){&down, 1, inner, ws->act, columns, 1, ws->x, hidden, after});
    wait_for_all(ctx);
}

/* Hidden states of the output columns, after the last norm; of those with logits packed, too. */
static void final_norm(const thread_ctx *ctx, const workspace *ws, const forward_args *args) {
    const decoder *m = ctx->model;
    const int k = m->hidden_size;
    for (int b = ctx->thread; b * LANES < args->num_outputs; b += ctx->num_threads) {
        int columns[LANES];
        for (int l = 0; l < LANES; l++)
            columns[l] = b * LANES + l < args->num_outputs ? args->output_columns[b * LANES + l] : -1;
        float *x = ws->attn_out + (size_t)b * k * LANES; /* free by now */
        rms_norm_columns(gather(ws->x, k, 0, k, columns, x), m->norm, m->rms_norm_eps, k, x);
        for (int l = 0; l < LANES; l++)
            if (columns[l] >= 0)
                for (int i = 0; i < k; i++) args->hidden[((size_t)b * LANES + l) * k + i] = x[i * LANES + l];
        if (b < num_blocks(args->num_logits)) pack_block(ctx, x, NULL, k, b, args->num_logits, ws->in);
    }
}

/* Run the tokens of all sequences through the decoder; their keys and values are appended to the caches. */
void forward(const decoder *m, const forward_args *args) {
    const size_t kv_len = scratch_kv_len(m, args->max_kv_len);
    const int amx = amx_available();
    workspace ws;
    workspace_layout(m, args->num_columns, kv_len, args->memory, &ws);
    memset(ws.tasks, 0, sizeof(task_queue) * m->num_layers);
    barrier barrier = {0};
    const int max_threads = num_blocks(args->num_columns) == 1 && m->num_threads > 8 ? 8 : m->num_threads;

#pragma omp parallel num_threads(max_threads)
    {
        const int thread = omp_get_thread_num();
        thread_ctx ctx = {.model = m, .barrier = &barrier, .thread = thread, .num_threads = omp_get_num_threads(),
                          .amx = amx, .panel = ws.panels + thread * max_panel_operands(m),
                          .tile = ws.tiles + thread * tile_floats(args->num_columns)};
        scratch_layout(kv_len, m->head_dim, ws.scratch + thread * scratch_bytes(m, kv_len), &ctx.scratch);
        amx_configure(amx);
        embed(&ctx, &ws, args);
        for (int layer = 0; layer < m->num_layers; layer++) run_layer(&ctx, &ws, args, layer);
        if (args->num_outputs) {
            final_norm(&ctx, &ws, args);
            if (args->num_logits) {
                wait_for_all(&ctx);
                lm_head(&ctx, ws.in, args->num_logits, args->logits);
            }
        }
        amx_release(amx);
    }
}
