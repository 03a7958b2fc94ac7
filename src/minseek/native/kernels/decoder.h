/* The weights of a decoder as models/native.py lays them out. H key/value heads, G query heads each, D dimensions. */
#ifndef MINSEEK_DECODER_H
#define MINSEEK_DECODER_H
#include "vector.h"

typedef struct {
    const weight *norm1, *q, *k, *v, *o, *q_bias, *k_bias, *v_bias, *o_bias, *q_norm, *k_norm;
    const weight *norm2, *gate, *up, *down, *gate_bias, *up_bias, *down_bias;
    int32_t window; /* keys further back than this are not attended to; 0 means all are */
    int32_t reserved;
} layer_weights;

typedef struct {
    int32_t layers, hidden, query_heads, kv_heads, head_dim, inner, vocab, threads;
    float eps, scale;
    const weight *embedding, *norm, *head, *head_bias;
    const layer_weights *layer;
} decoder;

#endif
