/* Rounding of numbers held in one type. Included once for each: T the type, U and I unsigned and signed integers of its
 * width, BITS its mantissa without the hidden bit, BIAS of its exponent, NAMED(x) which gives x a name of its own.
 *
 * A number is sig * 2^(E - BITS); the grid spacing around it is 2^q; sig >> drop counts whole spacings, and the bits
 * dropped decide. All of it is exact: no number is rounded on the way. */

#define MANY ((int)(64 / sizeof(T))) /* numbers side by side */
typedef T NAMED(reals) __attribute__((vector_size(64)));
typedef U NAMED(words) __attribute__((vector_size(64)));
typedef I NAMED(whole) __attribute__((vector_size(64)));
typedef T NAMED(unaligned) __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));
typedef uint32_t NAMED(draws) __attribute__((vector_size(4 * 64 / sizeof(T)), aligned(4), may_alias));
#define VT NAMED(reals)
#define VU NAMED(words)
#define VI NAMED(whole)

/* The grid in the type's own width. Of pairs, the first is for positive numbers. */
typedef struct {
    I mantissa, least, quantum, random_bits;
    T most[2];                        /* the largest magnitude */
    U beyond[2], endless[2], zero[2]; /* bits of what a larger number, an infinity and zero become */
} NAMED(lattice);

