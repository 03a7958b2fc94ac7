/* Operations of lanes.h in the compiler's own vector types, for every processor. */
#ifndef MINSEEK_LANES_PORTABLE_H
#define MINSEEK_LANES_PORTABLE_H

#define LANES_OF(T, real, LANES, ints, real_int)                                                    \
    static inline T##_vec T##_all(real x) {                                                         \
        T##_vec v;                                                                                  \
        UNROLL for (int l = 0; l < LANES; l++) v[l] = x;                                            \
        return v;                                                                                   \
    }                                                                                               \
    static inline unsigned T##_le(T##_vec v, real limit) {                                          \
        unsigned bits = 0;                                                                          \
        UNROLL for (int l = 0; l < LANES; l++) bits |= (unsigned)(v[l] <= limit) << l;              \
        return bits;                                                                                \
    }                                                                                               \
    static inline T##_vec T##_select(ints chosen, T##_vec a, T##_vec b) {                           \
        return (T##_vec)((chosen & (ints)a) | (~chosen & (ints)b));                                 \
    }                                                                                               \
    static inline T##_vec T##_blend(unsigned bits, T##_vec a, T##_vec b) {                          \
        ints chosen;                                                                                \
        UNROLL for (int l = 0; l < LANES; l++) chosen[l] = -(real_int)(bits >> l & 1);              \
        return T##_select(chosen, a, b);                                                            \
    }                                                                                               \
    static inline T##_vec T##_min(T##_vec a, T##_vec b) { return T##_select((ints)(a < b), a, b); } \
    static inline T##_vec T##_max(T##_vec a, T##_vec b) { return T##_select((ints)(a > b), a, b); } \
    static inline real T##_hmin(T##_vec v) {                                                        \
        real smallest = v[0];                                                                       \
        UNROLL for (int l = 1; l < LANES; l++) smallest = v[l] < smallest ? v[l] : smallest;        \
        return smallest;                                                                            \
    }                                                                                               \
    static inline void T##_hmin4(const T##_vec v[4], real out[4]) {                                 \
        UNROLL for (int q = 0; q < 4; q++) out[q] = T##_hmin(v[q]);                                 \
    }

LANES_OF(f32, float, F32_LANES, i32_vec, int32_t)
LANES_OF(f64, double, F64_LANES, i64_vec, int64_t)
#undef LANES_OF

static inline u64_vec u64_mul_low(u64_vec a, uint32_t factor) { return (a & 0xFFFFFFFFu) * factor; }
static inline u64_vec u64_high_to_low(u64_vec a) { return a >> 32; }
#endif
