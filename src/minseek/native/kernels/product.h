/* Products of rows of weights with columns of activations: C [rows, columns] = A [rows, K] times B [K, columns].
 *
 * Columns come in blocks of 16, one per lane, so everything that is done to an activation (norms, rotations, softmax)
 * is done to 16 of them at once without ever summing across lanes, and a column never depends on its neighbours: what
 * a sequence gives does not change with the company it is in. Activations lie as [block][feature][16] in float32, and
 * packed for a product as [block][K/2][16] pairs of bfloat16, or [block][K][16] float32. Rows of A are [rows][K],
 * whether they are weights, keys or (turned) values.
 *
 * On processors with AMX a product of 32 rows and 32 columns runs in eight tile registers; elsewhere in vectors. Where
 * these can't multiply bfloat16, rows are widened to float32 first: once, not for each block that they meet; see fold.h
 * for passes of few columns.
 */
#ifndef MINSEEK_PRODUCT_H
#define MINSEEK_PRODUCT_H
#include "fold.h"
#if defined(__AMX_BF16__) && defined(__linux__) && defined(WEIGHT_BF16)
#define TILES 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define SQUARE (LANES * LANES)

/* rows <= 16 rows of A times `wide` blocks, known when this is compiled, into C [16][16] each, or added to it. A column's
 * products are summed up in the order of k, however many blocks there are. `ahead` is fetched meanwhile, some of it for
 * each 32 of k and every TOGETHER rows. */
static inline __attribute__((always_inline)) void product_of(const factor *a, size_t stride, int rows,
                                                             const packed *const *b, int k, int add, float *const *c,
                                                             const int wide, fetching *ahead) {
    for (int first = 0; first < rows; first += TOGETHER) {
        const factor *row[TOGETHER];
        part sum[ABREAST][TOGETHER][PARTS];
        int count = rows - first < TOGETHER ? rows - first : TOGETHER;
        for (int r = 0; r < TOGETHER; r++) {
            row[r] = a + (size_t)(first + (r < count ? r : 0)) * stride;
            for (int w = 0; w < wide; w++)
                for (int p = 0; p < PARTS; p++) {
                    sum[w][r][p] = (part){0};
                    if (add && r < count) sum[w][r][p] = *(const part_u *)(c[w] + (first + r) * LANES + p * WIDTH);
                }
        }
        for (int i = 0; i < k; i += PER_PACKED) {
            if (i % 32 == 0) fetch(ahead);
#if defined(WEIGHT_BF16) && !WIDENS
            __m512bh pairs[ABREAST];
            for (int w = 0; w < wide; w++) pairs[w] = (__m512bh)*(const part_bits_u *)(b[w] + packed_at(i));
            for (int r = 0; r < TOGETHER; r++) {
                uint32_t two;
                memcpy(&two, row[r] + i, 4);
                const part_bits both = ALL(two);
                for (int w = 0; w < wide; w++)
                    sum[w][r][0] = (part)_mm512_dpbf16_ps((__m512)sum[w][r][0], (__m512bh)both, pairs[w]);
            }
#else
            part x[PER_PACKED][ABREAST][PARTS];
            for (int w = 0; w < wide; w++)
                for (int p = 0; p < PARTS; p++) {
#if WIDENS
                    const part_bits pairs = *(const part_bits_u *)(b[w] + packed_at(i) + p * WIDTH);
                    x[0][w][p] = (part)(pairs << 16), x[1][w][p] = (part)(pairs & 0xffff0000u);
#else
                    x[0][w][p] = *(const part_u *)(b[w] + (size_t)i * LANES + p * WIDTH);
#endif
                }
            for (int e = 0; e < PER_PACKED; e++)
                for (int r = 0; r < TOGETHER; r++) {
                    const float one = row[r][i + e];
                    const part all = ALL(one);
                    for (int w = 0; w < wide; w++)
                        for (int p = 0; p < PARTS; p++) sum[w][r][p] += all * x[e][w][p];
                }
#endif
        }
        for (int w = 0; w < wide; w++)
            for (int r = 0; r < count; r++)
                for (int p = 0; p < PARTS; p++)
                    *(part_u *)(c[w] + (first + r) * LANES + p * WIDTH) = sum[w][r][p];
    }
}