static inline U NAMED(bits_of)(double number) {
    const T value = (T)number;
    U bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline NAMED(lattice) NAMED(lattice_of)(const grid *g) {
    return (NAMED(lattice)){
        .mantissa = (I)g->mantissa,
        .least = (I)g->least,
        .quantum = (I)g->quantum,
        .random_bits = (I)g->random_bits,
        .most = {(T)g->highest, (T)g->lowest},
        .beyond = {NAMED(bits_of)(g->over), NAMED(bits_of)(g->under)},
        .endless = {NAMED(bits_of)(g->infinity), NAMED(bits_of)(g->minus_infinity)},
        .zero = {0, NAMED(bits_of)(g->negative_zero ? -0.0 : 0.0)},
    };
}

#define PICK(mask, a, b) (((VU)(mask) & (VU)(a)) | (~(VU)(mask) & (VU)(b)))
#define AT_LEAST(a, b) (VI) PICK((a) > (b), (VI){0} + (a), (VI){0} + (b))
#define AT_MOST(a, b) (VI) PICK((a) < (b), (VI){0} + (a), (VI){0} + (b))

/* 2^n for n in the exponents of normal numbers. */
static inline VT NAMED(power)(VI n) { return (VT)((n + BIAS) << BITS); }

/* -1 where a fraction, `rest` of 2^drop, rounds away from zero: its first random_bits bits, to nearest even, and a random
 * number of as many bits make one or more. */
static inline VI NAMED(by_chance)(VU rest, VI drop, I random_bits, VU random) {
    const VI up = AT_LEAST(random_bits - drop, (VI){0}), less = AT_LEAST(drop - random_bits, (VI){0});
    const VI down = AT_MOST(less, (VI){0} + BITS + 3); /* then all of it is less than half */
    const VU step = (VU)((VI){0} + 1 << down), kept = rest >> (VU)down;
    const VU lost = rest & (step - 1), half = (step >> 1) | (step & 1);
    const VU fraction = (kept - (VU)(lost + (kept & 1) > half)) << (VU)up;
    const U one = ((U)1 << (random_bits - 1)) << 1; /* 0 where it has a bit more than U, as then has the difference */
    return (fraction != 0) & (random >= one - fraction);
}

__attribute__((always_inline)) static inline VT NAMED(round_some)(VT x, const NAMED(lattice) * g, const int mode, VU random) {
    const VU sign = (VU)x & ((U)1 << (8 * sizeof(U) - 1)), size = (VU)x ^ sign;
    const VI negative = (VI)sign < 0, code = (VI)(size >> BITS), subnormal = code == 0;
    const VI exponent = code - subnormal - BIAS;
    const VU sig = (size & (((U)1 << BITS) - 1)) | (~(VU)subnormal & ((U)1 << BITS));
    const VI spacing = (VI)PICK(exponent >= g->least, exponent - g->mantissa, (VI){0} + g->quantum);
    const VI drop = AT_LEAST(spacing - exponent + BITS, (VI){0}), q = exponent - BITS + drop;
    const VI shift = AT_MOST(drop, (VI){0} + BITS + 2); /* then all of it is less than half a spacing */
    const VU unit = (VU)((VI){0} + 1 << shift), count = sig >> (VU)shift;
    const VU rest = sig & (unit - 1), half = (unit >> 1) | (unit & 1);
    VI away = {0};
    if (mode == NEAREST_EVEN) away = rest + (count & 1) > half;
    if (mode == NEAREST_AWAY) away = rest >= half;
    if (mode == UP) away = (rest != 0) & ~negative;
    if (mode == DOWN) away = (rest != 0) & negative;
    if (mode == STOCHASTIC) away = NAMED(by_chance)(rest, drop, g->random_bits, random);
    const VI spacings = (VI)count - away;
    const VT value = __builtin_convertvector(spacings, VT) * NAMED(power)(q >> 1) * NAMED(power)(q - (q >> 1));
    const VT most = (VT)PICK(negative, (VT){0} + g->most[1], (VT){0} + g->most[0]);
    const VU beyond = PICK(negative, (VU){0} + g->beyond[1], (VU){0} + g->beyond[0]);
    const VU endless = PICK(negative, (VU){0} + g->endless[1], (VU){0} + g->endless[0]);
    const VU infinite = (VU){0} + ((U)(2 * BIAS + 1) << BITS);
    VU result = (VU)value | PICK(spacings == 0, sign & g->zero[1], sign);
    result = PICK(value > most, beyond, result);
    result = PICK(size >= infinite, PICK(size > infinite, (VU)x, endless), result);
    return (VT)result;
}

__attribute__((always_inline)) static inline void NAMED(round_part)(const T *x, T *out, int64_t begin, int64_t end, const grid *shared,
                                                                    const int mode, source from, uint64_t first) {
    const NAMED(lattice) g = NAMED(lattice_of)(shared);
    uint32_t random[SPAN];
    for (int64_t at = begin; at < end; at += SPAN) {
        if (mode == STOCHASTIC) draw(from, first + at / SPAN, g.random_bits, random);
        for (int i = 0; i < SPAN && at + i < end; i += MANY) {
            VU chance = {0};
            VT some = {0};
            if (mode == STOCHASTIC) chance = __builtin_convertvector(*(const NAMED(draws) *)(random + i), VU);
            const int64_t left = end - at - i;
            const size_t bytes = left < MANY ? (size_t)left * sizeof(T) : sizeof(VT);
            if (left >= MANY)
                some = *(const NAMED(unaligned) *)(x + at + i);
            else
                memcpy(&some, x + at + i, bytes);
            some = NAMED(round_some)(some, &g, mode, chance);
            if (left >= MANY)
                *(NAMED(unaligned) *)(out + at + i) = some;
            else
                memcpy(out + at + i, &some, bytes);
        }
    }
}

/* Round n numbers; `first` is the span of the random stream that the first one lies in. out may be x. */
void NAMED(round_all)(const T *x, T *out, int64_t n, const grid *g, uint64_t seed, uint64_t stream, uint64_t first, int32_t threads) {
    const source from = {seed, stream};
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < (n + PART - 1) / PART; part++) {
        const int64_t begin = part * PART, end = begin + PART < n ? begin + PART : n;
        switch (g->mode) {
        case NEAREST_EVEN: NAMED(round_part)(x, out, begin, end, g, NEAREST_EVEN, from, first); break;
        case NEAREST_AWAY: NAMED(round_part)(x, out, begin, end, g, NEAREST_AWAY, from, first); break;
        case TOWARD_ZERO: NAMED(round_part)(x, out, begin, end, g, TOWARD_ZERO, from, first); break;
        case UP: NAMED(round_part)(x, out, begin, end, g, UP, from, first); break;
        case DOWN: NAMED(round_part)(x, out, begin, end, g, DOWN, from, first); break;
        default: NAMED(round_part)(x, out, begin, end, g, STOCHASTIC, from, first);
        }
    }
}
#undef MANY
#undef VT
#undef VU
#undef VI
#undef PICK
#undef AT_LEAST
#undef AT_MOST
