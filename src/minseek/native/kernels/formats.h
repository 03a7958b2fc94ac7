/* Rows of weights as files hold them: dense (float32, float16, bfloat16), or packed in GGUF's blocks.
 *
 * A weight of a block is scale * value + offset, with the scales of each 16 or 32 weights computed once a block. Every
 * product scale * value is exact in float32 (at most 24 bits), so a weight is rounded once, as in gguf.quants. */
#ifndef MINSEEK_FORMATS_H
#define MINSEEK_FORMATS_H
#include "weight.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Numbers of the types as in GGUF files. */
enum {
    F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13,
    Q6_K = 14, IQ4_NL = 20, IQ4_XS = 23, BF16 = 30, MXFP4 = 39
};
#define EACH_FORMAT(DO) \
    DO(F32) DO(F16) DO(Q4_0) DO(Q4_1) DO(Q5_0) DO(Q5_1) DO(Q8_0) DO(Q2_K) DO(Q3_K) DO(Q4_K) DO(Q5_K) DO(Q6_K) \
    DO(IQ4_NL) DO(IQ4_XS) DO(BF16) DO(MXFP4)

/* A matrix [rows, k], mirrored in native/structs.py. */
typedef struct {
    const uint8_t *rows; /* NULL if the model does not have it */
    int64_t row_bytes;
    int32_t format, reserved;
} weight_matrix;

/* Weights of a block, and its bytes; dense rows are read 32 weights at a time. */
ALWAYS_INLINE int block_weights(const int format) {
    return (format >= Q2_K && format <= Q6_K) || format == IQ4_XS ? 256 : 32;
}
ALWAYS_INLINE int block_bytes(const int format) {
    switch (format) {
    case F32: return 128;
    case F16: case BF16: return 64;
    case Q4_0: case IQ4_NL: return 18;
    case Q4_1: return 20;
    case Q5_0: return 22;
    case Q5_1: return 24;
    case Q8_0: return 34;
    case MXFP4: return 17;
    case Q2_K: return 84;
    case Q3_K: return 110;
    case Q4_K: return 144;
    case Q5_K: return 176;
    case Q6_K: return 210;
    default: return 136; /* IQ4_XS */
    }
}
ALWAYS_INLINE int is_dense(const int format) { return format == F32 || format == F16 || format == BF16; }

static inline float f16_to_f32(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, 2);
#ifdef __F16C__
    return _cvtsh_ss(h);
#else
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
    float f;
    if ((h & 0x7c00) == 0x7c00) { /* infinity or NaN */
        const uint32_t bits = sign | 0x7f800000u | (rest & 0x7fffff);
        memcpy(&f, &bits, 4);
        return f;
    }
    memcpy(&f, &rest, 4);
    f *= 0x1p112f; /* the exponent's bias is 127 instead of 15; exact for subnormal numbers, too */
    return sign ? -f : f;
#endif
}

/* LANES bytes as integers. */
static inline ivec load_bytes(const uint8_t *p) {
#if LANES == 16
    return (ivec)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
#elif defined(__AVX2__)
    return (ivec)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
#else
    typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
    return __builtin_convertvector(*(const bytes *)p, ivec);
#endif
}
static inline ivec load_signed_bytes(const uint8_t *p) {
#if LANES == 16
    return (ivec)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
#elif defined(__AVX2__)
    return (ivec)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
#else
    typedef int8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
    return __builtin_convertvector(*(const bytes *)p, ivec);
#endif
}
static inline vec to_floats(ivec v) { return __builtin_convertvector(v, vec); }

/* Values of nibbles: IQ4's fixed table, and twice e2m1. */
static const int8_t IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t E2M1_VALUES[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
/* Table entries of the low or high nibbles of LANES bytes. */
static inline ivec lookup(const int8_t *table, const uint8_t *p, int high) {
#if LANES == 16 || defined(__AVX2__)
    const __m128i bytes = LANES == 16 ? _mm_loadu_si128((const __m128i *)p) : _mm_loadl_epi64((const __m128i *)p);
    const __m128i nibbles = _mm_and_si128(high ? _mm_srli_epi16(bytes, 4) : bytes, _mm_set1_epi8(15));
    const __m128i entries = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)table), nibbles);
