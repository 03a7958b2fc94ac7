/* Kernels of an eviction, over some layers of one slot, [layers, H, capacity, …]. Heads are independent: threads share
 * them. Functions that need temporary memory return OUT_OF_MEMORY where there is none, else 0. */
#include <omp.h>

#include "alloc.h"
#include "rope.h"
#include "weight.h"

#define MAX_HEAD_DIM 512

/* The pairs that a kernel works on, mirrored in native/structs.py. */
typedef struct {
    int32_t layers, heads, capacity, num_pairs, head_dim, num_threads;
    int64_t layer_stride; /* pairs from one layer to the next */
} cache_view;
int64_t sizeof_cache_view(void) { return sizeof(cache_view); }

/* The first pair of a task, which is one head of one layer. */
static inline int64_t first_pair(const cache_view *v, int task) {
    return task / v->heads * v->layer_stride + (int64_t)(task % v->heads) * v->capacity;
}

/* A key [D] without its position (cosine: NULL if it has none), divided by its length. D is at most MAX_HEAD_DIM, and
 * even with a position. */
static inline void unrope_normalize(const weight *key, const float *cosine, const float *sine, int dim, float *out) {
    float tail = 0;
    vec s = broadcast(0);
    int i = 0;
    if (cosine) {
        const int half = dim / 2;
        for (; i + LANES <= half; i += LANES) {
            vec a = load(key + i), b = load(key + half + i), x, y;
            ROTATE(a, b, loadf(cosine + i), -loadf(sine + i), x, y);
            storef(out + i, x);
            storef(out + half + i, y);
            s += x * x + y * y;
        }
        for (; i < half; i++) {
            const float a = weight_to_f32(key[i]), b = weight_to_f32(key[half + i]);
            ROTATE(a, b, cosine[i], -sine[i], out[i], out[half + i]);
            tail += out[i] * out[i] + out[half + i] * out[half + i];
        }
    } else {
        for (; i + LANES <= dim; i += LANES) {
            vec x = load(key + i);
            storef(out + i, x);
            s += x * x;
        }
        for (; i < dim; i++) out[i] = weight_to_f32(key[i]), tail += out[i] * out[i];
    }
    float norm = sqrtf(sum(s) + tail), scale = norm > 0 ? 1 / norm : 0;
    for (i = 0; i + LANES <= dim; i += LANES) storef(out + i, loadf(out + i) * scale);
    for (; i < dim; i++) out[i] *= scale;
}

/* Cosine of each key, without its position, to the mean of all normalized ones; out [layers, H, n].
 * cosine, sine: [positions, D/2], or NULL: keys have no positions. total: [layers, H, D], the sum of normalized keys of
 * earlier calls, to which these are added, or NULL. */
int32_t key_cosine_to_mean(const cache_view *v, const weight *keys, const int32_t *positions, const float *cosine,
                           const float *sine, float *total, float *out) {
    const int n = v->num_pairs, dim = v->head_dim;
    /* For all threads at once: an allocation of this size is a system call. */
    float *all_normalized = try_malloc((size_t)v->num_threads * n * dim, sizeof(float));
    if (!all_normalized) return OUT_OF_MEMORY;
#pragma omp parallel num_threads(v->num_threads)
    {
        float *normalized = all_normalized + (size_t)omp_get_thread_num() * n * dim;
#pragma omp for schedule(static)
        for (int task = 0; task < v->layers * v->heads; task++) {
            const int64_t first = first_pair(v, task);
            float mean[MAX_HEAD_DIM] = {0}, length = 0;
            if (total) memcpy(mean, total + (size_t)task * dim, sizeof(float) * dim);
            for (int j = 0; j < n; j++) {
                float *row = normalized + (size_t)j * dim;
                const size_t angle = cosine ? (size_t)positions[first + j] * (dim / 2) : 0;
                unrope_normalize(keys + (first + j) * dim, cosine ? cosine + angle : NULL, sine + angle, dim, row);
                for (int i = 0; i < dim; i++) mean[i] += row[i];
            }
            if (total) memcpy(total + (size_t)task * dim, mean, sizeof(float) * dim);
            for (int i = 0; i < dim; i++) length += mean[i] * mean[i];
            length = length > 0 ? 1 / sqrtf(length) : 0;
            for (int j = 0; j < n; j++) {
                const float *row = normalized + (size_t)j * dim;
                vec s = broadcast(0);
                float tail = 0;
                int i = 0;
                for (; i + LANES <= dim; i += LANES) s += loadf(row + i) * loadf(mean + i);
                for (; i < dim; i++) tail += row[i] * mean[i];
                out[(size_t)task * n + j] = (sum(s) + tail) * length;
            }
        }
    }
    free(all_normalized);
    return 0;
}

/* Weight of each pair times the distance of its value from the weighted mean of all: the error of the weighted sum of
 * values without that pair, to first order. weights and out: [layers, H, n]. */
