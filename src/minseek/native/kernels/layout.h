/* From one layout to another: columns gathered and scattered, columns stored as rows, rows transposed. */
#ifndef MINSEEK_LAYOUT_H
#define MINSEEK_LAYOUT_H
#include "weight.h"

/* One column's features from `from` on among activations [block][features][LANES]: LANES floats apart. */
static inline const float *column_start(const float *act, int features, int from, int column) {
    return act + ((size_t)(column / LANES) * features + from) * LANES + column % LANES;
}

/* The LANES columns from feature `from` on, if they are one block of activations [block][features][LANES]; NULL if
 * not. */
static inline const float *contiguous_columns(const float *act, int features, int from, const int *columns) {
    const int first = columns[0];
    if (first < 0 || first % LANES || columns[LANES - 1] != first + LANES - 1) return NULL;
    return act + ((size_t)first / LANES * features + from) * LANES;
}

/* Up to LANES columns, features from..from + count of activations [block][features][LANES], as [count][LANES]: in
 * place, or copied to `scratch`. A column of -1 is zero. */
static const float *gather(const float *act, int features, int from, int count, const int *columns, float *scratch) {
    const float *in_place = contiguous_columns(act, features, from, columns);
    if (in_place) return in_place;
    for (int l = 0; l < LANES; l++) {
        if (columns[l] < 0) {
            for (int i = 0; i < count; i++) scratch[i * LANES + l] = 0;
            continue;
        }
        const float *a = column_start(act, features, from, columns[l]);
        for (int i = 0; i < count; i++) scratch[i * LANES + l] = a[(size_t)i * LANES];
    }
    return scratch;
}

/* The reverse of gather, for lanes that have a column. */
static void scatter(const float *in, int features, int from, int count, const int *columns, float *act) {
    float *in_place = (float *)contiguous_columns(act, features, from, columns);
    if (in_place) {
        memcpy(in_place, in, sizeof(float) * count * LANES);
        return;
    }
    for (int l = 0; l < LANES; l++) {
        if (columns[l] < 0) continue;
        float *a = (float *)column_start(act, features, from, columns[l]);
        for (int i = 0; i < count; i++) a[(size_t)i * LANES] = in[i * LANES + l];
    }
}

/* Transpose LANES x LANES: squares of 1, 2, 4 and 8 off the diagonal change places. */
static inline void transpose(ivec *v) {
#define SWAP(STEP, FIRST, SECOND) \
    for (int i = 0; i < LANES; i++) \
        if (!(i & STEP)) { \
            const ivec a = v[i], b = v[i + STEP]; \
            v[i] = __builtin_shufflevector(a, b, FIRST); \
            v[i + STEP] = __builtin_shufflevector(a, b, SECOND); \
        }
#define EACH(...) __VA_ARGS__
#if LANES == 16
    SWAP(1, EACH(0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
         EACH(1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
    SWAP(2, EACH(0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
         EACH(2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
    SWAP(4, EACH(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
         EACH(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
    SWAP(8, EACH(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
         EACH(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#elif LANES == 8
    SWAP(1, EACH(0, 8, 2, 10, 4, 12, 6, 14), EACH(1, 9, 3, 11, 5, 13, 7, 15))
    SWAP(2, EACH(0, 1, 8, 9, 4, 5, 12, 13), EACH(2, 3, 10, 11, 6, 7, 14, 15))
    SWAP(4, EACH(0, 1, 2, 3, 8, 9, 10, 11), EACH(4, 5, 6, 7, 12, 13, 14, 15))
#else
    SWAP(1, EACH(0, 4, 2, 6), EACH(1, 5, 3, 7))
    SWAP(2, EACH(0, 1, 4, 5), EACH(2, 3, 6, 7))
#endif
#undef EACH
#undef SWAP
}

/* The first `count` of LANES columns [D][LANES], each as a row of weights: out [count][D]. */
static void store_rows(const float *x, int dim, int count, weight *out) {
    int start = 0;
    for (; start + LANES <= dim; start += LANES) {
        ivec v[LANES];
        for (int i = 0; i < LANES; i++) v[i] = (ivec)loadf(x + (start + i) * LANES);
        transpose(v);
        for (int l = 0; l < count; l++) store(out + (size_t)l * dim + start, (vec)v[l]);
    }
    for (; start < dim; start++)
        for (int l = 0; l < count; l++) out[(size_t)l * dim + start] = f32_to_weight(x[start * LANES + l]);
}

/* Values [n][D] as [D][padded], zero from n on; padded is a multiple of 32. */
static void transpose_values(const weight *values, int n, int padded, int dim, weight *out) {
    const int whole = n / 32 * 32, even = dim / LANES * LANES;
    for (int start = 0; start < whole; start += 32)
        for (int i = 0; i < even; i += LANES) {
            const weight *r = values + (size_t)start * dim + i;
            weight *o = out + (size_t)i * padded + start;
            ivec v[LANES];
#ifdef WEIGHT_BF16
            for (int half = 0; half < 32; half += 2 * LANES) {
                for (int j = 0; j < LANES; j++) { /* rows 2 j and 2 j + 1 move as one */
                    const weight *a = r + (size_t)(half + 2 * j) * dim;
                    v[j] = (ivec)((uvec)load(a) >> 16 | (uvec)load(a + dim));
                }
                transpose(v);
                for (int l = 0; l < LANES; l++) memcpy(o + (size_t)l * padded + half, &v[l], sizeof v[l]);
            }
#else
            for (int half = 0; half < 32; half += LANES) {
                for (int j = 0; j < LANES; j++) v[j] = (ivec)loadf(r + (size_t)(half + j) * dim);
                transpose(v);
                for (int l = 0; l < LANES; l++) storef(o + (size_t)l * padded + half, (vec)v[l]);
            }
#endif
        }
    for (int i = 0; i < dim; i++) {
        weight *o = out + (size_t)i * padded;
        for (int j = i < even ? whole : 0; j < n; j++) o[j] = values[(size_t)j * dim + i];
        memset(o + n, 0, sizeof(weight) * (padded - n));
    }
}
#endif
