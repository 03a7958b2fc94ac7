/* Squared distances: of a staged point to one centre in double, and to sixteen at a time in `calc`, with what rounding may have changed. */
#ifndef MINSEEK_CLUSTER_DISTANCE_H
#define MINSEEK_CLUSTER_DISTANCE_H
#include "work.h"

#define UNROLL _Pragma("GCC unroll 4")

/* What a computed square proves of the true one, and of the distance. */
static inline double surely(const work *w, double square) { return larger(0, square * w->shrink - w->blur); }
static inline double surely_far(const work *w, double square) { return sqrt(surely(w, square)) * (1 - 1e-12); }

static inline double sum_wide(wide v) {
    double a = v[0] + v[4], b = v[1] + v[5], c = v[2] + v[6], d = v[3] + v[7]; /* by halves: a chain of eight would wait for each */
    return (a + c) + (b + d);
}

/* Nothing is near a centre that is not there. */
static inline void hide_lane(work *w, int64_t k) {
#ifdef SPARSE
    (void)w, (void)k; /* its size says so */
#else
    calc *lane = w->lanes + k / GROUP * w->dims * GROUP + k % GROUP;
    for (int64_t j = 0; j < w->dims; j++) lane[j * GROUP] = (calc)INFINITY;
#endif
}

/* One point more or less in cluster k; whether any is left. */
static inline int count_in(work *w, int64_t k, double weight) {
    w->counts[k] += weight > 0 ? 1 : -1;
    w->sizes[k] = w->counts[k] ? w->sizes[k] + weight : 0;
    return w->counts[k] != 0;
}

#ifndef SPARSE
static inline void stage(const work *w, int64_t i, row *r) {
    const data *x = w->x + row_of(w, i) * w->dims;
    if (w->origin)
        for (int64_t j = 0; j < w->dims; j++) r->exact[j] = ((double)x[j] - w->origin[j]) * w->scale;
    else
        for (int64_t j = 0; j < w->dims; j++) r->exact[j] = (double)x[j] * w->scale;
#if !defined(DATA_DOUBLE)
    for (int64_t j = 0; j < w->dims; j++) r->quick[j] = (calc)r->exact[j];
#else
    r->quick = r->exact;
#endif
}

static inline double square_of(const work *w, const row *r, int64_t k) {
    const double *c = w->centres + k * w->dims, *x = r->exact;
    wide total = {0};
    int64_t j = 0;
    for (; j + 8 <= w->dims; j += 8) {
        wide gap = *(const wide *)(x + j) - *(const wide *)(c + j);
        total += gap * gap;
    }
    double rest = 0;
    for (; j < w->dims; j++) rest += (x[j] - c[j]) * (x[j] - c[j]);
    return sum_wide(total) + rest;
}

/* Squares to the centres of one group, and of four: sums that do not wait for each other. */
static inline void squares_of_one(const work *w, const row *r, int64_t g, vec out[VECS]) {
    const vec *c = (const vec *)w->lanes + g * w->dims * VECS;
    const calc *x = r->quick;
    vec even[VECS], odd[VECS];
    UNROLL for (int v = 0; v < VECS; v++) even[v] = odd[v] = (vec){0};
    int64_t j = 0;
    for (; j + 2 <= w->dims; j += 2)
        UNROLL for (int v = 0; v < VECS; v++) {
            vec p = x[j] - c[j * VECS + v], q = x[j + 1] - c[(j + 1) * VECS + v];
            even[v] += p * p;
            odd[v] += q * q;
        }
    if (j < w->dims)
        UNROLL for (int v = 0; v < VECS; v++) {
            vec p = x[j] - c[j * VECS + v];
            even[v] += p * p;
        }
    UNROLL for (int v = 0; v < VECS; v++) out[v] = even[v] + odd[v];
}
static inline void squares_of_four(const work *w, const row *r, const int32_t *groups, vec out[4][VECS]) {
    const vec *c[4];
    const calc *x = r->quick;
    vec total[4][VECS];
    UNROLL for (int q = 0; q < 4; q++) {
        c[q] = (const vec *)w->lanes + groups[q] * w->dims * VECS;
        UNROLL for (int v = 0; v < VECS; v++) total[q][v] = (vec){0};
    }
    for (int64_t j = 0; j < w->dims; j++) {
        vec at = (vec){0} + x[j];
        UNROLL for (int q = 0; q < 4; q++)
            UNROLL for (int v = 0; v < VECS; v++) {
                vec gap = at - c[q][j * VECS + v];
                total[q][v] += gap * gap;
            }
    }
    memcpy(out, total, sizeof(total));
}

static inline void put_lane(work *w, int64_t k) {
    calc *lane = w->lanes + k / GROUP * w->dims * GROUP + k % GROUP;
    const double *c = w->centres + k * w->dims;
    for (int64_t j = 0; j < w->dims; j++) lane[j * GROUP] = (calc)c[j];
}

