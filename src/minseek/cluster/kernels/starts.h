/* k-means++: how the sum of distances falls with each of up to sixteen candidates for the next centre. */
#ifndef MINSEEK_CLUSTER_STARTS_H
#define MINSEEK_CLUSTER_STARTS_H
#include "distance.h"

/* Candidates are the centres of `w` (at most 16). totals[c]: sum over points of weight * min(closest, squared distance to c). Where `keep` is one of
 * them, closest becomes that minimum instead. In blocks that are added in order, so that the number of threads changes nothing. */
void trials(work *w, double *closest, double *totals, int64_t keep) {
    int64_t blocks = (w->points + 4095) / 4096;
    double *part = calloc((size_t)blocks * GROUP + 1, sizeof(double));
#pragma omp parallel num_threads(w->threads)
    {
        row r = new_row(w);
#pragma omp for schedule(dynamic, 1)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t i = b * 4096; i < smaller((b + 1) * 4096, w->points); i++) {
                stage(w, i, &r);
                if (keep >= 0) {
                    double square = square_of(w, &r, keep);
                    if (square < closest[i]) closest[i] = square;
                    continue;
                }
                r.look[0] = 0;
                look_at(w, &r, 1, -1);
                double v = weight_of(w, i), now = closest[i];
                for (int l = 0; l < GROUP; l++) part[b * GROUP + l] += v * smaller((double)r.out[l], now);
            }
        free_row(&r);
    }
    if (keep < 0) {
        memset(totals, 0, GROUP * sizeof(double));
        for (int64_t b = 0; b < blocks; b++)
            for (int l = 0; l < GROUP; l++) totals[l] += part[b * GROUP + l];
    }
    free(part);
}
#endif
