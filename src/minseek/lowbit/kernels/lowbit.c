/* Rounding of float32 and float64 numbers to any format, and the SGD step of bfloat16 weights. */
#include <stdint.h>
#include <string.h>
#include "grid.h"
#include "philox.h"

#define PART (256 * SPAN) /* elements that a thread takes at a time */

#define T float
#define U uint32_t
#define I int32_t
#define BITS 23
#define BIAS 127
#define NAMED(x) x##_float32
#include "round_as.h"
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
#include "round_as.h"
#include "sgd.h"
