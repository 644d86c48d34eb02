// Products of a row-major weight with a few tokens: one token at the speed the weights come from memory, up to
// MOST of them with the weights read once.
#pragma once

#include <algorithm>

#include "pointwise.h"
#include "tile.h"

namespace mf {
namespace ISA {

constexpr int MOST = 32;           // tokens a pass over the weights can serve
// Rows and tokens whose sums stay in registers: 16 of 32, 12 of 16. Each load is shared by as many products as it can be.
#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int ROWS = 2, GROUP = 8;
#else
constexpr int ROWS = 3, GROUP = 4;
#endif
// Bytes of weights asked for, into the second-level cache, before they are needed: by one token, by several.
constexpr int64_t AHEAD_ONE = 8192;
constexpr int64_t AHEAD = 16384;

// One token: a row at a time, so that the weights are one stream for the prefetcher.
template <class T>
static inline void rows_of_one(const T* w, int64_t rows, int64_t cols, const float* x, float* y, const float* bias) {
  for (int64_t r = 0; r < rows; ++r, w += cols) {
    vf acc[4] = {};
    int64_t k = 0;
    for (; k + 4 * VW <= cols; k += 4 * VW) {
      __builtin_prefetch(reinterpret_cast<const char*>(w + k) + AHEAD_ONE, 0, 2);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) acc[i] += load(w + k + i * VW) * load(x + k + i * VW);
    }
    for (; k + VW <= cols; k += VW) acc[0] += load(w + k) * load(x + k);
    float total = sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
    for (; k < cols; ++k) total += to_float(w[k]) * x[k];
    y[r] = bias ? total + bias[r] : total;
  }
}

static inline float pair_product(const float* a, const float* b) {
  bf16 p[2], q[2];
  std::memcpy(p, a, 4);
  std::memcpy(q, b, 4);
  return to_float(p[0]) * to_float(q[0]) + to_float(p[1]) * to_float(q[1]);
}

// out[t] = the sum of the lanes of acc[t], for GROUP of them.
#if defined(__AVX512F__)
typedef float v8 __attribute__((vector_size(32)));
static inline void sum_each(const vf* acc, float* out) {
  v8 part[GROUP];
  for (int t = 0; t < GROUP; ++t) {
    v8 half[2];
    std::memcpy(half, acc + t, sizeof(vf));
    part[t] = half[0] + half[1];
  }
  for (int t = 0; t < 4; ++t)
    part[t] = __builtin_shufflevector(part[2 * t], part[2 * t + 1], 0, 8, 2, 10, 4, 12, 6, 14) +
              __builtin_shufflevector(part[2 * t], part[2 * t + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  for (int t = 0; t < 2; ++t)
    part[t] = __builtin_shufflevector(part[2 * t], part[2 * t + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
              __builtin_shufflevector(part[2 * t], part[2 * t + 1], 2, 3, 10, 11, 6, 7, 14, 15);
  const v8 total = __builtin_shufflevector(part[0], part[1], 0, 1, 2, 3, 8, 9, 10, 11) +
                   __builtin_shufflevector(part[0], part[1], 4, 5, 6, 7, 12, 13, 14, 15);
  std::memcpy(out, &total, sizeof total);
}
#else
static inline v4 quarter(vf v) {
  v4 part[VW / 4];
  std::memcpy(part, &v, sizeof v);
  return VW == 8 ? part[0] + part[VW / 4 - 1] : part[0];
}
static inline void sum_each(const vf* acc, float* out) {
  for (int t = 0; t < GROUP; t += 4) {
    const v4 a = quarter(acc[t]), b = quarter(acc[t + 1]), c = quarter(acc[t + 2]), d = quarter(acc[t + 3]);
    const v4 ab = __builtin_shufflevector(a, b, 0, 4, 2, 6) + __builtin_shufflevector(a, b, 1, 5, 3, 7);
    const v4 cd = __builtin_shufflevector(c, d, 0, 4, 2, 6) + __builtin_shufflevector(c, d, 1, 5, 3, 7);
    store_4(out + t, __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
  }
}
#endif

// x (tokens, cols) as the rows below read it: for every VW columns the vectors of GROUP tokens side by side, zeros for
// tokens that are not there; what is left of the columns after that, token by token. One stream, no two rows of x that
// fall on one set of the cache.
static inline int64_t grouped_floats(int64_t tokens, int64_t cols) { return round_up(tokens, GROUP) * cols; }
static inline void group_tokens(const float* x, int64_t tokens, int64_t cols, float* out) {
  const int64_t whole = cols / VW * VW;
  for (int64_t first = 0; first < tokens; first += GROUP, out += GROUP * cols)
    for (int64_t t = 0; t < GROUP; ++t) {
      const float* row = x + (first + t) * cols;
      const bool is_there = first + t < tokens;
      for (int64_t k = 0; k < whole; k += VW) store(out + k * GROUP + t * VW, is_there ? load(row + k) : vf{});
      for (int64_t k = whole; k < cols; ++k) out[whole * GROUP + t * (cols - whole) + k - whole] = is_there ? row[k] : 0.0f;
    }
}

// What a pass over some rows asks for while it multiplies: its share of the rows that come AHEAD bytes later, in even
// steps, so that memory is never waited for at once.
struct Prefetch {
  const char* next;
  int64_t half_step;  // no more than a line of the cache
  inline void step() {
    __builtin_prefetch(next, 0, 2);
    __builtin_prefetch(next + half_step, 0, 2);
    next += 2 * half_step;
  }
};

// out[r][t] of COUNT rows and GROUP tokens: vectors along the columns, so that the weights are one stream. With PAIRS,
// weights and x are words of two bfloat16, and cols counts those.
template <bool PAIRS, int COUNT, class T>
static inline void dot_rows(const T* w, int64_t cols, const float* x, Prefetch& prefetch, float (*out)[GROUP]) {
  vf acc[COUNT][GROUP];
#pragma GCC unroll 3
  for (int r = 0; r < COUNT; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < GROUP; ++t) acc[r][t] = vf{};
  int64_t k = 0;
  for (; k + VW <= cols; k += VW, x += GROUP * VW) {
    vf weight[COUNT];
#pragma GCC unroll 3
    for (int r = 0; r < COUNT; ++r) weight[r] = load(w + r * cols + k);
    prefetch.step();
#pragma GCC unroll 8
    for (int t = 0; t < GROUP; ++t) {
      const vf value = load(x + t * VW);
#pragma GCC unroll 3
      for (int r = 0; r < COUNT; ++r)
        acc[r][t] = PAIRS ? multiply_pairs(acc[r][t], weight[r], value) : acc[r][t] + weight[r] * value;
    }
  }
  for (int r = 0; r < COUNT; ++r) {
    sum_each(acc[r], out[r]);
    const float* rest = x;
    for (int t = 0; t < GROUP && k < cols; ++t)
      for (int64_t i = k; i < cols; ++i, ++rest) {
        const T* one = w + r * cols + i;
        out[r][t] += PAIRS ? pair_product(reinterpret_cast<const float*>(one), rest) : to_float(*one) * *rest;
      }
  }
}

// Several tokens, x as group_tokens leaves it; a row that was read stays in the nearest cache for all groups.
template <bool PAIRS, class T>
static inline void rows_of_few(int64_t tokens, const T* w, int64_t rows, int64_t cols, const float* x, float* y,
                               int64_t ldy, const float* bias) {
  const int64_t passes = ceil_div(tokens, GROUP);
  for (int64_t r = 0; r < rows;) {
    const int64_t count = r + ROWS <= rows ? ROWS : 1;
    Prefetch prefetch{reinterpret_cast<const char*>(w + r * cols) + AHEAD, ceil_div(count * VW * sizeof(T), 2 * passes)};
    for (int64_t first = 0; first < tokens; first += GROUP) {
      float out[ROWS][GROUP];
      if (count == ROWS) {
        dot_rows<PAIRS, ROWS>(w + r * cols, cols, x + first * cols, prefetch, out);
      } else {
        dot_rows<PAIRS, 1>(w + r * cols, cols, x + first * cols, prefetch, out);
      }
      const int64_t some = std::min<int64_t>(GROUP, tokens - first);
      for (int64_t t = 0; t < some; ++t)
        for (int64_t i = 0; i < count; ++i)
          y[(first + t) * ldy + r + i] = bias ? out[i][t] + bias[r + i] : out[i][t];
    }
    r += count;
  }
}

}  // namespace ISA
}  // namespace mf
