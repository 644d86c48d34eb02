// The C interface: picks the instruction set, checks nothing (the Python side has), calls the kernels.

#include <cstring>

#include "check.h"
#include "decoder.h"
#include "guard.h"
#include "kernels.h"
#include "threads.h"

namespace mf {

// A set the library was compiled with (-DMF_HAS_<name>), whether this CPU runs it and gains by it; best first.
struct Set {
  const Kernels* table;
  bool (*is_supported)();
  bool (*is_faster)() = [] { return true; };
};

#define CPU_HAS(feature) bool(__builtin_cpu_supports(feature))
#define CPU_IS(maker) bool(__builtin_cpu_is(maker))
#if defined(MF_HAS_avx512) || defined(MF_HAS_avx512vnni) || defined(MF_HAS_avx512bf16)
static bool has_avx512() {
  return CPU_HAS("avx512f") && CPU_HAS("avx512bw") && CPU_HAS("avx512vl") && CPU_HAS("avx512dq");
}
#endif
#ifdef MF_HAS_avx512bf16
extern const Kernels kernels_avx512bf16;
static bool has_avx512bf16() { return has_avx512() && CPU_HAS("avx512vnni") && CPU_HAS("avx512bf16"); }
#endif
#ifdef MF_HAS_avx512vnni
extern const Kernels kernels_avx512vnni;
static bool has_avx512vnni() { return has_avx512() && CPU_HAS("avx512vnni"); }
#endif
#ifdef MF_HAS_avx512
extern const Kernels kernels_avx512;
#endif
#ifdef MF_HAS_avx2
extern const Kernels kernels_avx2;
// Every CPU with AVX2 converts float16 as well; not every compiler can ask for it.
static bool has_avx2() { return CPU_HAS("avx2") && CPU_HAS("fma"); }
#endif
#if defined(MF_HAS_neon) || defined(MF_HAS_generic)
static bool always() { return true; }
#endif
#ifdef MF_HAS_neon
extern const Kernels kernels_neon;
#endif
#ifdef MF_HAS_generic
extern const Kernels kernels_generic;
#endif

static const Set sets[] = {
#ifdef MF_HAS_avx512bf16
    {&kernels_avx512bf16, has_avx512bf16, [] { return CPU_IS("amd"); }},
#endif
#ifdef MF_HAS_avx512vnni
    {&kernels_avx512vnni, has_avx512vnni},
#endif
#ifdef MF_HAS_avx512
    {&kernels_avx512, has_avx512},
#endif
#ifdef MF_HAS_avx2
    {&kernels_avx2, has_avx2},
#endif
#ifdef MF_HAS_neon
    {&kernels_neon, always},
#endif
#ifdef MF_HAS_generic
    {&kernels_generic, always},
#endif
};

static const Kernels* find(const char* name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  for (const Set& each : sets)
    if ((name ? std::strcmp(each.table->name, name) == 0 : each.is_faster()) && each.is_supported()) return each.table;
  return nullptr;
}

static const Kernels* kernels = find(nullptr);

const Kernels& active() { return *kernels; }

}  // namespace mf

using namespace mf;

extern "C" {

// The set in use; empty where this CPU runs none of the library's.
const char* mf_instruction_set() { return kernels ? kernels->name : ""; }

int mf_use_instruction_set(const char* name) {
  const Kernels* found = find(name);
  if (!found) return 1;
  kernels = found;
  return 0;
}

int mf_threads() { return thread_count(); }
void mf_set_threads(int count) { set_thread_count(count); }

int mf_gemm(const Matrix* a, const Matrix* b, int64_t m, int64_t n, int64_t k, float* c, int64_t ldc,
            int accumulate) {
  return guarded([&] { kernels->gemm(*a, *b, m, n, k, c, ldc, accumulate != 0); });
}

int mf_linear(const float* x, int64_t tokens, const Weight* w, float* y, int64_t ldy) {
  return guarded([&] { kernels->linear(x, tokens, *w, y, ldy); });
}

int mf_check_step(const Network* network, const Step* step, int64_t num_blocks) {
  return check_step(network->shape, *step, num_blocks);
}

int mf_sharpen(float* scores, int64_t n, float temperature, int64_t top_k, double top_p) {
  return guarded([&] { kernels->sharpen(scores, n, temperature, top_k, top_p); });
}

int mf_run_step(const Network* network, const Step* step, float* logits, float* states) {
  return guarded([&] { kernels->run_step(*network, *step, logits, states); });
}
}
