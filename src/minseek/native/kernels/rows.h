/* Rows of weights in any format: multiplied with one column, or unpacked. */
#ifndef MINSEEK_ROWS_H
#define MINSEEK_ROWS_H
#include "decoder.h"
#include "operands.h"

/* Rows of operands are padded with zeros to a multiple of this. */
#define K_UNIT (OPERAND_BF16 ? 64 : 32)
static inline size_t padded_k(size_t k) { return round_up(k, K_UNIT); }

#define HIDDEN __attribute__((visibility("hidden")))
/* Rows first..last - 1 of a matrix times one column x [k], float32. */
HIDDEN void dot_rows(const weight_matrix *w, int first, int last, const float *x, int k, float *out);
/* `count` rows of k weights as operands [count][padded_k(k)]. */
HIDDEN void unpack_rows(const weight_matrix *w, int first, int count, int k, operand *out);
/* One row of k weights as float32. */
HIDDEN void unpack_row_f32(const weight_matrix *w, int64_t index, int k, float *out);

#endif
