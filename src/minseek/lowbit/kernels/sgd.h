/* A step of SGD on bfloat16 weights, in float32, in the order of operations of torch.optim.SGD; what is kept is rounded
 * to bfloat16, to nearest even or by chance. */
#ifndef MINSEEK_SGD_H
#define MINSEEK_SGD_H
#include <omp.h>
#include "grid.h"
#include "philox.h"

typedef float reals __attribute__((vector_size(4 * BLOCKS)));
typedef uint16_t halves __attribute__((vector_size(2 * BLOCKS), aligned(2), may_alias));

static inline reals widened(const uint16_t *from, int count) {
    halves some = {0};
    if (count == BLOCKS)
        some = *(const halves *)from;
    else
        memcpy(&some, from, (size_t)count * 2);
    return (reals)(__builtin_convertvector(some, lanes) << 16);
}

/* Rounds to bfloat16, stores, and gives back what was stored. */
__attribute__((always_inline)) static inline reals narrowed(reals x, uint16_t *to, int count, const int mode, const uint32_t *random) {
    const lanes bits = (lanes)x, magnitude = bits & 0x7FFFFFFF;
    lanes more = ((bits >> 16) & 1) + 0x7FFF;
    if (mode == STOCHASTIC) more = (lanes) * (const lanes_u *)random;
    const lanes finite = (lanes)(magnitude < 0x7F800000), nan = (lanes)(magnitude > 0x7F800000);
    const lanes upper = (bits + (more & finite)) >> 16 | (nan & 0x40); /* a NaN stays one when its lower half is cut off */
    const halves some = __builtin_convertvector(upper, halves);
    if (count == BLOCKS)
        *(halves *)to = some;
    else
        memcpy(to, &some, (size_t)count * 2);
    return (reals)(upper << 16);
}

typedef struct {
    float lr, momentum, fresh_share, weight_decay;
    int fresh, nesterov, maximize;
    source weights, momenta;
} descent;

__attribute__((always_inline)) static inline void descend(uint16_t *w, const uint16_t *gradient, uint16_t *buffer, int64_t begin, int64_t end,
                                                          const descent *shared, const int weights_mode, const int momenta_mode) {
    const descent own = *shared, *const d = &own; /* a copy: what is stored to cannot change it, so it stays in registers */
    uint32_t for_weights[SPAN], for_momenta[SPAN];
    for (int64_t at = begin; at < end; at += SPAN) {
        if (weights_mode == STOCHASTIC) draw(d->weights, at / SPAN, 16, for_weights);
        if (buffer && momenta_mode == STOCHASTIC) draw(d->momenta, at / SPAN, 16, for_momenta);
        for (int i = 0; i < SPAN && at + i < end; i += BLOCKS) {
            const int64_t j = at + i;
            const int count = end - j < BLOCKS ? (int)(end - j) : BLOCKS;
            reals x = widened(w + j, count), g = widened(gradient + j, count);
            if (d->maximize) g = -g;
            if (d->weight_decay != 0) g += d->weight_decay * x;
            if (buffer) {
                reals mean = g;
                if (!d->fresh) {
                    mean = widened(buffer + j, count) * d->momentum;
                    __asm__("" : "+m"(mean)); /* rounded before the sum, as PyTorch's mul_ does */
                    mean += d->fresh_share * g;
                }
                mean = narrowed(mean, buffer + j, count, momenta_mode, for_momenta + i);
                g = d->nesterov ? g + d->momentum * mean : mean;
            }
            narrowed(x - d->lr * g, w + j, count, weights_mode, for_weights + i);
        }
    }
}

/* w, gradient, buffer (or NULL): bfloat16 [n]. */
void sgd_bfloat16(uint16_t *w, const uint16_t *gradient, uint16_t *buffer, int64_t n, float lr, float momentum, float fresh_share,
                  float weight_decay, int32_t fresh, int32_t nesterov, int32_t maximize, int32_t weights_mode, int32_t momenta_mode,
                  uint64_t seed, uint64_t weights_stream, uint64_t momenta_stream, int32_t threads) {
    const descent d = {lr, momentum, fresh_share, weight_decay, fresh, nesterov, maximize, {seed, weights_stream}, {seed, momenta_stream}};
#pragma omp parallel num_threads(threads) if (n > PART)
    { /* halves of a tensor, not parts of a fixed length: most tensors have few of these */
        const int64_t spans = (n + SPAN - 1) / SPAN, mine = omp_get_thread_num(), all = omp_get_num_threads();
        const int64_t begin = spans * mine / all * SPAN, stop = spans * (mine + 1) / all * SPAN, end = stop < n ? stop : n;
        if (weights_mode == STOCHASTIC && momenta_mode == STOCHASTIC)
            descend(w, gradient, buffer, begin, end, &d, STOCHASTIC, STOCHASTIC);
        else
            descend(w, gradient, buffer, begin, end, &d, weights_mode, momenta_mode);
    }
}
#endif
