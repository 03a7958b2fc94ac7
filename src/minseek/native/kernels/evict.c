/* What an eviction computes of some layers of one slot, [layers, H, capacity, …]:
 * `stride` is the number of pairs from one layer to the next. Heads are independent: threads share them. */
#include "vector.h"

#define WIDEST 512 /* D */

/* A key without its position (cosine: NULL if it has none), divided by its length; [D], D at most WIDEST, and even with
 * a position. */
static inline void bare(const weight *key, const float *cosine, const float *sine, int dim, float *out) {
    float tail = 0;
    vec s = splat(0);
    int i = 0;
    if (cosine) {
        const int half = dim / 2;
        for (; i + LANES <= half; i += LANES) {
            vec a = load(key + i), b = load(key + half + i), c = loadf(cosine + i), n = loadf(sine + i);
            vec x = a * c + b * n, y = b * c - a * n;
            storef(out + i, x);
            storef(out + half + i, y);
            s += x * x + y * y;
        }
        for (; i < half; i++) {
            float a = widen(key[i]), b = widen(key[half + i]);
            out[i] = a * cosine[i] + b * sine[i];
            out[half + i] = b * cosine[i] - a * sine[i];
            tail += out[i] * out[i] + out[half + i] * out[half + i];
        }
    } else {
        for (; i + LANES <= dim; i += LANES) {
            vec x = load(key + i);
            storef(out + i, x);
            s += x * x;
        }
        for (; i < dim; i++) out[i] = widen(key[i]), tail += out[i] * out[i];
    }
    float norm = sqrtf(sum(s) + tail), by = norm > 0 ? 1 / norm : 0;
    for (i = 0; i + LANES <= dim; i += LANES) storef(out + i, loadf(out + i) * by);
    for (; i < dim; i++) out[i] *= by;
}

/* Cosine of each of n keys, without its position, with the mean of all normalised ones; out [layers, H, n].
 * cosine, sine: [positions, D/2], or NULL: keys have no positions. total: [layers, H, D], the sum of those that came
 * before, to which these are added, or NULL. */
void key_likeness(const weight *keys, const int32_t *positions, const float *cosine, const float *sine, int32_t layers,
                  int64_t stride, int32_t heads, int32_t capacity, int32_t n, int32_t dim, int32_t threads, float *total,
                  float *out) {
#pragma omp parallel num_threads(threads)
    {
        float *bared = malloc(sizeof(float) * (size_t)n * dim); /* once: so much comes from the kernel, and goes back */
#pragma omp for schedule(static)
        for (int task = 0; task < layers * heads; task++) {
            const int64_t first = task / heads * stride + (int64_t)(task % heads) * capacity;
            float mean[WIDEST] = {0}, length = 0;
            if (total) memcpy(mean, total + (size_t)task * dim, sizeof(float) * dim);
            for (int j = 0; j < n; j++) {
                float *one = bared + (size_t)j * dim;
                const size_t at = cosine ? (size_t)positions[first + j] * (dim / 2) : 0;
                bare(keys + (first + j) * dim, cosine ? cosine + at : NULL, sine + at, dim, one);
                for (int i = 0; i < dim; i++) mean[i] += one[i];
            }
            if (total) memcpy(total + (size_t)task * dim, mean, sizeof(float) * dim);
            for (int i = 0; i < dim; i++) length += mean[i] * mean[i];
            length = length > 0 ? 1 / sqrtf(length) : 0;
            for (int j = 0; j < n; j++) {
                const float *one = bared + (size_t)j * dim;
                vec s = splat(0);
                float tail = 0;
                int i = 0;
                for (; i + LANES <= dim; i += LANES) s += loadf(one + i) * loadf(mean + i);
                for (; i < dim; i++) tail += one[i] * mean[i];
                out[(size_t)task * n + j] = (sum(s) + tail) * length;
            }
        }
        free(bared);
    }
}

/* Each of n weights times the distance of its value from the weighted mean of all: what a sum of weighted values loses
 * with one of them, to first order. weights and out: [layers, H, n]. */
void value_error(const weight *values, const float *weights, int32_t layers, int64_t stride, int32_t heads,
                      int32_t capacity, int32_t n, int32_t dim, int32_t threads, float *out) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int task = 0; task < layers * heads; task++) {
        const weight *each = values + (task / heads * stride + (int64_t)(task % heads) * capacity) * dim;
        const float *by = weights + (size_t)task * n;
        float mean[WIDEST] = {0}, total = 0;
        for (int j = 0; j < n; j++) {
            int i = 0;
            for (; i + LANES <= dim; i += LANES)
                storef(mean + i, loadf(mean + i) + splat(by[j]) * load(each + (size_t)j * dim + i));
            for (; i < dim; i++) mean[i] += by[j] * widen(each[(size_t)j * dim + i]);
            total += by[j];
        }
        for (int i = 0; i < dim; i++) mean[i] = total > 0 ? mean[i] / total : 0;
        for (int j = 0; j < n; j++) {
            vec s = splat(0);
            float tail = 0;
            int i = 0;
            for (; i + LANES <= dim; i += LANES) {
                vec apart = load(each + (size_t)j * dim + i) - loadf(mean + i);
                s += apart * apart;
            }
            for (; i < dim; i++) {
                float apart = widen(each[(size_t)j * dim + i]) - mean[i];
                tail += apart * apart;
            }
            out[(size_t)task * n + j] = by[j] * sqrtf(sum(s) + tail);
        }
    }
}

