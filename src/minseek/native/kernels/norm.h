/* RMSNorm, x / sqrt(mean(x^2) + eps) * w, of one row and of LANES columns at once. */
#ifndef MINSEEK_NORM_H
#define MINSEEK_NORM_H
#include "weight.h"

/* A contiguous row [n]; out may be x. */
static inline void rms_norm(const float *x, const weight *w, float eps, int n, float *out) {
    vec s = {0};
    float tail = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES) s += loadf(x + i) * loadf(x + i);
    for (; i < n; i++) tail += x[i] * x[i];
    float r = 1.0f / sqrtf((sum(s) + tail) / n + eps);
    for (i = 0; i + LANES <= n; i += LANES) storef(out + i, loadf(x + i) * r * load(w + i));
    for (; i < n; i++) out[i] = x[i] * r * weight_to_f32(w[i]);
}

/* 1 / sqrt(mean(x^2) + eps) of each of LANES columns [n][LANES]. */
static inline vec inverse_rms_columns(const float *x, float eps, int n) {
    vec s = broadcast(0);
    for (int i = 0; i < n; i++) s += loadf(x + i * LANES) * loadf(x + i * LANES);
    float r[LANES];
    storef(r, s / (float)n + eps);
    for (int l = 0; l < LANES; l++) r[l] = 1.0f / sqrtf(r[l]);
    return loadf(r);
}

/* LANES columns [n][LANES]; out may be x. */
static inline void rms_norm_columns(const float *x, const weight *w, float eps, int n, float *out) {
    const vec scale = inverse_rms_columns(x, eps, n);
    for (int i = 0; i < n; i++) storef(out + i * LANES, loadf(x + i * LANES) * scale * weight_to_f32(w[i]));
}

/* One of LANES columns [n][LANES] as a contiguous row; the same bits as rms_norm_columns. */
static inline void rms_norm_column(const float *x, const weight *w, float eps, int n, float *out) {
    float s = 0;
    for (int i = 0; i < n; i++) s += x[(size_t)i * LANES] * x[(size_t)i * LANES];
    const float scale = 1.0f / sqrtf(s / (float)n + eps);
    for (int i = 0; i < n; i++) out[i] = x[(size_t)i * LANES] * scale * weight_to_f32(w[i]);
}

#endif
