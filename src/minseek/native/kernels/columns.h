/* What is done to 16 columns of activations at once: taken out and put back, normalised, rotated, turned into rows. */
#ifndef MINSEEK_COLUMNS_H
#define MINSEEK_COLUMNS_H
#include "vector.h"

/* Where 16 columns lie side by side among activations [block][features][16], from feature `from` on; NULL if they don't. */
static inline const float *side_by_side(const float *act, int features, int from, const int *columns) {
    const int first = columns[0];
    if (first < 0 || first % LANES || columns[LANES - 1] != first + LANES - 1) return NULL;
    return act + ((size_t)first / LANES * features + from) * LANES;
}

/* Up to 16 columns of features from..from + count of activations [block][features][16], as [count][16]: where they lie, or
 * in `room`. */
static const float *gather(const float *act, int features, int from, int count, const int *columns, float *room) {
    const float *there = side_by_side(act, features, from, columns);
    if (there) return there;
    for (int l = 0; l < LANES; l++) {
        if (columns[l] < 0) {
            for (int i = 0; i < count; i++) room[i * LANES + l] = 0;
            continue;
        }
        const float *a = act + ((size_t)(columns[l] / LANES) * features + from) * LANES + columns[l] % LANES;
        for (int i = 0; i < count; i++) room[i * LANES + l] = a[(size_t)i * LANES];
    }
    return room;
}

/* The reverse of gather, for lanes that have a column. */
static void scatter(const float *in, int features, int from, int count, const int *columns, float *act) {
    float *there = (float *)side_by_side(act, features, from, columns);
    if (there) {
        memcpy(there, in, sizeof(float) * count * LANES);
        return;
    }
    for (int l = 0; l < LANES; l++) {
        if (columns[l] < 0) continue;
        float *a = act + ((size_t)(columns[l] / LANES) * features + from) * LANES + columns[l] % LANES;
        for (int i = 0; i < count; i++) a[(size_t)i * LANES] = in[i * LANES + l];
    }
}

/* 16 columns [n][16] divided by their root mean square and multiplied by w. */
static void norm_columns(const float *x, const weight *w, float eps, int n, float *out) {
    vec s = splat(0);
    for (int i = 0; i < n; i++) s += loadf(x + i * LANES) * loadf(x + i * LANES);
    float r[LANES];
    storef(r, s / (float)n + eps);
    for (int l = 0; l < LANES; l++) r[l] = 1.0f / sqrtf(r[l]);
    vec by = loadf(r);
    for (int i = 0; i < n; i++) storef(out + i * LANES, loadf(x + i * LANES) * by * widen(w[i]));
}

/* 16 columns [D][16] rotated by their own angles [D/2][16]; out may be x. */
static void rotate_columns(const float *x, const float *cosine, const float *sine, int dim, float *out) {
    int half = dim / 2;
    for (int i = 0; i < half; i++) {
        vec a = loadf(x + i * LANES), b = loadf(x + (i + half) * LANES);
        vec c = loadf(cosine + i * LANES), s = loadf(sine + i * LANES);
        storef(out + i * LANES, a * c - b * s);
        storef(out + (i + half) * LANES, b * c + a * s);
    }
}

/* Sixteen rows of sixteen become columns: the squares of 1, 2, 4 and 8 off the diagonal change places. */
static inline void transpose(ivec *v) {
#define SWAP(STEP, FIRST, SECOND)                                                                                       \
    for (int i = 0; i < LANES; i++)                                                                                     \
        if (!(i & STEP)) {                                                                                              \
            const ivec a = v[i], b = v[i + STEP];                                                                       \
            v[i] = __builtin_shufflevector(a, b, FIRST);                                                                \
            v[i + STEP] = __builtin_shufflevector(a, b, SECOND);                                                        \
        }
#define EACH(...) __VA_ARGS__
    SWAP(1, EACH(0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
         EACH(1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
    SWAP(2, EACH(0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
         EACH(2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
    SWAP(4, EACH(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
         EACH(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
    SWAP(8, EACH(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
         EACH(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#undef EACH
#undef SWAP
}

/* The first `count` of 16 columns [D][16], each as a row of weights: out [count][D]. */
static void leave_rows(const float *x, int dim, int count, weight *out) {
    int from = 0;
    for (; from + LANES <= dim; from += LANES) {
        ivec v[LANES];
        for (int i = 0; i < LANES; i++) v[i] = (ivec)loadf(x + (from + i) * LANES);
        transpose(v);
        for (int l = 0; l < count; l++) narrow_row(out + (size_t)l * dim + from, (vec)v[l]);
    }
    for (; from < dim; from++)
        for (int l = 0; l < count; l++) out[(size_t)l * dim + from] = narrow(x[from * LANES + l]);
}

/* rows [n][D] as [D][longest], zero from n on; longest is a multiple of 32. */
static void turn(const weight *rows, int n, int longest, int dim, weight *out) {
    const int whole = n / 32 * 32, even = dim / LANES * LANES;
    for (int from = 0; from < whole; from += 32)
        for (int i = 0; i < even; i += LANES) {
            const weight *r = rows + (size_t)from * dim + i;
            weight *o = out + (size_t)i * longest + from;
            ivec v[LANES];
#ifdef WEIGHT_BF16
            for (int j = 0; j < LANES; j++) { /* rows 2 j and 2 j + 1 move as one */
                const weight *a = r + (size_t)2 * j * dim;
                v[j] = (ivec)((uvec)load(a) >> 16 | (uvec)load(a + dim));
            }
            transpose(v);
            for (int l = 0; l < LANES; l++) memcpy(o + (size_t)l * longest, &v[l], sizeof v[l]);
#else
            for (int half = 0; half < 32; half += LANES) {
                for (int j = 0; j < LANES; j++) v[j] = (ivec)loadf(r + (size_t)(half + j) * dim);
                transpose(v);
                for (int l = 0; l < LANES; l++) storef(o + (size_t)l * longest + half, (vec)v[l]);
            }
#endif
        }
    for (int i = 0; i < dim; i++) {
        weight *o = out + (size_t)i * longest;
        for (int j = i < even ? whole : 0; j < n; j++) o[j] = rows[(size_t)j * dim + i];
        memset(o + n, 0, sizeof(weight) * (longest - n));
    }
}
#endif
