// GCC before 13 tells the optimizer that loading an AMX tile configuration reads 8 bytes of it, not 64: the rest is dropped
// and llama.cpp ends with a segmentation fault (https://github.com/ggml-org/llama.cpp/issues/20824).
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#include <immintrin.h>
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg\t%X0" ::"m"(*(const char(*)[64])(config)))
#endif
