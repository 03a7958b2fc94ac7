/* Elements of weights and of the KV cache: bfloat16 (-DWEIGHT_BF16) or float32, as the model's dtype is. */
#ifndef MINSEEK_WEIGHT_H
#define MINSEEK_WEIGHT_H
#include "bf16.h"

#ifdef WEIGHT_BF16
typedef uint16_t weight;
static inline float weight_to_f32(weight w) { return bf16_to_f32(w); }
static inline weight f32_to_weight(float f) { return f32_to_bf16(f); }
static inline vec load(const weight *p) { return bf16_to_f32_vec(p); }
static inline void store(weight *p, vec f) { f32_to_bf16_vec(p, f); }
/* 32 contiguous weights as two vectors in the cheapest order: lane l of each is weight lane_index(0 or 1, l). */
static inline void load_two(const weight *p, vec *a, vec *b) { bf16_unpair(p, a, b); }
static inline int lane_index(int second, int l) { return 2 * l + second; }
#else
typedef float weight;
static inline float weight_to_f32(weight w) { return w; }
static inline weight f32_to_weight(float f) { return f; }
static inline vec load(const weight *p) { return loadf(p); }
static inline void store(weight *p, vec f) { storef(p, f); }
static inline void load_two(const weight *p, vec *a, vec *b) { *a = load(p), *b = load(p + LANES); }
static inline int lane_index(int second, int l) { return LANES * second + l; }
#endif

#endif
