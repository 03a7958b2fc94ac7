/* A decoder and its weights, mirrored in native/structs.py. H key/value heads, G query heads each, D head dimension. */
#ifndef MINSEEK_DECODER_H
#define MINSEEK_DECODER_H
#include "formats.h"

typedef struct {
    weight_matrix q, k, v, o, gate, up, down;
    const weight *q_bias, *k_bias, *v_bias, *o_bias, *gate_bias, *up_bias, *down_bias;
    const weight *attn_norm, *mlp_norm, *q_norm, *k_norm;
    int32_t window; /* number of last keys that a query attends to; 0: all */
    int32_t reserved;
} layer_weights;

typedef struct {
    int32_t num_layers, num_heads, num_kv_heads, head_dim;
    int32_t hidden_size, intermediate_size, vocab_size, num_threads;
    float rms_norm_eps, attention_scale;
    weight_matrix embedding, lm_head;
    const weight *norm, *lm_head_bias;
    const layer_weights *layers;
} decoder;

#endif
