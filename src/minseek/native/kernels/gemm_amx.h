/* Products in the tile registers of AMX: 32 rows of bfloat16 times 32 columns in eight tiles. */
#ifndef MINSEEK_GEMM_AMX_H
#define MINSEEK_GEMM_AMX_H
#include "operands.h"
#if defined(__AMX_BF16__) && defined(__linux__) && defined(WEIGHT_BF16)
#define HAS_AMX 1
#include <sys/syscall.h>
#include <unistd.h>

static int amx_available(void) { /* Linux grants tile registers on request only, as they are large */
    static int granted = -1;
    if (granted < 0) granted = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
    return granted;
}
static void amx_configure(int amx) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.bytes[i] = 64, shape.rows[i] = LANES;
    __asm__ volatile("" : : "r"(&shape) : "memory"); /* GCC 12 thinks that 8 of the 64 bytes are read */
    if (amx) _tile_loadconfig(&shape);
}
static void amx_release(int amx) {
    if (amx) _tile_release();
}
/* 16 or 32 rows times one or two blocks (b[1] may be NULL): c[0] = a0 b0, c[1] = a0 b1, c[2] = a1 b0, c[3] = a1 b1.
 * Some of `next` is prefetched in each of the K/32 steps. */
static void gemm_amx(const row_panel *a, const packed *const *b, int k, int accumulate, float *const *c,
                     prefetch_stream next) {
    const weight *a0 = a->half[0], *a1 = a->half[1];
    const packed *b0 = b[0], *b1 = b[1];
    const size_t bytes = a->stride * sizeof(weight);
    if (accumulate) {
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
            _tile_loadd(6, b0 + packed_offset(i), 64);
            _tile_loadd(7, b1 + packed_offset(i), 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(5, a1 + i, bytes);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
            prefetch_next(&next);
        }
    else if (a1)
        for (int i = 0; i < k; i += 32) {
            _tile_loadd(4, a0 + i, bytes);
            _tile_loadd(5, a1 + i, bytes);
            _tile_loadd(6, b0 + packed_offset(i), 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(2, 5, 6);
            prefetch_next(&next);
        }
    else if (b1)
        for (int i = 0; i < k; i += 32) {
            _tile_loadd(4, a0 + i, bytes);
            _tile_loadd(6, b0 + packed_offset(i), 64);
            _tile_loadd(7, b1 + packed_offset(i), 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            prefetch_next(&next);
        }
    else
        for (int i = 0; i < k; i += 32) {
            _tile_loadd(4, a0 + i, bytes);
            _tile_loadd(6, b0 + packed_offset(i), 64);
            _tile_dpbf16ps(0, 4, 6);
            prefetch_next(&next);
        }
    _tile_stored(0, c[0], 64);
    if (b1) _tile_stored(1, c[1], 64);
    if (a1) _tile_stored(2, c[2], 64);
    if (a1 && b1) _tile_stored(3, c[3], 64);
}
#elif defined(EMULATE_AMX) && OPERAND_BF16 /* for tests: what is built on tiles, with their products in vectors */
#define HAS_AMX 1
static int amx_available(void) { return 1; }
static void amx_configure(int amx) { (void)amx; }
static void amx_release(int amx) { (void)amx; }
#else
#define HAS_AMX 0
static int amx_available(void) { return 0; }
static void amx_configure(int amx) { (void)amx; }
static void amx_release(int amx) { (void)amx; }
#endif
#endif
