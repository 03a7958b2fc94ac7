/* Operations of lanes.h with AVX-512. */
#ifndef MINSEEK_LANES_AVX512_H
#define MINSEEK_LANES_AVX512_H

static inline f32_vec f32_all(float x) { return (f32_vec)_mm512_set1_ps(x); }
static inline f64_vec f64_all(double x) { return (f64_vec)_mm512_set1_pd(x); }
static inline unsigned f32_le(f32_vec v, float limit) { return _mm512_cmp_ps_mask(v, f32_all(limit), _CMP_LE_OQ); }
static inline unsigned f64_le(f64_vec v, double limit) { return _mm512_cmp_pd_mask(v, f64_all(limit), _CMP_LE_OQ); }
static inline f32_vec f32_blend(unsigned bits, f32_vec a, f32_vec b) {
    return (f32_vec)_mm512_mask_mov_ps(b, (__mmask16)bits, a);
}
static inline f64_vec f64_blend(unsigned bits, f64_vec a, f64_vec b) {
    return (f64_vec)_mm512_mask_mov_pd(b, (__mmask8)bits, a);
}
static inline f32_vec f32_min(f32_vec a, f32_vec b) { return (f32_vec)_mm512_min_ps(a, b); }
static inline f64_vec f64_min(f64_vec a, f64_vec b) { return (f64_vec)_mm512_min_pd(a, b); }
static inline f32_vec f32_max(f32_vec a, f32_vec b) { return (f32_vec)_mm512_max_ps(a, b); }
static inline f64_vec f64_max(f64_vec a, f64_vec b) { return (f64_vec)_mm512_max_pd(a, b); }
static inline float f32_hmin(f32_vec v) { return _mm512_reduce_min_ps(v); }
static inline double f64_hmin(f64_vec v) { return _mm512_reduce_min_pd(v); }

/* Transposed while they are reduced. */
static inline void f32_hmin4(const f32_vec v[4], float out[4]) {
    const __m512 ab = _mm512_min_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const __m512 cd = _mm512_min_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    const __m512d low = _mm512_unpacklo_pd((__m512d)ab, (__m512d)cd);
    const __m512d high = _mm512_unpackhi_pd((__m512d)ab, (__m512d)cd);
    const __m512d all = (__m512d)_mm512_min_ps((__m512)low, (__m512)high);
    const __m256 half = _mm256_min_ps(_mm256_castpd_ps(_mm512_castpd512_pd256(all)),
                                      _mm256_castpd_ps(_mm512_extractf64x4_pd(all, 1)));
    _mm_storeu_ps(out, _mm_min_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
static inline void f64_hmin4(const f64_vec v[4], double out[4]) {
    for (int q = 0; q < 4; q += 2) {
        const __m512d ab = _mm512_min_pd(_mm512_unpacklo_pd(v[q], v[q + 1]), _mm512_unpackhi_pd(v[q], v[q + 1]));
        const __m256d half = _mm256_min_pd(_mm512_castpd512_pd256(ab), _mm512_extractf64x4_pd(ab, 1));
        _mm_storeu_pd(out + q, _mm_min_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1)));
    }
}

static inline u64_vec u64_mul_low(u64_vec a, uint32_t factor) {
    return (u64_vec)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(factor));
}
static inline u64_vec u64_high_to_low(u64_vec a) { /* not on the port of products and shifts */
    return (u64_vec)_mm512_shuffle_epi32((__m512i)a, _MM_PERM_DDBB);
}
#endif