/* Move the chosen pairs [layers, H, kept], ascending, to the front: rows of `bytes` in each tensor. */
void keep_pairs(char *const *tensors, const int64_t *bytes, int32_t count, int32_t layers, int64_t stride, int32_t heads,
                int32_t capacity, const int64_t *chosen, int32_t kept, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int task = 0; task < layers * heads; task++) {
        const int64_t first = task / heads * stride + (int64_t)(task % heads) * capacity;
        const int64_t *from = chosen + (int64_t)task * kept;
        int same = 0;
        while (same < kept && from[same] == same) same++;
        for (int i = 0; i < count; i++) {
            char *rows = tensors[i] + first * bytes[i];
            for (int64_t j = same; j < kept; j++) memcpy(rows + j * bytes[i], rows + from[j] * bytes[i], bytes[i]);
        }
    }
}

/* The order of n scores, lowest first, equal ones by their place: a radix sort. work: [2 n]. */
static void order_of(const float *scores, int n, uint64_t *work) {
    uint64_t *from = work, *to = work + n;
    int start[4][257] = {{0}};
    for (int i = 0; i < n; i++) {
        const float score = scores[i] + 0.0f; /* -0 as 0 */
        uint32_t bits;
        memcpy(&bits, &score, 4);
        bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u; /* as floats compare, so do these */
        from[i] = (uint64_t)bits << 32 | (uint32_t)i;
        for (int digit = 0; digit < 4; digit++) start[digit][(bits >> 8 * digit & 255) + 1]++;
    }
    for (int digit = 0; digit < 4; digit++) {
        const int shift = 32 + 8 * digit;
        for (int i = 0; i < 256; i++) start[digit][i + 1] += start[digit][i];
        for (int i = 0; i < n; i++) to[start[digit][from[i] >> shift & 255]++] = from[i];
        uint64_t *swap = from;
        from = to, to = swap;
    }
}

/* Each score's rank among its row's n, from 0 to 1, times `by`, added to `out` or instead of it. */
void rank_rows(const float *scores, int32_t rows, int32_t n, int32_t threads, float by, int32_t add, float *out) {
#pragma omp parallel num_threads(threads)
    {
        uint64_t *work = malloc(sizeof(uint64_t) * 2 * n);
#pragma omp for schedule(static)
        for (int r = 0; r < rows; r++) {
            float *o = out + (size_t)r * n;
            order_of(scores + (size_t)r * n, n, work);
            for (int i = 0; i < n; i++) {
                const float rank = n > 1 ? (float)i / (n - 1) * by : 0;
                const uint32_t at = (uint32_t)work[i];
                o[at] = add ? o[at] + rank : rank;
            }
        }
        free(work);
    }
}

/* Add `more` to those scores whose note is above `least` and among the `count` highest of its row's n; of equal ones the
 * later. notes: [layers, H, n], a layer's `stride` and a head's `capacity` behind the one before. */
void raise_rows(float *scores, const float *notes, int32_t layers, int64_t stride, int32_t heads, int32_t capacity,
                int32_t n, int32_t count, float least, float more, int32_t threads) {
#pragma omp parallel num_threads(threads)
    {
        uint64_t *work = malloc(sizeof(uint64_t) * 2 * n);
#pragma omp for schedule(static)
        for (int task = 0; task < layers * heads; task++) {
            const float *note = notes + task / heads * stride + (int64_t)(task % heads) * capacity;
            float *score = scores + (size_t)task * n;
            int above = 0;
            for (int i = 0; i < n; i++) above += note[i] > least;
            if (above <= count) {
                for (int i = 0; i < n; i++) score[i] += note[i] > least ? more : 0;
                continue;
            }
            order_of(note, n, work);
            for (int i = n - count; i < n; i++) score[(uint32_t)work[i]] += more;
        }
        free(work);
    }
}

/* Places of the `count` highest of each row's n scores, ascending. */
void highest_of_rows(const float *scores, int32_t rows, int32_t n, int32_t count, int32_t threads, int64_t *out) {
#pragma omp parallel num_threads(threads)
    {
        uint64_t *work = malloc(sizeof(uint64_t) * 2 * n);
        char *stays = malloc(n);
#pragma omp for schedule(static)
        for (int r = 0; r < rows; r++) {
            order_of(scores + (size_t)r * n, n, work);
            memset(stays, 0, n);
            for (int i = n - count; i < n; i++) stays[(uint32_t)work[i]] = 1;
            for (int i = 0, j = 0; i < n; i++)
                if (stays[i]) out[(size_t)r * count + j++] = i;
        }
        free(stays);
        free(work);
    }
}
