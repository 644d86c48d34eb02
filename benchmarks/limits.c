/* What this machine can do at most: bytes read from memory per second, fused multiply-adds per second.
 *
 *   limits <threads> read|fma <repeats> <MiB that are read, or millions of loop turns> <passes over them>
 *
 * Prints one figure per repeat, GB/s or GFLOP/s. Vectors are as wide as the compiler's target has them.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX__)
#define WIDTH 32
#else
#define WIDTH 16
#endif
#define LANES (WIDTH / 4)
#define CHAINS 12 /* independent sums: enough to hide the latency of two fused units */
#define STREAMS 4 /* sequential reads per thread; one alone does not fill the memory queues */

typedef float vec __attribute__((vector_size(WIDTH)));

struct job {
    const char *data; /* NULL: arithmetic only */
    long amount;      /* bytes, or loop turns */
    int passes;
    float result;     /* kept, so that the work is not optimised away */
};

static float total(const vec *parts, int count) {
    float sum = 0;
    for (int i = 0; i < count; i++)
        for (int lane = 0; lane < LANES; lane++) sum += parts[i][lane];
    return sum;
}

static float read_all(const char *data, long bytes) {
    const long each = bytes / STREAMS / (2 * WIDTH) * (2 * WIDTH);
    vec sums[2 * STREAMS];
    memset(sums, 0, sizeof sums);
    for (long at = 0; at < each; at += 2 * WIDTH) {
#pragma GCC unroll 4
        for (int s = 0; s < STREAMS; s++) {
            const vec *here = (const vec *)(data + s * each + at);
            sums[2 * s] += here[0];
            sums[2 * s + 1] += here[1];
        }
    }
    return total(sums, 2 * STREAMS);
}

static float multiply_add(long turns) {
    vec chains[CHAINS], factor, term;
    for (int lane = 0; lane < LANES; lane++) factor[lane] = 0.999999f, term[lane] = 1e-7f;
    for (int i = 0; i < CHAINS; i++) chains[i] = term * (float)i;
    for (long turn = 0; turn < turns; turn++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) chains[i] = chains[i] * factor + term;
    }
    return total(chains, CHAINS);
}

static void *run(void *argument) {
    struct job *job = argument;
    for (int pass = 0; pass < job->passes; pass++) {
        long amount = job->amount;
        __asm__ volatile("" : "+r"(amount) : : "memory"); /* the passes must not be taken for one */
        job->result += job->data ? read_all(job->data, amount) : multiply_add(amount);
    }
    return NULL;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

int main(int count, char **words) {
    enum { MOST = 256 };
    if (count != 6) return fprintf(stderr, "usage: limits threads read|fma repeats amount passes\n"), 2;
    const int threads = atoi(words[1]), repeats = atoi(words[3]), passes = atoi(words[5]);
    const int reads = !strcmp(words[2], "read");
    const long given = atol(words[4]);
    if (threads < 1 || threads > MOST || repeats < 1 || given < 1 || passes < 1) return 2;
    const long bytes = (given << 20) / threads / 4096 * 4096;
    char *data = NULL;
    if (reads) {
        data = aligned_alloc(1 << 21, ((size_t)bytes * threads + (1 << 21)) >> 21 << 21);
        if (!data) return fprintf(stderr, "out of memory\n"), 1;
        memset(data, 1, (size_t)bytes * threads);
    }
    pthread_t handles[MOST];
    struct job jobs[MOST];
    float kept = 0;
    for (int repeat = 0; repeat < repeats; repeat++) {
        const double started = now();
        for (int t = 0; t < threads; t++) {
            const long amount = data ? bytes : given * 1000000;
            jobs[t] = (struct job){data ? data + t * bytes : NULL, amount, passes, 0};
            if (pthread_create(&handles[t], NULL, run, &jobs[t])) return 1;
        }
        for (int t = 0; t < threads; t++) pthread_join(handles[t], NULL), kept += jobs[t].result;
        const double seconds = now() - started;
        const double done = data ? (double)bytes : given * 1e6 * CHAINS * LANES * 2;
        printf("%.2f\n", done * threads * passes / seconds / 1e9);
    }
    free(data);
    return kept == 0.5f; /* never; uses the sums */
}