/* Adds the staged point to the sum of cluster k, times the weight (negative: takes it away). */
static inline void add(work *w, const row *r, int64_t k, double weight) {
    double *s = w->sums + k * w->dims;
    for (int64_t j = 0; j < w->dims; j++) s[j] += weight * r->exact[j];
    if (count_in(w, k, weight)) return;
    memset(s, 0, (size_t)w->dims * sizeof(double)); /* nothing is left, not even rounding */
}
/* The same, and the centre follows. */
static inline void shift(work *w, const row *r, int64_t k, double weight) {
    double *s = w->sums + k * w->dims, *c = w->centres + k * w->dims;
    add(w, r, k, weight);
    for (int64_t j = 0; j < w->dims; j++) c[j] = s[j] / w->sizes[k];
    put_lane(w, k);
}
#else
/* |x - c|^2 = |x|^2 - 2 x.s / size + |c|^2, where s is the sum of the cluster: a move then costs as much as the row has entries. */
static inline void stage(const work *w, int64_t i, row *r) {
    int64_t at = row_of(w, i), from = w->starts[at];
    r->count = w->starts[at + 1] - from;
    r->columns = w->columns + from;
    r->square = 0;
    for (int64_t j = 0; j < r->count; j++) {
        r->exact[j] = (double)w->x[from + j] * w->scale;
        r->square += r->exact[j] * r->exact[j];
    }
}

static inline double dot_of(const work *w, const row *r, int64_t k) {
    const double *s = w->sums + k * w->dims;
    double total = 0;
    for (int64_t j = 0; j < r->count; j++) total += r->exact[j] * s[r->columns[j]];
    return total;
}

static inline double square_of(const work *w, const row *r, int64_t k) {
    if (!(w->sizes[k] > 0)) return INFINITY;
    return larger(0, r->square - 2 * dot_of(w, r, k) / w->sizes[k] + w->squares[k]);
}

static inline void squares_of_one(const work *w, const row *r, int64_t g, vec out[VECS]) {
    const vec *lanes = (const vec *)w->lanes + g * w->dims * VECS;
    vec total[VECS];
    UNROLL for (int v = 0; v < VECS; v++) total[v] = (vec){0};
    for (int64_t j = 0; j < r->count; j++)
        UNROLL for (int v = 0; v < VECS; v++) total[v] += lanes[(int64_t)r->columns[j] * VECS + v] * r->exact[j];
    for (int l = 0; l < GROUP; l++) {
        int64_t k = g * GROUP + l;
        double size = k < w->clusters ? w->sizes[k] : 0, dot = total[l / PER_VEC][l % PER_VEC];
        out[l / PER_VEC][l % PER_VEC] = size > 0 ? larger(0, r->square - 2 * dot / size + w->squares[k]) : INFINITY;
    }
}
static inline void squares_of_four(const work *w, const row *r, const int32_t *groups, vec out[4][VECS]) {
    UNROLL for (int q = 0; q < 4; q++) squares_of_one(w, r, groups[q], out[q]);
}

static inline void put_lane(work *w, int64_t k) {
    calc *lane = w->lanes + k / GROUP * w->dims * GROUP + k % GROUP;
    const double *s = w->sums + k * w->dims;
    for (int64_t j = 0; j < w->dims; j++) lane[j * GROUP] = s[j];
}

static inline void add(work *w, const row *r, int64_t k, double weight) {
    double *s = w->sums + k * w->dims;
    calc *lane = w->lanes + k / GROUP * w->dims * GROUP + k % GROUP;
    for (int64_t j = 0; j < r->count; j++) {
        int64_t at = r->columns[j];
        s[at] += weight * r->exact[j];
        lane[at * GROUP] = s[at];
    }
    if (count_in(w, k, weight)) return;
    memset(s, 0, (size_t)w->dims * sizeof(double));
    put_lane(w, k);
}
static inline void shift(work *w, const row *r, int64_t k, double weight) {
    double dot = dot_of(w, r, k), old = w->sizes[k], square = w->squares[k] * old * old;
    add(w, r, k, weight);
    square = larger(0, square + 2 * weight * dot + weight * weight * r->square);
    w->squares[k] = square / (w->sizes[k] * w->sizes[k]);
}
#endif

/* A quick square in double precision. */
static inline double refined(const work *w, const row *r, int64_t k, calc quick) {
#if defined(SPARSE) || defined(DATA_DOUBLE)
    (void)w, (void)r, (void)k;
    return quick;
#else
    (void)quick;
    return square_of(w, r, k);
#endif
}

