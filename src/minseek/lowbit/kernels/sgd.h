/* A step of SGD on bfloat16 weights, in float32, in the order of operations of torch.optim.SGD; stored values are
 * rounded to bfloat16, to nearest even or stochastically. */
#ifndef MINSEEK_SGD_H
#define MINSEEK_SGD_H
#include <omp.h>
#include "grid.h"
#include "lanes.h"
#include "philox.h"

/* The layout is that of `SGDStep` in native.py. */
typedef struct {
    uint16_t *weights;        /* bfloat16 [n] */
    const uint16_t *gradient; /* bfloat16 [n] */
    uint16_t *momenta;        /* bfloat16 [n], or NULL without momentum */
    int64_t n;
    uint64_t seed, weights_stream, momenta_stream;
    float lr, momentum, one_minus_dampening, weight_decay;
    int32_t first_step; /* 1 if the momenta are still empty */
    int32_t nesterov, maximize;
    int32_t weights_mode, momenta_mode; /* NEAREST_EVEN or STOCHASTIC */
    int32_t threads;
} sgd_step;

/* Rounds to bfloat16, stores, and returns what was stored. */
__attribute__((always_inline)) static inline f32_vec store_bf16(f32_vec x, uint16_t *to, int count, const int mode,
                                                                const uint32_t *random) {
    u32_vec addend = bf16_nearest(x);
    if (mode == STOCHASTIC) addend = *(const u32_vec_u *)random;
    const u32_vec upper = bf16_narrow(x, addend);
    bf16_store_some(to, upper, count);
    return (f32_vec)(upper << 16);
}

__attribute__((always_inline)) static inline void update_range(const sgd_step *shared, int64_t begin, int64_t end,
                                                               const int weights_mode, const int momenta_mode) {
    const sgd_step s = *shared; /* a copy: stores cannot change it, so it stays in registers */
    const random_source weights_source = {s.seed, s.weights_stream}, momenta_source = {s.seed, s.momenta_stream};
    uint32_t weights_random[SPAN], momenta_random[SPAN];
    for (int64_t offset = begin; offset < end; offset += SPAN) {
        if (s.momenta && momenta_mode == STOCHASTIC) draw(momenta_source, offset / SPAN, 16, momenta_random);
        if (weights_mode == STOCHASTIC) draw(weights_source, offset / SPAN, 16, weights_random);
        for (int i = 0; i < SPAN && offset + i < end; i += F32_LANES) {
            const int64_t j = offset + i;
            const int count = end - j < F32_LANES ? (int)(end - j) : F32_LANES;
            f32_vec x = bf16_widen_some(s.weights + j, count), g = bf16_widen_some(s.gradient + j, count);
            if (s.maximize) g = -g;
            if (s.weight_decay != 0) g += s.weight_decay * x;
            if (s.momenta) {
                f32_vec mean = g;
                if (!s.first_step) {
                    mean = bf16_widen_some(s.momenta + j, count) * s.momentum;
                    ROUND_HERE(mean); /* as PyTorch's mul_ does */
                    mean += s.one_minus_dampening * g;
                }
                mean = store_bf16(mean, s.momenta + j, count, momenta_mode, momenta_random + i);
                g = s.nesterov ? g + s.momentum * mean : mean;
            }
            store_bf16(x - s.lr * g, s.weights + j, count, weights_mode, weights_random + i);
        }
    }
}

void sgd_bfloat16(const sgd_step *step) {
#pragma omp parallel num_threads(step->threads) if (step->n > CHUNK)
    { /* equal shares, not chunks: most tensors have few of these */
        const int64_t spans = (step->n + SPAN - 1) / SPAN, thread = omp_get_thread_num(), all = omp_get_num_threads();
        const int64_t begin = spans * thread / all * SPAN, stop = spans * (thread + 1) / all * SPAN;
        const int64_t end = stop < step->n ? stop : step->n;
        if (step->weights_mode == STOCHASTIC && step->momenta_mode == STOCHASTIC)
            update_range(step, begin, end, STOCHASTIC, STOCHASTIC);
        else
            update_range(step, begin, end, step->weights_mode, step->momenta_mode);
    }
}
#endif
