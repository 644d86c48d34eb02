// Linear layers: a few tokens at the speed the weights come from memory, many tokens as a large product.

#include <algorithm>

#include "kernels.h"
#include "quant.h"
#include "threads.h"
#include "tile.h"

namespace mf {
namespace ISA {
namespace {

constexpr int SMALL = 8;  // tokens up to which reading the weights is what counts

// ROWS rows of W times TOKENS tokens, accumulators in registers.
template <int ROWS, int TOKENS, class T>
inline void dot_block(const T* w, int64_t cols, const float* x, float* y, int64_t ldy, const float* bias) {
  vf acc[ROWS][TOKENS];
  for (int r = 0; r < ROWS; ++r)
    for (int t = 0; t < TOKENS; ++t) acc[r][t] = vf{};
  int64_t k = 0;
  for (; k + VW <= cols; k += VW) {
    vf value[TOKENS];
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; ++t) value[t] = load(x + t * cols + k);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      vf weight = load(w + r * cols + k);
#pragma GCC unroll 8
      for (int t = 0; t < TOKENS; ++t) acc[r][t] += weight * value[t];
    }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int t = 0; t < TOKENS; ++t) {
      float total = sum(acc[r][t]);
      for (int64_t i = k; i < cols; ++i) total += to_float(w[r * cols + i]) * x[t * cols + i];
      y[t * ldy + r] = bias ? total + bias[r] : total;
    }
}

template <int TOKENS, class T>
void rows_of(const T* w, int64_t rows, int64_t cols, const float* x, float* y, int64_t ldy,
             const float* bias) {
  constexpr int ROWS = TOKENS == 1 ? 4 : TOKENS == 2 ? 4 : VW == 16 && TOKENS <= 4 ? 4 : VW == 16 ? 3 : TOKENS <= 4 ? 3 : 1;
  int64_t r = 0;
  for (; r + ROWS <= rows; r += ROWS)
    dot_block<ROWS, TOKENS>(w + r * cols, cols, x, y + r, ldy, bias ? bias + r : nullptr);
  for (; r < rows; ++r)
    dot_block<1, TOKENS>(w + r * cols, cols, x, y + r, ldy, bias ? bias + r : nullptr);
}

template <class T>
void rows_for(int64_t tokens, const T* w, int64_t rows, int64_t cols, const float* x, float* y, int64_t ldy,
              const float* bias) {
  switch (tokens) {
    case 1: return rows_of<1>(w, rows, cols, x, y, ldy, bias);
    case 2: return rows_of<2>(w, rows, cols, x, y, ldy, bias);
    case 3: return rows_of<3>(w, rows, cols, x, y, ldy, bias);
    case 4: return rows_of<4>(w, rows, cols, x, y, ldy, bias);
    case 5: return rows_of<5>(w, rows, cols, x, y, ldy, bias);
    case 6: return rows_of<6>(w, rows, cols, x, y, ldy, bias);
    case 7: return rows_of<7>(w, rows, cols, x, y, ldy, bias);
    default: return rows_of<8>(w, rows, cols, x, y, ldy, bias);
  }
}

void rows_any(int64_t tokens, const Weight& w, const Part& part, int64_t first, int64_t count, const float* x,
              float* y, int64_t ldy, const float* bias) {
  if (w.dtype == F32)
    return rows_for(tokens, static_cast<const float*>(part.data) + first * w.cols, count, w.cols, x, y, ldy,
                    bias);
  if (w.dtype == BF16)
    return rows_for(tokens, static_cast<const bf16*>(part.data) + first * w.cols, count, w.cols, x, y, ldy,
                    bias);
  rows_for(tokens, static_cast<const f16*>(part.data) + first * w.cols, count, w.cols, x, y, ldy, bias);
}

}  // namespace

void linear_small(const float* x, int64_t tokens, const Weight& w, float* y, int64_t ldy) {
  // Chunks of about 64 KB of weights: small enough to share out evenly, large enough to stream.
  const int64_t bytes = w.dtype == F32 ? 4 : 2;
  const int64_t chunk = std::max<int64_t>(4, round_up(65536 / std::max<int64_t>(1, w.cols * bytes), 4));
  int64_t start[4] = {0, 0, 0, 0}, offset[4] = {0, 0, 0, 0};
  for (int p = 0; p < w.parts; ++p) {
    start[p + 1] = start[p] + ceil_div(w.part[p].rows, chunk);
    offset[p + 1] = offset[p] + w.part[p].rows;
  }
  parallel(start[w.parts], [&](int64_t index) {
    int p = 0;
    while (index >= start[p + 1]) ++p;
    const int64_t first = (index - start[p]) * chunk, count = std::min(chunk, w.part[p].rows - first);
    const int64_t column = offset[p] + first;
    rows_any(tokens, w, w.part[p], first, count, x, y + column, ldy, w.bias ? w.bias + column : nullptr);
  });
}

void linear(const float* x, int64_t tokens, const Weight& w, float* y, int64_t ldy) {
  if (tokens > 4 * SMALL) return linear_large(x, tokens, w, y, ldy);
  for (int64_t t = 0; t < tokens; t += SMALL)
    linear_small(x + t * w.cols, std::min<int64_t>(SMALL, tokens - t), w, y + t * ldy, ldy);
}

}  // namespace ISA
}  // namespace mf