#if LANES == 16
    return (ivec)_mm512_cvtepi8_epi32(entries);
#else
    return (ivec)_mm256_cvtepi8_epi32(entries);
#endif
#else
    int32_t entries[LANES];
    for (int l = 0; l < LANES; l++) entries[l] = table[high ? p[l] >> 4 : p[l] & 15];
    ivec v;
    memcpy(&v, entries, sizeof v);
    return v;
#endif
}

/* Scales and offsets of a block, one for each 16 weights or, in Q4_K and Q5_K and blocks of 32, for each 32. */
typedef struct {
    float scale[16], offset[16];
} block_scales;
ALWAYS_INLINE int weights_per_scale(const int format) {
    return format == Q2_K || format == Q3_K || format == Q6_K ? 16 : 32;
}

/* The 6-bit scales of Q4_K and Q5_K as 8 bytes, then the 8 minima. */
static inline void unpack_6bit(const uint8_t *p, uint8_t *out) {
    uint32_t a, b, c;
    memcpy(&a, p, 4), memcpy(&b, p + 4, 4), memcpy(&c, p + 8, 4);
    const uint32_t low = 0x3f3f3f3f, nibble = 0x0f0f0f0f, top = 0x03030303;
    const uint32_t words[4] = {a & low, (c & nibble) | ((a >> 6 & top) << 4), b & low,
                               (c >> 4 & nibble) | ((b >> 6 & top) << 4)};
    memcpy(out, words, 16);
}
/* The 6-bit scales of Q3_K as 16 bytes. */
static inline void unpack_q3_scales(const uint8_t *p, uint8_t *out) {
    uint32_t a, b, c;
    memcpy(&a, p, 4), memcpy(&b, p + 4, 4), memcpy(&c, p + 8, 4);
    const uint32_t nibble = 0x0f0f0f0f, top = 0x03030303;
    const uint32_t words[4] = {(a & nibble) | ((c & top) << 4), (b & nibble) | ((c >> 2 & top) << 4),
                               (a >> 4 & nibble) | ((c >> 4 & top) << 4), (b >> 4 & nibble) | ((c >> 6 & top) << 4)};
    memcpy(out, words, 16);
}
/* scale * b for `count` bytes, a multiple of 8. */
static inline void scale_bytes(float scale, const uint8_t *b, int count, float *out) {
    for (int i = 0; i < count; i++) out[i] = scale * (float)b[i];
}

ALWAYS_INLINE void read_scales(const int format, const uint8_t *block, block_scales *s) {
    uint8_t bytes[16];
    float d = 0, min;
    switch (format) {
    case Q4_0: d = f16_to_f32(block), s->scale[0] = d, s->offset[0] = -8 * d; break;
    case Q5_0: d = f16_to_f32(block), s->scale[0] = d, s->offset[0] = -16 * d; break;
    case Q4_1: case Q5_1: s->scale[0] = f16_to_f32(block), s->offset[0] = f16_to_f32(block + 2); break;
    case Q8_0: case IQ4_NL: s->scale[0] = f16_to_f32(block), s->offset[0] = 0; break;
    case MXFP4: s->scale[0] = ldexpf(1, block[0] - 128), s->offset[0] = 0; break;
    case Q2_K:
        d = f16_to_f32(block + 80), min = -f16_to_f32(block + 82);
        for (int i = 0; i < 16; i++)
            s->scale[i] = d * (float)(block[i] & 15), s->offset[i] = min * (float)(block[i] >> 4);
        break;
    case Q3_K:
        d = f16_to_f32(block + 108);
        unpack_q3_scales(block + 96, bytes);
        for (int i = 0; i < 16; i++) s->scale[i] = d * (float)((int)bytes[i] - 32), s->offset[i] = -4 * s->scale[i];
        break;
    case Q4_K: case Q5_K:
        unpack_6bit(block + 4, bytes);
        scale_bytes(f16_to_f32(block), bytes, 8, s->scale);
        scale_bytes(-f16_to_f32(block + 2), bytes + 8, 8, s->offset);
        break;
    case Q6_K:
        d = f16_to_f32(block + 208);
        for (int i = 0; i < 16; i++)
            s->scale[i] = d * (float)(int8_t)block[192 + i], s->offset[i] = -32 * s->scale[i];
        break;
    case IQ4_XS: {
        d = f16_to_f32(block);
        const int high = block[2] | block[3] << 8;
        for (int g = 0; g < 8; g++) {
            const int scale = (block[4 + g / 2] >> 4 * (g % 2) & 15) | (high >> 2 * g & 3) << 4;
            s->scale[g] = d * (float)(scale - 32), s->offset[g] = 0;
        }
        break;
    }
    default: break;
    }
}

