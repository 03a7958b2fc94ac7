/* Operations of lanes.h with AVX2. */
#ifndef MINSEEK_LANES_AVX2_H
#define MINSEEK_LANES_AVX2_H

static inline f32_vec f32_all(float x) { return (f32_vec)_mm256_set1_ps(x); }
static inline f64_vec f64_all(double x) { return (f64_vec)_mm256_set1_pd(x); }
static inline unsigned f32_le(f32_vec v, float limit) {
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(v, f32_all(limit), _CMP_LE_OQ));
}
static inline unsigned f64_le(f64_vec v, double limit) {
    return (unsigned)_mm256_movemask_pd(_mm256_cmp_pd(v, f64_all(limit), _CMP_LE_OQ));
}
static inline f32_vec f32_blend(unsigned bits, f32_vec a, f32_vec b) {
    const i32_vec lane_bit = {1, 2, 4, 8, 16, 32, 64, 128}, chosen = (lane_bit & (int32_t)bits) == lane_bit;
    return (f32_vec)_mm256_blendv_ps(b, a, (__m256)chosen);
}
static inline f64_vec f64_blend(unsigned bits, f64_vec a, f64_vec b) {
    const i64_vec lane_bit = {1, 2, 4, 8}, chosen = (lane_bit & (int64_t)bits) == lane_bit;
    return (f64_vec)_mm256_blendv_pd(b, a, (__m256d)chosen);
}
static inline f32_vec f32_min(f32_vec a, f32_vec b) { return (f32_vec)_mm256_min_ps(a, b); }
static inline f64_vec f64_min(f64_vec a, f64_vec b) { return (f64_vec)_mm256_min_pd(a, b); }
static inline f32_vec f32_max(f32_vec a, f32_vec b) { return (f32_vec)_mm256_max_ps(a, b); }
static inline f64_vec f64_max(f64_vec a, f64_vec b) { return (f64_vec)_mm256_max_pd(a, b); }
static inline float f32_hmin(f32_vec v) {
    __m128 m = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_min_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_min_ss(m, _mm_shuffle_ps(m, m, 1)));
}
static inline double f64_hmin(f64_vec v) {
    const __m128d m = _mm_min_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_min_sd(m, _mm_unpackhi_pd(m, m)));
}

/* Transposed while they are reduced. */
static inline void f32_hmin4(const f32_vec v[4], float out[4]) {
    const __m256 ab = _mm256_min_ps(_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpackhi_ps(v[0], v[1]));
    const __m256 cd = _mm256_min_ps(_mm256_unpacklo_ps(v[2], v[3]), _mm256_unpackhi_ps(v[2], v[3]));
    const __m256d low = _mm256_unpacklo_pd((__m256d)ab, (__m256d)cd);
    const __m256d high = _mm256_unpackhi_pd((__m256d)ab, (__m256d)cd);
    const __m256 all = _mm256_min_ps((__m256)low, (__m256)high);
    _mm_storeu_ps(out, _mm_min_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}
static inline void f64_hmin4(const f64_vec v[4], double out[4]) {
    const __m256d ab = _mm256_min_pd(_mm256_unpacklo_pd(v[0], v[1]), _mm256_unpackhi_pd(v[0], v[1]));
    const __m256d cd = _mm256_min_pd(_mm256_unpacklo_pd(v[2], v[3]), _mm256_unpackhi_pd(v[2], v[3]));
    _mm256_storeu_pd(out, _mm256_min_pd(_mm256_permute2f128_pd(ab, cd, 0x20), _mm256_permute2f128_pd(ab, cd, 0x31)));
}

static inline u64_vec u64_mul_low(u64_vec a, uint32_t factor) {
    return (u64_vec)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(factor));
}
static inline u64_vec u64_high_to_low(u64_vec a) { return a >> 32; }
#endif
