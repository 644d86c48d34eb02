// Products of a row-major weight with a few tokens: one token at the speed the weights come from memory, up to
// MOST of them with the weights read once.
#pragma once

#include <algorithm>

#include "pointwise.h"
#include "tile.h"

namespace mf {
namespace ISA {

constexpr int LANES = 8;  // tokens side by side in a vector
constexpr int MOST = 32;  // tokens a pass over the weights can serve
#if defined(__AVX2__) || defined(__ARM_NEON)
constexpr int BLOCK = 12;  // rows whose sums stay in registers
#else
constexpr int BLOCK = 6;
#endif
constexpr int64_t DEPTH = 256;         // columns taken at a time
constexpr int64_t STEP = DEPTH + 16;   // floats from one widened row to the next: not all on one set of the cache
typedef float v8 __attribute__((vector_size(32)));
typedef float v8_any __attribute__((vector_size(32), aligned(4), may_alias));

// One token: a row at a time, so that the weights are one stream for the prefetcher.
template <class T>
static inline void rows_of_one(const T* w, int64_t rows, int64_t cols, const float* x, float* y, const float* bias) {
  for (int64_t r = 0; r < rows; ++r, w += cols) {
    vf acc[4] = {};
    int64_t k = 0;
    for (; k + 4 * VW <= cols; k += 4 * VW) {
      __builtin_prefetch(reinterpret_cast<const char*>(w + k) + 1024);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) acc[i] += load(w + k + i * VW) * load(x + k + i * VW);
    }
    for (; k + VW <= cols; k += VW) acc[0] += load(w + k) * load(x + k);
    float total = sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
    for (; k < cols; ++k) total += to_float(w[k]) * x[k];
    y[r] = bias ? total + bias[r] : total;
  }
}

// total[r] += W row r * x: a weight at a time spread over the tokens. While it computes it asks for the weights that
// come next, row after row of `next`.
template <int ROWS>
static inline void spread(const float* w, int64_t depth, const float* x_t, v8* total, const char* next,
                          int64_t next_step, int64_t line) {
  v8 acc[ROWS];
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r) acc[r] = total[r];
  for (int64_t k = 0; k < depth;) {
    const char* ahead = next + std::min<int64_t>(k / 16, BLOCK - 1) * next_step;
    const int64_t stop = std::min(depth, k + 16);
    for (; k < stop; ++k, ahead += line) {
      __builtin_prefetch(ahead);
      const v8 x = *reinterpret_cast<const v8_any*>(x_t + k * LANES);
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) acc[r] += x * w[r * STEP + k];
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r) total[r] = acc[r];
}

// Several tokens. x_t: (ceil(tokens / LANES), cols, LANES), see pack_rows.
template <class T>
static inline void rows_of_few(int64_t tokens, const T* w, int64_t rows, int64_t cols, const float* x_t, float* y,
                               int64_t ldy, const float* bias) {
  alignas(64) float widened[BLOCK * STEP];
  const int64_t groups = ceil_div(tokens, LANES);
  for (int64_t first = 0; first < rows; first += BLOCK) {
    const int64_t count = std::min<int64_t>(BLOCK, rows - first);
    const T* block = w + first * cols;
    v8 total[MOST / LANES][BLOCK] = {};
    for (int64_t k = 0; k < cols; k += DEPTH) {
      const int64_t depth = std::min(DEPTH, cols - k);
      for (int64_t r = 0; r < count; ++r) copy_row(block + r * cols + k, depth, widened + r * STEP);
      const T* next = k + DEPTH < cols ? block + k + DEPTH : block + BLOCK * cols;
      const char* ahead = reinterpret_cast<const char*>(next);
      const int64_t step = cols * int64_t(sizeof(T)), line = 16 * int64_t(sizeof(T));
      for (int64_t g = 0; g < groups; ++g) {
        const float* x = x_t + (g * cols + k) * LANES;
        if (count == BLOCK) {
          spread<BLOCK>(widened, depth, x, total[g], ahead, step, line);
        } else {
          for (int64_t r = 0; r < count; ++r)
            spread<1>(widened + r * STEP, depth, x, total[g] + r, ahead, step, line);
        }
      }
    }
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t r = 0; r < count; ++r) {
        const float value = total[t / LANES][r][t % LANES];
        y[t * ldy + first + r] = bias ? value + bias[first + r] : value;
      }
  }
}

}  // namespace ISA
}  // namespace mf