/* Bits `first`..`first` + LANES - 1 of 32, each as 0 or `value`. */
static inline ivec load_bits(const uint8_t *p, int first, int value) {
    int32_t bits;
    memcpy(&bits, p, 4);
    ivec bit;
    for (int l = 0; l < LANES; l++) bit[l] = (int32_t)(1u << l);
    const ivec all = ALL(bits);
    return ((all >> first & bit) == bit) & value;
}

/* Values of weights e..e + LANES - 1 of group g, which is 32 of a block's weights; LANES divides e. */
ALWAYS_INLINE ivec group_values(const int format, const uint8_t *block, int g, int e) {
    const int high = e >= 16, half = g / 4;
    switch (format) {
    case Q4_0: return high ? load_bytes(block + 2 + e - 16) >> 4 : load_bytes(block + 2 + e) & 15;
    case Q4_1: return high ? load_bytes(block + 4 + e - 16) >> 4 : load_bytes(block + 4 + e) & 15;
    case Q5_0:
        return (high ? load_bytes(block + 6 + e - 16) >> 4 : load_bytes(block + 6 + e) & 15) |
               load_bits(block + 2, e, 16);
    case Q5_1:
        return (high ? load_bytes(block + 8 + e - 16) >> 4 : load_bytes(block + 8 + e) & 15) |
               load_bits(block + 4, e, 16);
    case Q8_0: return load_signed_bytes(block + 2 + e);
    case IQ4_NL: return lookup(IQ4_VALUES, block + 2 + e % 16, high);
    case MXFP4: return lookup(E2M1_VALUES, block + 1 + e % 16, high);
    case IQ4_XS: return lookup(IQ4_VALUES, block + 8 + 16 * g + e % 16, high);
    case Q2_K: return load_bytes(block + 16 + 32 * half + e) >> 2 * (g % 4) & 3;
    case Q3_K:
        return (load_bytes(block + 32 + 32 * half + e) >> 2 * (g % 4) & 3) | (load_bytes(block + e) >> g & 1) << 2;
    case Q4_K: return load_bytes(block + 16 + 32 * (g / 2) + e) >> 4 * (g % 2) & 15;
    case Q5_K:
        return (load_bytes(block + 48 + 32 * (g / 2) + e) >> 4 * (g % 2) & 15) | (load_bytes(block + 16 + e) >> g & 1)
                                                                                     << 4;
    default: { /* Q6_K */
        const int quarter = g % 4;
        const ivec low = load_bytes(block + 64 * half + 32 * (quarter % 2) + e) >> 4 * (quarter / 2) & 15;
        return low | (load_bytes(block + 128 + 32 * half + e) >> 2 * quarter & 3) << 4;
    }
    }
}

/* LANES dense weights. */
ALWAYS_INLINE vec load_dense(const int format, const uint8_t *p) {
    if (format == F32) return loadf((const float *)p);
    if (format == BF16) return bf16_to_f32_vec((const uint16_t *)p);
#if LANES == 16
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__F16C__)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
    float f[LANES];
    for (int l = 0; l < LANES; l++) f[l] = f16_to_f32(p + 2 * l);
    return loadf(f);
#endif
}

/* Weights e..e + LANES - 1 of group g of a block. */
ALWAYS_INLINE vec group_weights(const int format, const uint8_t *block, const block_scales *s, int g, int e) {
    if (is_dense(format)) return load_dense(format, block + e * block_bytes(format) / 32);
    const int per = weights_per_scale(format), i = (32 * g + e) / per;
    const vec values = to_floats(group_values(format, block, g, e));
    if (format == Q8_0 || format == IQ4_NL || format == MXFP4 || format == IQ4_XS) return values * s->scale[i];
    return values * s->scale[i] + s->offset[i];
}

#endif