void value_error(const cache_view *v, const weight *values, const float *weights, float *out) {
    const int n = v->num_pairs, dim = v->head_dim;
#pragma omp parallel for num_threads(v->num_threads) schedule(static)
    for (int task = 0; task < v->layers * v->heads; task++) {
        const weight *rows = values + first_pair(v, task) * dim;
        const float *w = weights + (size_t)task * n;
        float mean[MAX_HEAD_DIM] = {0}, total = 0;
        for (int j = 0; j < n; j++) {
            int i = 0;
            for (; i + LANES <= dim; i += LANES)
                storef(mean + i, loadf(mean + i) + broadcast(w[j]) * load(rows + (size_t)j * dim + i));
            for (; i < dim; i++) mean[i] += w[j] * weight_to_f32(rows[(size_t)j * dim + i]);
            total += w[j];
        }
        for (int i = 0; i < dim; i++) mean[i] = total > 0 ? mean[i] / total : 0;
        for (int j = 0; j < n; j++) {
            vec s = broadcast(0);
            float tail = 0;
            int i = 0;
            for (; i + LANES <= dim; i += LANES) {
                vec difference = load(rows + (size_t)j * dim + i) - loadf(mean + i);
                s += difference * difference;
            }
            for (; i < dim; i++) {
                float difference = weight_to_f32(rows[(size_t)j * dim + i]) - mean[i];
                tail += difference * difference;
            }
            out[(size_t)task * n + j] = w[j] * sqrtf(sum(s) + tail);
        }
    }
}

/* Move the pairs chosen [layers, H, kept], ascending, to the front of each of `count` tensors with `bytes` a pair. */
void keep_pairs(const cache_view *v, char *const *tensors, const int64_t *bytes, int32_t count, const int64_t *chosen,
                int32_t kept) {
#pragma omp parallel for num_threads(v->num_threads) schedule(static)
    for (int task = 0; task < v->layers * v->heads; task++) {
        const int64_t *source = chosen + (int64_t)task * kept;
        int in_place = 0;
        while (in_place < kept && source[in_place] == in_place) in_place++;
        for (int i = 0; i < count; i++) {
            char *pairs = tensors[i] + first_pair(v, task) * bytes[i];
            for (int64_t j = in_place; j < kept; j++)
                memcpy(pairs + j * bytes[i], pairs + source[j] * bytes[i], bytes[i]);
        }
    }
}

/* Indices that sort n scores, lowest first, equal ones by index, in the lower halves of scratch[0..n): a radix sort.
 * scratch: [2 n]. */
static void argsort_radix(const float *scores, int n, uint64_t *scratch) {
    uint64_t *from = scratch, *to = scratch + n;
    int start[4][257] = {{0}};
    for (int i = 0; i < n; i++) {
        const float score = scores[i] + 0.0f; /* -0 as 0 */
        uint32_t bits;
        memcpy(&bits, &score, 4);
        bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u; /* these compare as the floats do */
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
/* Memory of argsort_radix for each thread. */
static uint64_t *sort_memory(int n, int num_threads) {
    return try_malloc((size_t)num_threads * n, 2 * sizeof(uint64_t));
}

/* Rank of each score among its row's n, from 0 to `scale`, stored in out or added to it. */
int32_t rank_rows(const float *scores, int32_t rows, int32_t n, int32_t num_threads, float scale, int32_t accumulate,
                  float *out) {
    uint64_t *memory = sort_memory(n, num_threads);
    if (!memory) return OUT_OF_MEMORY;
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int r = 0; r < rows; r++) {
        uint64_t *scratch = memory + (size_t)omp_get_thread_num() * 2 * n;
        float *o = out + (size_t)r * n;
        argsort_radix(scores + (size_t)r * n, n, scratch);
        for (int i = 0; i < n; i++) {
            const float rank = n > 1 ? (float)i / (n - 1) * scale : 0;
            const uint32_t index = (uint32_t)scratch[i];
            o[index] = accumulate ? o[index] + rank : rank;
        }
    }
    free(memory);
    return 0;
}

/* Add `boost` to the scores [layers, H, n] of pairs whose policy score is above `threshold` and among the `count`
 * highest of its head; of equal ones the later is the higher. */
int32_t boost_topk_rows(const cache_view *v, const float *policy_scores, int32_t count, float threshold, float boost,
                        float *scores) {
    const int n = v->num_pairs;
    uint64_t *memory = sort_memory(n, v->num_threads);
    if (!memory) return OUT_OF_MEMORY;
#pragma omp parallel for num_threads(v->num_threads) schedule(static)
    for (int task = 0; task < v->layers * v->heads; task++) {
        uint64_t *scratch = memory + (size_t)omp_get_thread_num() * 2 * n;
        const float *compared = policy_scores + first_pair(v, task);
        float *row = scores + (size_t)task * n;
        int above = 0;
        for (int i = 0; i < n; i++) above += compared[i] > threshold;
        if (above <= count) {
            for (int i = 0; i < n; i++) row[i] += compared[i] > threshold ? boost : 0;
            continue;
        }
        argsort_radix(compared, n, scratch);
        for (int i = n - count; i < n; i++) row[(uint32_t)scratch[i]] += boost;
    }
    free(memory);
    return 0;
}

/* Indices of the `count` highest of each row's n scores, ascending; of equal ones the later is the higher. */
int32_t topk_rows(const float *scores, int32_t rows, int32_t n, int32_t count, int32_t num_threads, int64_t *out) {
    uint64_t *memory = sort_memory(n, num_threads);
    char *all_chosen = try_malloc(num_threads, n);
    if (memory && all_chosen) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
        for (int r = 0; r < rows; r++) {
            uint64_t *scratch = memory + (size_t)omp_get_thread_num() * 2 * n;
            char *chosen = all_chosen + (size_t)omp_get_thread_num() * n;
            argsort_radix(scores + (size_t)r * n, n, scratch);
            memset(chosen, 0, n);
            for (int i = n - count; i < n; i++) chosen[(uint32_t)scratch[i]] = 1;
            for (int i = 0, j = 0; i < n; i++)
                if (chosen[i]) out[(size_t)r * count + j++] = i;
        }
    }
    const int failed = !memory || !all_chosen;
    free(all_chosen);
    free(memory);
    return failed ? OUT_OF_MEMORY : 0;
}
