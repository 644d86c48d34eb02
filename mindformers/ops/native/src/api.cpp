// The C interface: picks the instruction set, checks nothing (the Python side has), calls the kernels.

#include <cstring>

#include "decoder.h"
#include "kernels.h"
#include "threads.h"

namespace mf {

extern const Kernels kernels_generic;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

static const Kernels* best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    return &kernels_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    return &kernels_avx2;
#endif
  return &kernels_generic;
}

static const Kernels* kernels = best();

const Kernels& active() { return *kernels; }

}  // namespace mf

using namespace mf;

extern "C" {

const char* mf_instruction_set() { return kernels->name; }

int mf_use_instruction_set(const char* name) {
  const Kernels* top = best();
  const Kernels* known[] = {
#if defined(__x86_64__)
      &kernels_avx512, &kernels_avx2,
#endif
      &kernels_generic};
  bool is_allowed = false;
  for (const Kernels* each : known) {
    is_allowed = is_allowed || each == top;
    if (is_allowed && std::strcmp(each->name, name) == 0) {
      kernels = each;
      return 0;
    }
  }
  return 1;
}

int mf_threads() { return thread_count(); }
void mf_set_threads(int count) { set_thread_count(count); }

void mf_gemm(const Matrix* a, const Matrix* b, int64_t m, int64_t n, int64_t k, float* c, int64_t ldc,
             int accumulate) {
  kernels->gemm(*a, *b, m, n, k, c, ldc, accumulate != 0);
}

void mf_linear(const float* x, int64_t tokens, const Weight* w, float* y, int64_t ldy) {
  kernels->linear(x, tokens, *w, y, ldy);
}

void mf_run_step(const Network* network, const Step* step, float* logits) {
  kernels->run_step(*network, *step, logits);
}
}