/* The same of one block or two; b1 may be NULL. */
static void product_in_vectors(const factor *a, size_t stride, int rows, const packed *b0, const packed *b1, int k,
                               int add, float *c0, float *c1, fetching *ahead) {
    const packed *b[2] = {b0, b1};
    float *c[2] = {c0, c1};
    if (ABREAST > 1 && b1) {
        product_of(a, stride, rows, b, k, add, c, ABREAST, ahead);
        return;
    }
    product_of(a, stride, rows, b, k, add, c, 1, ahead);
    fetching nothing = NOTHING;
    if (b1) product_of(a, stride, rows, b + 1, k, add, c + 1, 1, &nothing);
}

#if WIDENS
#define WIDE_K 256 /* factors of a row at a time, where nobody has widened them before: 16 rows fit into a core's cache */
#ifndef WIDENED_K
#define WIDENED_K 4096 /* longer rows are widened piece by piece by each product */
#endif
/* k factors of each row, k even. */
static void widen_rows(const weight *a, size_t stride, int rows, int k, float *wide, size_t wide_stride) {
    for (int r = 0; r < rows; r++) {
        const weight *from = a + (size_t)r * stride;
        float *to = wide + (size_t)r * wide_stride;
        int i = 0;
        for (; i + LANES <= k; i += LANES) storef(to + i, load(from + i));
        for (; i < k; i++) to[i] = widen(from[i]);
    }
}
#endif

/* Rows for many products with the same blocks, and how they lie. */
typedef struct {
    const float *wide; /* widened, or NULL */
    int fold;          /* so many rows share a vector; see fold.h */
} panel;
static const panel AS_THEY_ARE = {NULL, 1};
/* Rows of one block of so many columns that share a vector. */
static inline int fold_of(int columns, int k) {
#if WIDENS
    if (k <= WIDENED_K) return columns <= LANES / 4 ? 4 : columns <= LANES / 2 ? 2 : 1;
#endif
    (void)columns, (void)k;
    return 1;
}
/* Floats that `spread_out` and `open_panel` need for rows of k. */
static inline size_t panel_floats(int k) {
#if WIDENS
    if (k <= WIDENED_K) return (size_t)(2 * LANES + LANES / 2) * up_to(k, 2);
#endif
    (void)k;
    return 0;
}
/* The block x as products of `fold` rows a vector need it, in the beginning of `room`. */
static const packed *spread_out(const packed *x, int k, int fold, float *room) {
#if WIDENS
    if (fold > 1) {
        spread(x, k, fold, (packed *)room);
        return (packed *)room;
    }
#endif
    (void)k, (void)fold, (void)room;
    return x;
}
/* Up to 16 rows each from a0 and a1 (may be NULL), in the rest of `room` if they have to be widened. */
static panel open_panel(const weight *a0, int rows0, const weight *a1, int rows1, int k, int fold, float *room) {
#if WIDENS
    if (k <= WIDENED_K) {
        float *wide = room + (size_t)LANES / 2 * up_to(k, 2), *second = wide + (size_t)LANES * k;
        if (fold > 1) {
            fold_rows(a0, rows0, k, fold, wide);
            if (a1) fold_rows(a1, rows1, k, fold, second);
        } else {
            widen_rows(a0, k, rows0, k, wide, k);
            if (a1) widen_rows(a1, k, rows1, k, second, k);
        }
        return (panel){wide, fold};
    }
#endif
    (void)a0, (void)rows0, (void)a1, (void)rows1, (void)k, (void)fold, (void)room;
    return AS_THEY_ARE;
}

#ifdef TILES
static int tiles_allowed(void) { /* Linux asks to be asked: tile registers are large */
    static int known = -1;
    if (known < 0) known = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
    return known;
}
static void tiles_begin(int allowed) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.bytes[i] = 64, shape.rows[i] = LANES;
    __asm__ volatile("" : : "r"(&shape) : "memory"); /* GCC 12 thinks that 8 of the 64 bytes are read */
    if (allowed) _tile_loadconfig(&shape);
}
static void tiles_end(int allowed) {
    if (allowed) _tile_release();
}
/* 16 or 32 rows (a1 may be NULL) times one or two blocks (b1 may be NULL), into c[0] = a0 b0, c[1] = a0 b1, c[2] = a1 b0,
 * c[3] = a1 b1; some of `ahead` is fetched in each of the K/32 steps. */
