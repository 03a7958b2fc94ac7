/* Operations of lanes.h with SSE2, which every x86-64 processor has. */
#ifndef MINSEEK_LANES_SSE2_H
#define MINSEEK_LANES_SSE2_H

static inline f32_vec f32_all(float x) { return (f32_vec)_mm_set1_ps(x); }
static inline f64_vec f64_all(double x) { return (f64_vec)_mm_set1_pd(x); }
static inline unsigned f32_le(f32_vec v, float limit) {
    return (unsigned)_mm_movemask_ps(_mm_cmple_ps(v, f32_all(limit)));
}
static inline unsigned f64_le(f64_vec v, double limit) {
    return (unsigned)_mm_movemask_pd(_mm_cmple_pd(v, f64_all(limit)));
}
static inline f32_vec f32_blend(unsigned bits, f32_vec a, f32_vec b) {
    const i32_vec lane_bit = {1, 2, 4, 8}, chosen = (lane_bit & (int32_t)bits) == lane_bit;
    return (f32_vec)((chosen & (i32_vec)a) | (~chosen & (i32_vec)b));
}
static inline f64_vec f64_blend(unsigned bits, f64_vec a, f64_vec b) {
    const i64_vec chosen = {-(int64_t)(bits & 1), -(int64_t)(bits >> 1 & 1)};
    return (f64_vec)((chosen & (i64_vec)a) | (~chosen & (i64_vec)b));
}
static inline f32_vec f32_min(f32_vec a, f32_vec b) { return (f32_vec)_mm_min_ps(a, b); }
static inline f64_vec f64_min(f64_vec a, f64_vec b) { return (f64_vec)_mm_min_pd(a, b); }
static inline f32_vec f32_max(f32_vec a, f32_vec b) { return (f32_vec)_mm_max_ps(a, b); }
static inline f64_vec f64_max(f64_vec a, f64_vec b) { return (f64_vec)_mm_max_pd(a, b); }
static inline float f32_hmin(f32_vec v) {
    const __m128 m = _mm_min_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_min_ss(m, _mm_shuffle_ps(m, m, 1)));
}
static inline double f64_hmin(f64_vec v) { return _mm_cvtsd_f64(_mm_min_sd(v, _mm_unpackhi_pd(v, v))); }
static inline void f32_hmin4(const f32_vec v[4], float out[4]) {
    UNROLL for (int q = 0; q < 4; q++) out[q] = f32_hmin(v[q]);
}
static inline void f64_hmin4(const f64_vec v[4], double out[4]) {
    UNROLL for (int q = 0; q < 4; q++) out[q] = f64_hmin(v[q]);
}

static inline u64_vec u64_mul_low(u64_vec a, uint32_t factor) {
    return (u64_vec)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(factor));
}
static inline u64_vec u64_high_to_low(u64_vec a) { return a >> 32; }
#endif
