/* Lloyd's step: every point to its nearest centre, and the centres to the means. */
#ifndef MINSEEK_CLUSTER_ASSIGN_H
#define MINSEEK_CLUSTER_ASSIGN_H
#include "distance.h"

/* A computed distance to the own centre, made safe against what rounding of the centre may have done. */
static inline double at_most(const work *w, double square) { return sqrt(square + w->haze) * (1 + 1e-12) + 8 * DBL_EPSILON * w->reach; }

static inline double at_least(const work *w, double square) { return larger(0, sqrt(larger(0, square - w->haze)) * (1 - 1e-12) - 8 * DBL_EPSILON * w->reach); }

static inline double bound(const work *w, int64_t i, int64_t s) { return (double)w->lower[i * w->spans + s] - w->slack[s]; }
/* Bounds are kept as if no centre had moved in this block of points: that is to the safe side. */
static inline void keep_lowest(const work *w, int64_t i, double distance) { w->lowest[i] = down(distance + w->drift_all); }

/* Lists in r->look the groups of the spans whose r->now is -1. */
static inline int64_t list(const work *w, row *r) {
    int64_t count = 0;
    if (w->width == 1) /* without branches: which spans are near is not to be foreseen */
        for (int64_t s = 0; s < w->spans; s++) {
            r->look[count] = (int32_t)s;
            count += r->now[s] == -1;
        }
    else
        for (int64_t s = 0; s < w->spans; s++)
            for (int64_t g = first_group(w, s); r->now[s] == -1 && g < past_group(w, s); g++) r->look[count++] = (int32_t)g;
    return count;
}

/* Spans that may hold a centre nearer than `far`; r->now gets the bounds of the others. */
static inline int64_t choose_nearer(const work *w, int64_t i, row *r, double far) {
    const float *lower = w->lower + i * w->spans;
    float limit = up(far);
    for (int64_t s = 0; s < w->spans; s++) {
        float now = (float)((double)lower[s] - w->slack[s]);
        now -= fabsf(now) * 1.2e-7f;
        r->now[s] = now < limit ? -1 : now;
    }
    return list(w, r);
}

/* Keeps what looking at those groups has shown; `other` is the square of a former own centre in span `at`, if at >= 0. */
static inline void keep_bounds(const work *w, int64_t i, row *r, int64_t at, double other) {
    float *lower = w->lower + i * w->spans, shrink = (float)w->shrink * (1 - 4 * FLT_EPSILON), blur = (float)w->blur * (1 + 4 * FLT_EPSILON);
    if (w->width > 1)
        for (int64_t s = 0; s < w->spans; s++) /* the least of each span, to its place */
            for (int64_t g = first_group(w, s), put = s; g < past_group(w, s); g++)
                r->least[put] = g == first_group(w, s) || r->least[g] < r->least[put] ? r->least[g] : r->least[put];
    for (int64_t s = 0; s < w->spans; s++) {
        float square = (float)r->least[s] * shrink - blur, far = sqrtf(square > 0 ? square : 0) * (1 - 4 * FLT_EPSILON);
        r->now[s] = r->now[s] == -1 ? far : r->now[s];
    }
    if (at >= 0) r->now[at] = down(smaller(r->now[at], at_least(w, other)));
    float least[4] = {FLT_MAX, FLT_MAX, FLT_MAX, FLT_MAX};
    for (int64_t s = 0; s < w->spans; s++) least[s & 3] = r->now[s] < least[s & 3] ? r->now[s] : least[s & 3];
    for (int64_t s = 0; s < w->spans; s++) {
        float kept = r->now[s] < 3e38f ? r->now[s] : 3e38f;
        lower[s] = (kept + (float)w->drift[s]) * (1 - 4 * FLT_EPSILON) - 1e-37f;
    }
    keep_lowest(w, i, smaller(smaller(least[0], least[1]), smaller(least[2], least[3])));
}

/* The nearest centre of point i; its own unless another is surely nearer in double precision. Bounds are renewed where they did not suffice. */
static int32_t nearest(const work *w, int64_t i, row *r, int64_t *computed) {
    int32_t own = w->labels[i], best = own;
    double all = (double)w->lowest[i] - w->drift_all, own_square = INFINITY, far = INFINITY;
    if (own >= 0) {
        far = (double)w->upper[i] + w->path[own];
        if (far <= all || choose_nearer(w, i, r, far) == 0) return own;
        stage(w, i, r);
        own_square = square_of(w, r, own);
        far = at_most(w, own_square);
        w->upper[i] = up(far - w->path[own]);
        if (far <= all) return own;
    } else
        stage(w, i, r);
    int64_t count = choose_nearer(w, i, r, far);
    look_at(w, r, count, own);
    *computed += count;
    calc first = (calc)INFINITY;
    int64_t where = -1;
    for (int64_t e = 0; e < count; e++)
        if (r->least[r->look[e]] < first) first = r->least[where = r->look[e]];
    if (where >= 0 && surely(w, first) < far * far) {
        vec out[VECS];
        memcpy(out, r->out + where * GROUP, sizeof(out));
        int at = __builtin_ctz(at_most_bits(out, first) | 1u << 16);
        int64_t k = where * GROUP + at;
        double square = at < GROUP ? refined(w, r, k, first) : INFINITY;
        if (square < own_square * (1 - 1e-14) - 2 * w->haze) { /* it is the own one from now on, and the old one is one of the others */
            best = (int32_t)k;
            w->upper[i] = up(at_most(w, square) - w->path[best]);
            hide(out, 1u << at);
            r->least[where] = smallest(out);
        }
    }
    keep_bounds(w, i, r, best != own && own >= 0 ? span_of(w, own) : -1, own_square);
    return best;
}

