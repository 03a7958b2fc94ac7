/* Counter-based random numbers: Philox 4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2,
 * 3", SC 2011). An element's number depends on the seed, the stream and its index alone, not on threads, devices or
 * the width of vectors. */
#ifndef MINSEEK_PHILOX_H
#define MINSEEK_PHILOX_H
#include <stdint.h>
#include "lanes.h"

#define COUNTERS 16          /* in a chunk of the random stream */
#define WORDS (4 * COUNTERS) /* of a chunk */
#define SPAN (2 * WORDS)     /* elements between two draws: a chunk of halves, or two of words */

typedef struct {
    uint64_t seed, stream;
} random_source;

/* A round on words in the lower halves of 64-bit lanes; the upper halves are ignored. */
#define ROUND(a, b, c, d)                                                                  \
    do {                                                                                   \
        const u64_vec p = u64_mul_low(a, 0xD2511F53u), q = u64_mul_low(c, 0xCD9E8D57u);    \
        a = u64_high_to_low(q) ^ b ^ low, b = q, c = u64_high_to_low(p) ^ d ^ high, d = p; \
    } while (0)

static inline u32_vec interleave(u64_vec even, u64_vec odd) {
    return (u32_vec)((even & 0xFFFFFFFFu) | (odd << 32));
}

/* Words of a chunk: word j is output j / 16 of counter 16 chunk + j % 16. */
static inline void philox(random_source source, uint64_t chunk, uint32_t *out) {
    const uint64_t first = chunk * COUNTERS; /* a multiple of 16: the lower halves of the counters never carry */
    u64_vec none = {0}, even;
    for (int i = 0; i < F64_LANES; i++) even[i] = 2 * i;
    for (int lane = 0; lane < COUNTERS; lane += F32_LANES) {
        uint32_t low = (uint32_t)source.seed, high = (uint32_t)(source.seed >> 32);
        u64_vec a = even + (uint32_t)first + lane, b = none + (first >> 32);
        u64_vec c = none + (uint32_t)source.stream, d = none + (source.stream >> 32);
        u64_vec e = a + 1, f = b, g = c, h = d;
        for (int round = 0; round < 10; round++) {
            ROUND(a, b, c, d); /* of even counters, */
            ROUND(e, f, g, h); /* and of odd ones */
            low += 0x9E3779B9u, high += 0xBB67AE85u;
        }
        *(u32_vec_u *)(out + lane) = interleave(a, e);
        *(u32_vec_u *)(out + COUNTERS + lane) = interleave(b, f);
        *(u32_vec_u *)(out + 2 * COUNTERS + lane) = interleave(c, g);
        *(u32_vec_u *)(out + 3 * COUNTERS + lane) = interleave(d, h);
    }
}
#undef ROUND

/* Numbers of `bits` bits for the elements of a span. Up to 16 bits, a word serves two elements: its lower half element
 * j, its upper half element 64 + j. */
static inline void draw(random_source source, uint64_t span, int bits, uint32_t *out) {
    if (bits > 16) {
        philox(source, 2 * span, out);
        philox(source, 2 * span + 1, out + WORDS);
        for (int i = 0; i < SPAN; i += F32_LANES) *(u32_vec_u *)(out + i) >>= 32 - bits;
        return;
    }
    philox(source, span, out);
    for (int i = 0; i < WORDS; i += F32_LANES) {
        const u32_vec words = *(u32_vec_u *)(out + i);
        *(u32_vec_u *)(out + WORDS + i) = words >> (32 - bits);
        *(u32_vec_u *)(out + i) = (words & 0xFFFF) >> (16 - bits);
    }
}
#endif
