/* How the threads of one parallel region share work and wait for each other. */
#ifndef MINSEEK_TEAM_H
#define MINSEEK_TEAM_H
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
} meeting;
#define SPINS 2000

static inline void pause_a_little(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static void meet(meeting *m, int threads) {
    int round = atomic_load(&m->round);
    if (atomic_fetch_add(&m->arrived, 1) == threads - 1) {
        atomic_store(&m->arrived, 0);
        atomic_fetch_add(&m->round, 1);
#ifdef __linux__
        if (atomic_load(&m->asleep)) syscall(SYS_futex, &m->round, FUTEX_WAKE_PRIVATE, threads, NULL, NULL, 0);
#endif
        return;
    }
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&m->round, memory_order_acquire) != round) return;
        pause_a_little();
    }
    atomic_fetch_add(&m->asleep, 1);
    while (atomic_load(&m->round) == round) {
#ifdef __linux__
        syscall(SYS_futex, &m->round, FUTEX_WAIT_PRIVATE, round, NULL, NULL, 0);
#else
        sched_yield();
#endif
    }
    atomic_fetch_sub(&m->asleep, 1);
}

/* The part of a range that thread t of n does, in multiples of 4. */
static inline int share(int size, int t, int n) {
    int64_t units = (size + 3) / 4;
    int64_t at = units * t / n * 4;
    return at < size ? (int)at : size;
}

#endif
