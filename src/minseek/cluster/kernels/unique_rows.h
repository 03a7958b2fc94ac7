/* Equal rows, found by hashing, and the range of every column. Implementation header. */
#ifndef MINSEEK_CLUSTER_UNIQUE_ROWS_H
#define MINSEEK_CLUSTER_UNIQUE_ROWS_H
#include "state.h"

static inline uint64_t hash_add(uint64_t hash, uint64_t bits) {
    hash = (hash ^ bits) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 29;
}
static inline uint64_t bits_of(value v) {
    double d = (double)v + 0.0; /* minus zero is zero */
    uint64_t bits;
    memcpy(&bits, &d, 8);
    return bits;
}

#ifndef SPARSE
static uint64_t hash_row(const kmeans_state *s, int64_t i) {
    const value *x = s->x + row_of(s, i) * s->n_features;
    uint64_t hash[4] = {1, 2, 3, 4};
    int64_t j = 0;
    for (; j + 4 <= s->n_features; j += 4)
        for (int l = 0; l < 4; l++) hash[l] = hash_add(hash[l], bits_of(x[j + l]));
    for (; j < s->n_features; j++) hash[0] = hash_add(hash[0], bits_of(x[j]));
    return hash_add(hash_add(hash_add(hash[0], hash[1]), hash[2]), hash[3]);
}
static int rows_equal(const kmeans_state *s, int64_t i, int64_t k) {
    const value *a = s->x + row_of(s, i) * s->n_features, *b = s->x + row_of(s, k) * s->n_features;
    for (int64_t j = 0; j < s->n_features; j++)
        if (a[j] != b[j]) return 0;
    return 1;
}
#else /* columns are in order; entries that hold zero count as absent */
static uint64_t hash_row(const kmeans_state *s, int64_t i) {
    const int64_t row = row_of(s, i);
    uint64_t hash = 1;
    for (int64_t j = s->indptr[row]; j < s->indptr[row + 1]; j++)
        if (s->x[j] != 0) hash = hash_add(hash_add(hash, (uint64_t)s->indices[j]), bits_of(s->x[j]));
    return hash;
}
static int rows_equal(const kmeans_state *s, int64_t i, int64_t k) {
    int64_t p = s->indptr[row_of(s, i)], q = s->indptr[row_of(s, k)];
    const int64_t end_p = s->indptr[row_of(s, i) + 1], end_q = s->indptr[row_of(s, k) + 1];
    for (;; p++, q++) {
        while (p < end_p && s->x[p] == 0) p++;
        while (q < end_q && s->x[q] == 0) q++;
        if (p == end_p || q == end_q) return p == end_p && q == end_q;
        if (s->indices[p] != s->indices[q] || s->x[p] != s->x[q]) return 0;
    }
}
#endif

/* group[i]: index of point i's row among the unique rows, in order of their first points; first[g]: that point.
 * Returns the number of unique rows, or -1 if there is no memory. */
int64_t unique_rows(const kmeans_state *s, int64_t *group, int64_t *first) {
    int64_t size = 16, count = 0;
    while (size < 2 * s->n_points) size *= 2;
    int64_t *table = malloc((size_t)size * sizeof(int64_t));
    uint64_t *hashes = malloc((size_t)size * sizeof(uint64_t));
    if (!table || !hashes) {
        free(table), free(hashes);
        return -1;
    }
    memset(table, 0xff, (size_t)size * sizeof(int64_t));
    for (int64_t i = 0; i < s->n_points; i++) {
        const uint64_t hash = hash_row(s, i);
        int64_t slot = (int64_t)((hash ^ hash >> 32) & (uint64_t)(size - 1));
        while (table[slot] >= 0 && (hashes[slot] != hash || !rows_equal(s, first[table[slot]], i)))
            slot = (slot + 1) & (size - 1);
        if (table[slot] < 0) table[slot] = count, hashes[slot] = hash, first[count++] = i;
        group[i] = table[slot];
    }
    free(table);
    free(hashes);
    return count;
}

#ifndef SPARSE
/* Minimum, maximum and weighted sum of every column. Returns -1, or the first point that is not finite. */
int64_t column_stats(const kmeans_state *s, double *minimum, double *maximum, double *sum) {
    for (int64_t j = 0; j < s->n_features; j++) minimum[j] = INFINITY, maximum[j] = -INFINITY, sum[j] = 0;
    for (int64_t i = 0; i < s->n_points; i++) {
        const value *x = s->x + row_of(s, i) * s->n_features;
        double weight = weight_of(s, i), check = 0;
        for (int64_t j = 0; j < s->n_features; j++) {
            const double v = (double)x[j];
            minimum[j] = min_f64(v, minimum[j]);
            maximum[j] = max_f64(v, maximum[j]);
            sum[j] += weight * v;
            check += v * 0;
        }
        if (check != 0) return i;
    }
    return -1;
}
#endif
#endif