static void product_in_tiles(const weight *a0, const weight *a1, size_t stride, const packed *b0, const packed *b1, int k,
                             int add, float *const *c, fetching ahead) {
    const size_t bytes = stride * sizeof(weight);
    if (add) {
        _tile_loadd(0, c[0], 64);
        if (b1) _tile_loadd(1, c[1], 64);
        if (a1) _tile_loadd(2, c[2], 64);
        if (a1 && b1) _tile_loadd(3, c[3], 64);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    if (a1 && b1)
        for (int i = 0; i < k; i += 32) {
            _tile_loadd(4, a0 + i, bytes);
            _tile_loadd(6, b0 + packed_at(i), 64);
            _tile_loadd(7, b1 + packed_at(i), 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(5, a1 + i, bytes);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
            fetch(&ahead);
        }
    else if (a1)
        for (int i = 0; i < k; i += 32) {
            _tile_loadd(4, a0 + i, bytes);
            _tile_loadd(5, a1 + i, bytes);
            _tile_loadd(6, b0 + packed_at(i), 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(2, 5, 6);
            fetch(&ahead);
        }
    else if (b1)
        for (int i = 0; i < k; i += 32) {
            _tile_loadd(4, a0 + i, bytes);
            _tile_loadd(6, b0 + packed_at(i), 64);
            _tile_loadd(7, b1 + packed_at(i), 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            fetch(&ahead);
        }
    else
        for (int i = 0; i < k; i += 32) {
            _tile_loadd(4, a0 + i, bytes);
            _tile_loadd(6, b0 + packed_at(i), 64);
            _tile_dpbf16ps(0, 4, 6);
            fetch(&ahead);
        }
    _tile_stored(0, c[0], 64);
    if (b1) _tile_stored(1, c[1], 64);
    if (a1) _tile_stored(2, c[2], 64);
    if (a1 && b1) _tile_stored(3, c[3], 64);
}
#else
static int tiles_allowed(void) { return 0; }
static void tiles_begin(int allowed) { (void)allowed; }
static void tiles_end(int allowed) { (void)allowed; }
#endif

/* Up to 16 rows each from a0 and a1 (may be NULL) times one or two blocks; see product_in_tiles. rows: what `open_panel`
 * gave for them, or AS_THEY_ARE. */
static void product(int tiles, const weight *a0, int rows0, const weight *a1, int rows1, size_t stride,
                    panel rows, const packed *b0, const packed *b1, int k, int add, float *const *c,
                    fetching ahead) {
#ifdef TILES
    if (tiles && rows0 == LANES && (!a1 || rows1 == LANES) && k % 32 == 0) {
        product_in_tiles(a0, a1, stride, b0, b1, k, add, c, ahead);
        return;
    }
#endif
    (void)tiles;
#if WIDENS
    if (!rows.wide) {
        float piece[LANES * WIDE_K];
        fetching nothing = NOTHING;
        for (int from = 0; from < k; from += WIDE_K) {
            const int length = k - from < WIDE_K ? k - from : WIDE_K;
            const packed *p0 = b0 + packed_at(from), *p1 = b1 ? b1 + packed_at(from) : NULL;
            widen_rows(a0 + from, stride, rows0, length, piece, WIDE_K);
            product_in_vectors(piece, WIDE_K, rows0, p0, p1, length, add || from, c[0], c[1], &nothing);
            if (!a1) continue;
            widen_rows(a1 + from, stride, rows1, length, piece, WIDE_K);
            product_in_vectors(piece, WIDE_K, rows1, p0, p1, length, add || from, c[2], c[3], &nothing);
        }
        return;
    }
    if (rows.fold > 1) {
        product_folded(rows.wide, rows0, a1 ? rows1 : 0, b0, k, add, c[0], c[2], rows.fold, ahead);
        return;
    }
    const factor *f0 = rows.wide, *f1 = a1 ? rows.wide + (size_t)LANES * k : NULL;
    stride = k;
#else
    (void)rows;
    const factor *f0 = a0, *f1 = a1;
#endif
    ahead.lines /= a1 ? 2 * LANES / TOGETHER : LANES / TOGETHER; /* with many blocks none: time enough */
    product_in_vectors(f0, stride, rows0, b0, b1, k, add, c[0], c[1], &ahead);
    if (f1) product_in_vectors(f1, stride, rows1, b0, b1, k, add, c[2], c[3], &ahead);
}
#endif
