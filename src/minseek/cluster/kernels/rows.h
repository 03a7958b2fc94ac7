/* Which rows are equal, by hashing; and what a column holds. */
#ifndef MINSEEK_CLUSTER_ROWS_H
#define MINSEEK_CLUSTER_ROWS_H
#include "work.h"

static inline uint64_t mix(uint64_t h, uint64_t v) {
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}
static inline uint64_t bits_of(data v) {
    double d = (double)v + 0.0; /* minus zero is zero */
    uint64_t b;
    memcpy(&b, &d, 8);
    return b;
}

#ifndef SPARSE
static uint64_t hash_row(const work *w, int64_t i) {
    const data *x = w->x + row_of(w, i) * w->dims;
    uint64_t h[4] = {1, 2, 3, 4};
    int64_t j = 0;
    for (; j + 4 <= w->dims; j += 4)
        for (int l = 0; l < 4; l++) h[l] = mix(h[l], bits_of(x[j + l]));
    for (; j < w->dims; j++) h[0] = mix(h[0], bits_of(x[j]));
    return mix(mix(mix(h[0], h[1]), h[2]), h[3]);
}
static int same_row(const work *w, int64_t i, int64_t k) {
    const data *a = w->x + row_of(w, i) * w->dims, *b = w->x + row_of(w, k) * w->dims;
    for (int64_t j = 0; j < w->dims; j++)
        if (a[j] != b[j]) return 0;
    return 1;
}
#else /* columns in order; entries that hold zero are as good as none */
static uint64_t hash_row(const work *w, int64_t i) {
    int64_t at = row_of(w, i);
    uint64_t h = 1;
    for (int64_t j = w->starts[at]; j < w->starts[at + 1]; j++)
        if (w->x[j] != 0) h = mix(mix(h, (uint64_t)w->columns[j]), bits_of(w->x[j]));
    return h;
}
static int same_row(const work *w, int64_t i, int64_t k) {
    int64_t p = w->starts[row_of(w, i)], q = w->starts[row_of(w, k)];
    int64_t last_p = w->starts[row_of(w, i) + 1], last_q = w->starts[row_of(w, k) + 1];
    for (;; p++, q++) {
        while (p < last_p && w->x[p] == 0) p++;
        while (q < last_q && w->x[q] == 0) q++;
        if (p == last_p || q == last_q) return p == last_p && q == last_q;
        if (w->columns[p] != w->columns[q] || w->x[p] != w->x[q]) return 0;
    }
}
#endif

/* group[i]: the number of point i's row among the different rows, in order of their first point; first[g]: that point. How many there are. */
int64_t distinct(const work *w, int64_t *group, int64_t *first) {
    int64_t size = 16, count = 0;
    while (size < 2 * w->points) size *= 2;
    int64_t *table = malloc((size_t)size * sizeof(int64_t));
    uint64_t *hashes = malloc((size_t)size * sizeof(uint64_t));
    if (!table || !hashes) {
        free(table), free(hashes);
        return -1;
    }
    memset(table, 0xff, (size_t)size * sizeof(int64_t));
    for (int64_t i = 0; i < w->points; i++) {
        uint64_t h = hash_row(w, i);
        int64_t at = (int64_t)((h ^ h >> 32) & (uint64_t)(size - 1));
        while (table[at] >= 0 && (hashes[at] != h || !same_row(w, first[table[at]], i))) at = (at + 1) & (size - 1);
        if (table[at] < 0) table[at] = count, hashes[at] = h, first[count++] = i;
        group[i] = table[at];
    }
    free(table);
    free(hashes);
    return count;
}

#ifndef SPARSE
/* Least, greatest and sum of every column; -1, or the first row that holds something that is not a finite number. */
int64_t survey(const work *w, double *least, double *greatest, double *sum) {
    for (int64_t j = 0; j < w->dims; j++) least[j] = INFINITY, greatest[j] = -INFINITY, sum[j] = 0;
    for (int64_t i = 0; i < w->points; i++) {
        const data *x = w->x + row_of(w, i) * w->dims;
        double v = weight_of(w, i), check = 0;
        for (int64_t j = 0; j < w->dims; j++) {
            double d = (double)x[j];
            least[j] = d < least[j] ? d : least[j];
            greatest[j] = d > greatest[j] ? d : greatest[j];
            sum[j] += v * d;
            check += d * 0;
        }
        if (check != 0) return i;
    }
    return -1;
}
#endif
#endif
