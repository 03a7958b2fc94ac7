/* Temporary memory of a kernel, which may not be had: callers return OUT_OF_MEMORY, a MemoryError in Python. */
#ifndef MINSEEK_ALLOC_H
#define MINSEEK_ALLOC_H
#include <stddef.h>
#include <stdlib.h>

#define OUT_OF_MEMORY 1

static inline void *try_malloc(size_t count, size_t size) {
#ifdef FAIL_ALLOCATIONS /* for tests */
    (void)count, (void)size;
    return NULL;
#else
    if (count && size > (size_t)-1 / count) return NULL; /* their product overflows */
    const size_t bytes = count * size;
    return malloc(bytes > 0 ? bytes : 1);
#endif
}

#endif