/* Sixteen numbers in registers: which are at most a limit (one bit each), which to take for infinite, the smallest. */
#if defined(__AVX512F__) && UNIT_IS_FLOAT
static inline unsigned at_most_bits(const vec v[VECS], calc limit) { return _mm512_cmp_ps_mask((__m512)v[0], _mm512_set1_ps(limit), _CMP_LE_OQ); }
static inline void hide(vec v[VECS], unsigned bits) { v[0] = (vec)_mm512_mask_mov_ps((__m512)v[0], (__mmask16)bits, _mm512_set1_ps(INFINITY)); }
static inline calc smallest(const vec v[VECS]) { return _mm512_reduce_min_ps((__m512)v[0]); }
#elif defined(__AVX512F__)
static inline unsigned at_most_bits(const vec v[VECS], calc limit) {
    __m512d m = _mm512_set1_pd(limit);
    return (unsigned)_mm512_cmp_pd_mask((__m512d)v[0], m, _CMP_LE_OQ) | (unsigned)_mm512_cmp_pd_mask((__m512d)v[1], m, _CMP_LE_OQ) << 8;
}
static inline void hide(vec v[VECS], unsigned bits) {
    v[0] = (vec)_mm512_mask_mov_pd((__m512d)v[0], (__mmask8)bits, _mm512_set1_pd(INFINITY));
    v[1] = (vec)_mm512_mask_mov_pd((__m512d)v[1], (__mmask8)(bits >> 8), _mm512_set1_pd(INFINITY));
}
static inline calc smallest(const vec v[VECS]) { return _mm512_reduce_min_pd(_mm512_min_pd((__m512d)v[0], (__m512d)v[1])); }
#else
static inline unsigned at_most_bits(const vec v[VECS], calc limit) {
    unsigned bits = 0;
    for (int l = 0; l < GROUP; l++) bits |= (unsigned)(v[l / PER_VEC][l % PER_VEC] <= limit) << l;
    return bits;
}
static inline void hide(vec v[VECS], unsigned bits) {
    for (int l = 0; l < GROUP; l++)
        if (bits >> l & 1) v[l / PER_VEC][l % PER_VEC] = (calc)INFINITY;
}
static inline calc smallest(const vec v[VECS]) {
    calc least = (calc)INFINITY;
    for (int l = 0; l < GROUP; l++)
        if (v[l / PER_VEC][l % PER_VEC] < least) least = v[l / PER_VEC][l % PER_VEC];
    return least;
}
#endif
/* The smallest of each of four groups. */
static inline void smallest_of_four(vec v[4][VECS], calc least[4]) {
#if defined(__AVX512F__) && UNIT_IS_FLOAT
    __m512 a = (__m512)v[0][0], b = (__m512)v[1][0], c = (__m512)v[2][0], d = (__m512)v[3][0];
    __m512d ab = _mm512_castps_pd(_mm512_min_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    __m512d cd = _mm512_castps_pd(_mm512_min_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
    __m512 all = _mm512_min_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    __m256 half = _mm256_min_ps(_mm512_castps512_ps256(all), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(all), 1)));
    _mm_storeu_ps(least, _mm_min_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#elif defined(__AVX512F__)
    for (int q = 0; q < 4; q += 2) {
        __m512d a = _mm512_min_pd((__m512d)v[q][0], (__m512d)v[q][1]), b = _mm512_min_pd((__m512d)v[q + 1][0], (__m512d)v[q + 1][1]);
        __m512d ab = _mm512_min_pd(_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
        __m256d half = _mm256_min_pd(_mm512_castpd512_pd256(ab), _mm512_extractf64x4_pd(ab, 1));
        _mm_storeu_pd(least + q, _mm_min_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1)));
    }
#else
    UNROLL for (int q = 0; q < 4; q++) least[q] = smallest(v[q]);
#endif
}
static inline void keep_smaller(vec *least, vec v) {
#if defined(__AVX512F__) && UNIT_IS_FLOAT
    *least = (vec)_mm512_min_ps((__m512)v, (__m512)*least);
#elif defined(__AVX512F__)
    *least = (vec)_mm512_min_pd((__m512d)v, (__m512d)*least);
#else
    for (int l = 0; l < PER_VEC; l++) (*least)[l] = v[l] < (*least)[l] ? v[l] : (*least)[l];
#endif
}
static inline unsigned own_bit(int32_t own, int64_t g) { return own >= 0 && own / GROUP == g ? 1u << own % GROUP : 0; }
static inline int64_t first_group(const work *w, int64_t s) { return s * w->width; }
static inline int64_t past_group(const work *w, int64_t s) { return (s + 1) * w->width < w->groups ? (s + 1) * w->width : w->groups; }

/* Looks at `count` groups of r->look: squares into r->out, the smallest of each into r->least, the own centre left out of both. */
static __attribute__((noinline)) void look_at(const work *w, row *r, int64_t count, int32_t own) {
    int64_t at = 0;
    for (; at + 4 <= count; at += 4) {
        vec out[4][VECS];
        calc least[4];
        squares_of_four(w, r, r->look + at, out);
        UNROLL for (int q = 0; q < 4; q++) hide(out[q], own_bit(own, r->look[at + q]));
        smallest_of_four(out, least);
        UNROLL for (int q = 0; q < 4; q++) {
            memcpy(r->out + r->look[at + q] * GROUP, out[q], sizeof(out[q]));
            r->least[r->look[at + q]] = least[q];
        }
    }
    for (; at < count; at++) {
        int64_t g = r->look[at];
        vec *out = (vec *)r->out + g * VECS;
        squares_of_one(w, r, g, out);
        hide(out, own_bit(own, g));
        r->least[g] = smallest(out);
    }
}
#endif
