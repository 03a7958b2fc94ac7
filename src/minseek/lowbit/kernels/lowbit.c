/* Rounding of float32 and float64 numbers to any format, and the SGD step of bfloat16 weights. The headers of this
 * folder are parts of this one source file. */
#include <stdint.h>
#include <string.h>
#include "grid.h"
#include "lanes.h"
#include "philox.h"

#define CHUNK (256 * SPAN) /* elements that a thread takes at a time */

#define T float
#define U uint32_t
#define I int32_t
#define BITS 23
#define BIAS 127
#define NAMED(x) x##_float32
#include "rounding.h"
#undef T
#undef U
#undef I
#undef BITS
#undef BIAS
#undef NAMED

#define T double
#define U uint64_t
#define I int64_t
#define BITS 52
#define BIAS 1023
#define NAMED(x) x##_float64
#include "rounding.h"
#include "sgd.h"

/* Sizes of the structs that Python mirrors. */
int64_t sizeof_grid(void) { return sizeof(grid); }
int64_t sizeof_sgd_step(void) { return sizeof(sgd_step); }
