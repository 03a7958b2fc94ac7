/* Random numbers by counting: Philox 4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011). What an element gets depends on the seed, the stream and its place alone, not on threads or devices. */
#ifndef MINSEEK_PHILOX_H
#define MINSEEK_PHILOX_H
#include <stdint.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define BLOCKS 16          /* counters side by side */
#define WORDS (4 * BLOCKS) /* that one chunk gives */
#define SPAN (2 * WORDS)   /* elements between two draws: a chunk of halves, or two of words */

typedef struct {
    uint64_t seed, stream;
} source;

typedef uint32_t lanes __attribute__((vector_size(4 * BLOCKS)));
typedef uint64_t pairs __attribute__((vector_size(4 * BLOCKS)));
typedef uint32_t lanes_u __attribute__((vector_size(4 * BLOCKS), aligned(4), may_alias));

/* The lower half of each pair times a factor. */
static inline pairs products(pairs a, uint32_t factor) {
#if defined(__AVX512F__)
    return (pairs)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(factor));
#elif defined(__AVX2__)
    __m256i half[2];
    __builtin_memcpy(half, &a, sizeof a);
    half[0] = _mm256_mul_epu32(half[0], _mm256_set1_epi64x(factor));
    half[1] = _mm256_mul_epu32(half[1], _mm256_set1_epi64x(factor));
    __builtin_memcpy(&a, half, sizeof a);
    return a;
#else
    return (a & 0xFFFFFFFFu) * factor;
#endif
}

/* The upper half of each pair, put into the lower. */
static inline pairs upper(pairs a) {
#if defined(__AVX512F__)
    return (pairs)_mm512_shuffle_epi32((__m512i)a, _MM_PERM_DDBB); /* products and shifts share a port: this has another */
#else
    return a >> 32;
#endif
}

/* A round on words in the lower halves of pairs; what the upper halves hold does not matter. */
#define ROUND(a, b, c, d)                                    \
    do {                                                     \
        const pairs p = products(a, 0xD2511F53u), q = products(c, 0xCD9E8D57u); \
        a = upper(q) ^ b ^ low, b = q, c = upper(p) ^ d ^ high, d = p;          \
    } while (0)

static inline lanes interleaved(pairs even, pairs odd) {
    return (lanes)((even & 0xFFFFFFFFu) | (odd << 32));
}

/* Words of a chunk: word j is output j / 16 of counter 16 chunk + j % 16. */
static inline void philox(source from, uint64_t chunk, uint32_t *out) {
    const uint64_t count = chunk * BLOCKS; /* a multiple of 16: the lower halves of the counters never carry */
    const pairs none = {0}, even = {0, 2, 4, 6, 8, 10, 12, 14};
    pairs a = none + (uint32_t)count + even, b = none + (count >> 32), e = a + 1, f = b;
    pairs c = none + (uint32_t)from.stream, d = none + (from.stream >> 32), g = c, h = d;
    uint32_t low = (uint32_t)from.seed, high = (uint32_t)(from.seed >> 32);
    for (int round = 0; round < 10; round++) {
        ROUND(a, b, c, d); /* of even counters, */
        ROUND(e, f, g, h); /* and of odd ones */
        low += 0x9E3779B9u, high += 0xBB67AE85u;
    }
    lanes_u *to = (lanes_u *)out;
    to[0] = interleaved(a, e), to[1] = interleaved(b, f), to[2] = interleaved(c, g), to[3] = interleaved(d, h);
}
#undef ROUND

/* Numbers of `bits` bits for the elements of a span. Up to 16 bits, a word serves two elements: its lower half element j,
 * its upper half element 64 + j. */
static inline void draw(source from, uint64_t span, int bits, uint32_t *out) {
    lanes_u *to = (lanes_u *)out;
    if (bits > 16) {
        philox(from, 2 * span, out);
        philox(from, 2 * span + 1, out + WORDS);
        for (int i = 0; i < 8; i++) to[i] >>= 32 - bits;
        return;
    }
    philox(from, span, out);
    for (int i = 0; i < 4; i++) {
        to[4 + i] = to[i] >> (32 - bits);
        to[i] = (to[i] & 0xFFFF) >> (16 - bits);
    }
}
#endif
