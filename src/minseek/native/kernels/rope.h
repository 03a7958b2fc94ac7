/* Rotary position embedding: features i and i + D/2 of a head are rotated by the angle i of the position. */
#ifndef MINSEEK_ROPE_H
#define MINSEEK_ROPE_H
#include "vector.h"

/* Rotate (a, b), floats or vectors, by the angle of this cosine and sine; with the negative sine, back. */
#define ROTATE(A, B, COSINE, SINE, OUT_A, OUT_B) \
    ((OUT_A) = (A) * (COSINE) - (B) * (SINE), (OUT_B) = (B) * (COSINE) + (A) * (SINE))

/* A contiguous row [D] by the angles [D/2], `stride` floats apart; out may be x. */
static inline void rope_row(const float *x, const float *cosine, const float *sine, int stride, int dim, float *out) {
    const int half = dim / 2;
    for (int i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half], c = cosine[(size_t)i * stride], s = sine[(size_t)i * stride];
        ROTATE(a, b, c, s, out[i], out[i + half]);
    }
}

/* LANES columns [D][LANES], each by its own angles [D/2][LANES]; out may be x. */
static inline void rope_columns(const float *x, const float *cosine, const float *sine, int dim, float *out) {
    const int half = dim / 2;
    for (int i = 0; i < half; i++) {
        const vec a = loadf(x + i * LANES), b = loadf(x + (i + half) * LANES);
        const vec c = loadf(cosine + i * LANES), s = loadf(sine + i * LANES);
        vec low, high;
        ROTATE(a, b, c, s, low, high);
        storef(out + i * LANES, low);
        storef(out + (i + half) * LANES, high);
    }
}

#endif
