/* Threads of one parallel region: a barrier, and ranges split among them. */
#ifndef MINSEEK_BARRIER_H
#define MINSEEK_BARRIER_H
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* All threads wait for each other. OpenMP's own barrier spins for milliseconds, which on a machine with other work is
 * spent waiting for a thread that has no processor: here a thread soon sleeps. */
typedef struct {
    atomic_int arrived, round, asleep;
} barrier;
#define SPINS 2000

static inline void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static void barrier_wait(barrier *b, int num_threads) {
    int round = atomic_load(&b->round);
    if (atomic_fetch_add(&b->arrived, 1) == num_threads - 1) {
        atomic_store(&b->arrived, 0);
        atomic_fetch_add(&b->round, 1);
#ifdef __linux__
        if (atomic_load(&b->asleep)) syscall(SYS_futex, &b->round, FUTEX_WAKE_PRIVATE, num_threads, NULL, NULL, 0);
#endif
        return;
    }
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&b->round, memory_order_acquire) != round) return;
        cpu_relax();
    }
    atomic_fetch_add(&b->asleep, 1);
    while (atomic_load(&b->round) == round) {
#ifdef __linux__
        syscall(SYS_futex, &b->round, FUTEX_WAIT_PRIVATE, round, NULL, NULL, 0);
#else
        sched_yield();
#endif
    }
    atomic_fetch_sub(&b->asleep, 1);
}

/* First index of a thread's part of a range that is split in multiples of 4; the next thread's is its end. */
static inline int split_range(int size, int thread, int num_threads) {
    int64_t units = (size + 3) / 4;
    int64_t start = units * thread / num_threads * 4;
    return start < size ? (int)start : size;
}

#endif
