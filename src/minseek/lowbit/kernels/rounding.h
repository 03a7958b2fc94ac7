/* Rounding of numbers held in one type: a template, included once for each. T is the type, U and I are unsigned and
 * signed integers of its width, BITS its mantissa without the hidden bit, BIAS that of its exponent, NAMED(x) adds the
 * type to a name.
 *
 * A number is sig * 2^(E - BITS); the grid spacing around it is 2^q; sig >> drop counts whole spacings, and the bits
 * dropped decide. All of it is exact: no number is rounded on the way. */

#define COUNT ((int)(SIMD_BYTES / sizeof(T))) /* numbers in a vector */
typedef T NAMED(reals) VECTOR(SIMD_BYTES);
typedef U NAMED(words) VECTOR(SIMD_BYTES);
typedef I NAMED(ints) VECTOR(SIMD_BYTES);
typedef T NAMED(reals_u) UNALIGNED(SIMD_BYTES, sizeof(T));
typedef uint32_t NAMED(draws_u) UNALIGNED(4 * SIMD_BYTES / sizeof(T), 4);
#define VT NAMED(reals)
#define VU NAMED(words)
#define VI NAMED(ints)

/* The grid in the type's own width. In pairs, the first is for positive numbers, the second for negative ones. */
typedef struct {
    I mantissa, least, quantum, random_bits;
    T largest[2];                    /* magnitudes */
    U over[2], infinity[2], zero[2]; /* bits of the results for larger numbers, infinities and zero */
} NAMED(typed_grid);

