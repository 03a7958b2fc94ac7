/* The k-means kernels as one library for one kind of data; the headers are their implementation, each included once. */
#include "assign.h"
#include "init.h"
#include "nearest.h"
#include "scan_moves.h"
#include "sweep.h"
#include "unique_rows.h"
#include "update.h"

int64_t sizeof_kmeans_state(void) { return (int64_t)sizeof(kmeans_state); }
int64_t real_bytes(void) { return (int64_t)sizeof(real); }
int64_t thread_scratch_bytes(const kmeans_state *s) {
    thread_scratch t;
    return scratch_layout(s, NULL, &t) - (char *)NULL;
}
