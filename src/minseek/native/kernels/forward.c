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
    float *x;             /* the residual stream, [block][hidden_size][16] */
    float *qkv;           /* [block][(H G + 2 H) D][16] */
    float *attn_out;      /* [block][H G D][16]; later the columns whose logits are wanted */
    float *cosine, *sine; /* of each column's position, [block][D/2][16] */
    packed *in;           /* input of the next product */
    packed *act;          /* [block][intermediate_size][16], packed */
    char *scratch;        /* one thread_scratch a thread */
    float *panels;        /* scratch of pack_panel, one a thread */
    task_queue *tasks;    /* of attention, one a layer */
} workspace;

static size_t scratch_bytes(const decoder *m, size_t max_kv_len) {
    thread_scratch unused;
    return round_up(scratch_layout(max_kv_len, m->head_dim, NULL, &unused), 4096);
}

/* Floats of a thread's scratch for panels of any matrix. */
static size_t max_panel_floats(const decoder *m) {
    const int ks[] = {m->hidden_size, query_width(m), m->intermediate_size};
    size_t most = 0;
    for (int i = 0; i < 3; i++) most = panel_floats(ks[i]) > most ? panel_floats(ks[i]) : most;
    return round_up(most, LANES);
}

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
    TAKE(in, columns * widest / PER_PACKED);
    TAKE(act, columns * m->intermediate_size / PER_PACKED);
    TAKE(scratch, m->num_threads * scratch_bytes(m, max_kv_len));
    TAKE(panels, m->num_threads * max_panel_floats(m));
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
    for (int b = ctx->thread; b < num_blocks(args->num_columns); b += ctx->num_threads)
        for (int l = 0; l < LANES; l++) {
            const int c = b * LANES + l, valid = c < args->num_columns;
            const weight *e = m->embedding + (valid ? (size_t)args->tokens[c] * hidden : 0);
            float *x = ws->x + (size_t)b * hidden * LANES + l;
            for (int i = 0; i < hidden; i++) x[i * LANES] = valid ? weight_to_f32(e[i]) : 0;
            for (int i = 0; i < half; i++) {
                ws->cosine[((size_t)b * half + i) * LANES + l] = valid ? args->cosine[(size_t)c * half + i] : 1;
                ws->sine[((size_t)b * half + i) * LANES + l] = valid ? args->sine[(size_t)c * half + i] : 0;
            }
        }
}

/* Pack this thread's blocks of x [block][features][16], RMSNorm applied if there is one. */
static void pack_blocks(const thread_ctx *ctx, const float *x, const weight *norm, int features, int num_columns,
                        packed *out) {
    for (int b = ctx->thread; b < num_blocks(num_columns); b += ctx->num_threads)
        pack_block(x + (size_t)b * features * LANES, norm, ctx->model->rms_norm_eps, features,
                   out + b * packed_offset(features));
}

/* Attention of all sequences and heads, each a task; `after` is prefetched with this thread's last one. */
static void attention(const thread_ctx *ctx, const layer_io *io, const forward_args *args, task_queue *queue,
                      const weight *after) {
    const decoder *m = ctx->model;
    const int heads = m->num_kv_heads, num_tasks = args->num_sequences * heads;
    for (int task; (task = next_task(queue)) < num_tasks;) {
        const sequence *s = args->sequences + task / heads;
        if (s->num_tokens > 1 || group_size(m) > LANES) {
            prefill_attention(ctx, io, task % heads, s);
            continue;
        }
        const int following = task + ctx->num_threads; /* most likely, threads being equally fast */
        const weight *next = after;
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
    const matrix qkv[] = {{w->q, w->q_bias, width, 0}, {w->k, w->k_bias, kv, width}, {w->v, w->v_bias, kv, width + kv}};
    const matrix o = {w->o, w->o_bias, hidden, 0}, down = {w->down, w->down_bias, hidden, 0};
    const weight *o_begin = thread_weight_begin(ctx, w->o, hidden, 32, width);
    const weight *gate_begin = thread_weight_begin(ctx, w->gate, inner, LANES, hidden);
    const weight *down_begin = thread_weight_begin(ctx, w->down, hidden, 32, inner);
    const weight *after = layer + 1 < m->num_layers ? thread_weight_begin(ctx, w[1].q, width, 32, hidden)
                                                    : thread_weight_begin(ctx, m->lm_head, m->vocab_size, 32, hidden);

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
        if (b < num_blocks(args->num_logits)) pack_block(x, NULL, 0, k, ws->in + b * packed_offset(k));
    }
}

/* Logits of the first output columns. */
static void lm_head(const thread_ctx *ctx, const workspace *ws, const forward_args *args) {
    const decoder *m = ctx->model;
    const int k = m->hidden_size, vocab = m->vocab_size, blocks = num_blocks(args->num_logits);
    const int interleave = interleave_for(args->num_logits, k), panels = num_panels(vocab, 32);
    const packed *x = replicate_columns(ws->in, k, interleave, ctx->panel);
    const weight *bias = m->lm_head_bias;
    float tile[4][TILE_FLOATS];
    float *c[4] = {tile[0], tile[1], tile[2], tile[3]};
    for (int p = first_panel(ctx, panels), end = end_panel(ctx, panels); p < end; p++) {
        const int first = p * 32;
        row_panel rows = panel_at(m->lm_head, first, vocab, k);
        const weight *next = rows.half[0] + (size_t)32 * k;
        pack_panel(&rows, k, interleave, ctx->panel);
        for (int b = 0; b < blocks; b += 2) {
            const block_pair columns = blocks_at(x, b, blocks, k, 0);
            gemm_tile(ctx->amx, &rows, columns.block, k, 0, c,
                      b ? NO_PREFETCH : prefetch_rows(next, next + (size_t)LANES * k, k, k / 32, 0, 1));
            for (int j = 0; j < 4; j++) {
                const int row = first + j / 2 * LANES, column = (b + j % 2) * LANES;
                for (int l = 0; l < LANES && column + l < args->num_logits; l++)
                    for (int i = 0; i < LANES && row + i < vocab; i++)
                        args->logits[(size_t)(column + l) * vocab + row + i] =
                            tile[j][i * LANES + l] + (bias ? weight_to_f32(bias[row + i]) : 0.0f);
            }
        }
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
                          .amx = amx, .panel = ws.panels + thread * max_panel_floats(m)};
        scratch_layout(kv_len, m->head_dim, ws.scratch + thread * scratch_bytes(m, kv_len), &ctx.scratch);
        amx_configure(amx);
        embed(&ctx, &ws, args);
        for (int layer = 0; layer < m->num_layers; layer++) run_layer(&ctx, &ws, args, layer);
        if (args->num_outputs) {
            final_norm(&ctx, &ws, args);
            if (args->num_logits) {
                wait_for_all(&ctx);
                lm_head(&ctx, &ws, args);
            }
        }
        amx_release(amx);
    }
}