static inline U NAMED(bits_of)(double number) {
    const T value = (T)number;
    U bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline NAMED(typed_grid) NAMED(to_typed)(const grid *g) {
    return (NAMED(typed_grid)){
        .mantissa = (I)g->mantissa,
        .least = (I)g->least,
        .quantum = (I)g->quantum,
        .random_bits = (I)g->random_bits,
        .largest = {(T)g->highest, (T)g->lowest},
        .over = {NAMED(bits_of)(g->over), NAMED(bits_of)(g->under)},
        .infinity = {NAMED(bits_of)(g->infinity), NAMED(bits_of)(g->minus_infinity)},
        .zero = {0, NAMED(bits_of)(g->negative_zero ? -0.0 : 0.0)},
    };
}

#define SELECT(mask, a, b) (((VU)(mask) & (VU)(a)) | (~(VU)(mask) & (VU)(b)))
#define MAX(a, b) (VI) SELECT((a) > (b), (VI){0} + (a), (VI){0} + (b))
#define MIN(a, b) (VI) SELECT((a) < (b), (VI){0} + (a), (VI){0} + (b))

/* 2^n for n in the exponents of normal numbers. */
static inline VT NAMED(power_of_two)(VI n) { return (VT)((n + BIAS) << BITS); }

/* -1 where a fraction, `rest` of 2^drop, rounds away from zero: its first random_bits bits, rounded to nearest even,
 * plus a random number of as many bits reach one. */
static inline VI NAMED(stochastic_away)(VU rest, VI drop, I random_bits, VU random) {
    const VI up = MAX(random_bits - drop, (VI){0}), excess = MAX(drop - random_bits, (VI){0});
    const VI down = MIN(excess, (VI){0} + BITS + 3); /* from there on, all of it is less than half */
    const VU step = (VU)((VI){0} + 1 << down), kept = rest >> (VU)down;
    const VU lost = rest & (step - 1), half = (step >> 1) | (step & 1);
    const VU fraction = (kept - (VU)(lost + (kept & 1) > half)) << (VU)up;
    const U one = ((U)1 << (random_bits - 1)) << 1; /* modulo 2^32 in 32 bits, as the difference then is */
    return (fraction != 0) & (random >= one - fraction);
}

__attribute__((always_inline)) static inline VT NAMED(round_vector)(VT x, const NAMED(typed_grid) * g, const int mode,
                                                                    VU random) {
    const VU sign = (VU)x & ((U)1 << (8 * sizeof(U) - 1)), size = (VU)x ^ sign;
    const VI negative = (VI)sign < 0, code = (VI)(size >> BITS), subnormal = code == 0;
    const VI exponent = code - subnormal - BIAS;
    const VU sig = (size & (((U)1 << BITS) - 1)) | (~(VU)subnormal & ((U)1 << BITS));
    const VI spacing = (VI)SELECT(exponent >= g->least, exponent - g->mantissa, (VI){0} + g->quantum);
    const VI drop = MAX(spacing - exponent + BITS, (VI){0}), q = exponent - BITS + drop;
    const VI shift = MIN(drop, (VI){0} + BITS + 2); /* from there on, all of it is less than half a spacing */
    const VU unit = (VU)((VI){0} + 1 << shift), count = sig >> (VU)shift;
    const VU rest = sig & (unit - 1), half = (unit >> 1) | (unit & 1);
    VI away = {0};
    if (mode == NEAREST_EVEN) away = rest + (count & 1) > half;
    if (mode == NEAREST_AWAY) away = rest >= half;
    if (mode == UP) away = (rest != 0) & ~negative;
    if (mode == DOWN) away = (rest != 0) & negative;
    if (mode == STOCHASTIC) away = NAMED(stochastic_away)(rest, drop, g->random_bits, random);
    const VI spacings = (VI)count - away;
    const VT scale = NAMED(power_of_two)(q >> 1), rest_of_scale = NAMED(power_of_two)(q - (q >> 1));
    const VT value = __builtin_convertvector(spacings, VT) * scale * rest_of_scale;
    const VT largest = (VT)SELECT(negative, (VT){0} + g->largest[1], (VT){0} + g->largest[0]);
    const VU over = SELECT(negative, (VU){0} + g->over[1], (VU){0} + g->over[0]);
    const VU infinity = SELECT(negative, (VU){0} + g->infinity[1], (VU){0} + g->infinity[0]);
    const VU infinite = (VU){0} + ((U)(2 * BIAS + 1) << BITS);
    VU result = (VU)value | SELECT(spacings == 0, sign & g->zero[1], sign);
    result = SELECT(value > largest, over, result);
    result = SELECT(size >= infinite, SELECT(size > infinite, (VU)x, infinity), result);
    return (VT)result;
}

__attribute__((always_inline)) static inline void NAMED(round_range)(const T *x, T *out, int64_t begin, int64_t end,
                                                                     const grid *shared, const int mode,
                                                                     random_source source, uint64_t first) {
    const NAMED(typed_grid) g = NAMED(to_typed)(shared);
    uint32_t random[SPAN];
    for (int64_t offset = begin; offset < end; offset += SPAN) {
        if (mode == STOCHASTIC) draw(source, first + offset / SPAN, g.random_bits, random);
        for (int i = 0; i < SPAN && offset + i < end; i += COUNT) {
            VU drawn = {0};
            VT numbers = {0};
            if (mode == STOCHASTIC) drawn = __builtin_convertvector(*(const NAMED(draws_u) *)(random + i), VU);
            const int64_t left = end - offset - i;
            const size_t bytes = left < COUNT ? (size_t)left * sizeof(T) : sizeof(VT);
            if (left >= COUNT)
                numbers = *(const NAMED(reals_u) *)(x + offset + i);
            else
                memcpy(&numbers, x + offset + i, bytes);
            numbers = NAMED(round_vector)(numbers, &g, mode, drawn);
            if (left >= COUNT)
                *(NAMED(reals_u) *)(out + offset + i) = numbers;
            else
                memcpy(out + offset + i, &numbers, bytes);
        }
    }
}

/* Rounds n numbers; `first` is the span of the random stream for the first one. out may be x. */
void NAMED(round_all)(const T *x, T *out, int64_t n, const grid *g, uint64_t seed, uint64_t stream, uint64_t first,
                      int32_t threads) {
    const random_source source = {seed, stream};
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t chunk = 0; chunk < (n + CHUNK - 1) / CHUNK; chunk++) {
        const int64_t begin = chunk * CHUNK, end = begin + CHUNK < n ? begin + CHUNK : n;
        switch (g->mode) {
        case NEAREST_EVEN: NAMED(round_range)(x, out, begin, end, g, NEAREST_EVEN, source, first); break;
        case NEAREST_AWAY: NAMED(round_range)(x, out, begin, end, g, NEAREST_AWAY, source, first); break;
        case TOWARD_ZERO: NAMED(round_range)(x, out, begin, end, g, TOWARD_ZERO, source, first); break;
        case UP: NAMED(round_range)(x, out, begin, end, g, UP, source, first); break;
        case DOWN: NAMED(round_range)(x, out, begin, end, g, DOWN, source, first); break;
        default: NAMED(round_range)(x, out, begin, end, g, STOCHASTIC, source, first);
        }
    }
}
#undef COUNT
#undef VT
#undef VU
#undef VI
#undef SELECT
#undef MAX
#undef MIN