/* What every bound has lost. */
static void slacken(work *w) {
    for (int64_t s = 0; s < w->spans; s++) w->slack[s] = w->drift[s] + w->recent[s];
}

/* `next` becomes the nearest centres; how many points change. */
int64_t assign(work *w) {
    int64_t changed = 0, computed = 0;
    slacken(w);
#pragma omp parallel num_threads(w->threads) reduction(+ : changed, computed)
    {
        row r = new_row(w);
#pragma omp for schedule(dynamic, 512)
        for (int64_t i = 0; i < w->points; i++) {
            w->next[i] = nearest(w, i, &r, &computed);
            changed += w->next[i] != w->labels[i];
        }
        free_row(&r);
    }
    w->computed += computed;
    return changed;
}

/* The points go where `next` says, and their weights with them. In order, so that the number of threads changes nothing. */
void settle(work *w) {
    row r = new_row(w);
    for (int64_t i = 0; i < w->points; i++) {
        if (w->next[i] == w->labels[i]) continue;
        stage(w, i, &r);
        if (w->labels[i] >= 0) add(w, &r, w->labels[i], -weight_of(w, i));
        add(w, &r, w->next[i], weight_of(w, i));
        w->labels[i] = w->next[i];
    }
    free_row(&r);
}

/* Sums and sizes from the labels alone. */
void sum_up(work *w) {
    memset(w->sums, 0, (size_t)(w->clusters * w->dims) * sizeof(double));
    memset(w->sizes, 0, (size_t)w->clusters * sizeof(double));
    memset(w->counts, 0, (size_t)w->clusters * sizeof(int64_t));
#ifdef SPARSE
    memset(w->lanes, 0, (size_t)(w->groups * GROUP * w->dims) * sizeof(calc));
#endif
    row r = new_row(w);
    for (int64_t i = 0; i < w->points; i++) {
        stage(w, i, &r);
        add(w, &r, w->labels[i], weight_of(w, i));
    }
    free_row(&r);
}

/* Weights of the clusters, smallest by span. */
static void weigh(work *w) {
    w->lightest_all = INFINITY;
    for (int64_t k = 0; k < w->groups * GROUP; k++) w->bulks[k] = k < w->clusters ? (calc)w->sizes[k] : 1;
    for (int64_t s = 0; s < w->spans; s++) {
        double least = INFINITY;
        for (int64_t k = s * w->width * GROUP; k < smaller((s + 1) * w->width * GROUP, w->clusters); k++) least = smaller(least, w->sizes[k]);
        w->lightest[s] = least;
        w->lightest_all = smaller(w->lightest_all, least);
    }
}

/* Centres become means; how far they moved goes into the bounds. A cluster without points is nowhere. */
void recentre(work *w) {
    double longest_all = 0;
    for (int64_t s = 0; s < w->spans; s++) {
        double longest = 0;
        for (int64_t k = s * w->width * GROUP; k < smaller((s + 1) * w->width * GROUP, w->clusters); k++) {
            if (!(w->sizes[k] > 0)) {
                hide_lane(w, k);
                continue;
            }
            double *c = w->centres + k * w->dims, *sum = w->sums + k * w->dims, moved = 0, square = 0;
            for (int64_t j = 0; j < w->dims; j++) {
                double to = sum[j] / w->sizes[k];
                moved += (to - c[j]) * (to - c[j]);
                square += to * to;
                c[j] = to;
            }
            if (w->squares) w->squares[k] = square;
            moved = sqrt(moved) * (1 + 1e-12);
            w->path[k] += moved;
            longest = larger(longest, moved);
#ifndef SPARSE
            put_lane(w, k);
#endif
        }
        w->drift[s] += longest;
        longest_all = larger(longest_all, longest);
    }
    w->drift_all += longest_all;
    memset(w->seen, 0xff, (size_t)w->points * sizeof(int32_t));
    weigh(w);
}

/* The sum of weighted squared distances to the own centres; `gap` gets each point's squared distance where it is asked for. */
double spread(work *w) {
    int64_t blocks = (w->points + 4095) / 4096;
    double *part = calloc((size_t)blocks + 1, sizeof(double)), total = 0;
#pragma omp parallel num_threads(w->threads)
    {
        row r = new_row(w);
#pragma omp for schedule(dynamic, 1)
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t i = b * 4096; i < smaller((b + 1) * 4096, w->points); i++) {
                stage(w, i, &r);
                double square = square_of(w, &r, w->labels[i]);
                part[b] += weight_of(w, i) * square;
                if (w->gap) w->gap[i] = square;
            }
        free_row(&r);
    }
    for (int64_t b = 0; b < blocks; b++) total += part[b]; /* in order: the number of threads changes nothing */
    free(part);
    return total;
}
#endif
