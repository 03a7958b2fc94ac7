/* A format as the kernels use it, and the rounding modes. The layout is that of `Grid` in grid.py. */
#ifndef MINSEEK_GRID_H
#define MINSEEK_GRID_H
#include <stdint.h>

enum { NEAREST_EVEN, NEAREST_AWAY, TOWARD_ZERO, UP, DOWN, STOCHASTIC };

typedef struct {
    int64_t mantissa;                /* bits without the hidden one */
    int64_t least;                   /* exponent of the smallest normal value; of fixed point, beyond all exponents */
    int64_t quantum;                 /* exponent of the grid spacing below it */
    double highest, lowest;          /* magnitudes of the largest value and of the most negative one */
    double over, under;              /* results for finite numbers beyond them, */
    double infinity, minus_infinity; /* and for infinities */
    int64_t mode;
    int64_t random_bits;
    int64_t negative_zero; /* 1 if the format has one */
} grid;
#endif
