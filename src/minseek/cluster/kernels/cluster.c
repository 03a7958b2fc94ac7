/* The k-means kernels as one library for one kind of data. */
#include "rows.h"
#include "scan.h"
#include "starts.h"

/* All centres into the wide layout; places without a centre are infinitely far. */
void lay_out(work *w) {
#ifdef SPARSE
    memset(w->lanes, 0, (size_t)(w->groups * GROUP * w->dims) * sizeof(calc));
#else
    for (int64_t j = 0; j < w->groups * GROUP * w->dims; j++) w->lanes[j] = (calc)INFINITY;
#endif
    for (int64_t k = 0; k < w->clusters; k++) put_lane(w, k);
}
int64_t work_bytes(void) { return (int64_t)sizeof(work); }
int64_t calc_bytes(void) { return (int64_t)sizeof(calc); }
