// Linear layers: a few tokens at the speed the weights come from memory, many tokens as a large product.

#include <algorithm>

#include "kernels.h"
#include "linear_few.h"
#include "row_chunks.h"

namespace mf {
namespace ISA {
namespace {

enum Slot { FEW_TOKENS = 4 };

template <class T>
void rows_for(int64_t tokens, const T* w, int64_t rows, int64_t cols, const float* x, float* y, int64_t ldy,
              const float* bias) {
  if (tokens == 1) return rows_of_one(w, rows, cols, x, y, bias);
  rows_of_few(tokens, w, rows, cols, x, y, ldy, bias);
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
  const float* source = x;
  if (tokens > 1) {
    float* x_t = static_cast<float*>(scratch(FEW_TOKENS, round_up(tokens, LANES) * w.cols * 4));
    pack_rows<LANES>(x, w.cols, tokens, w.cols, x_t);
    source = x_t;
  }
  each_row_chunk(w, [&](const Part& part, int64_t first, int64_t count, int64_t column) {
    rows_any(tokens, w, part, first, count, source, y + column, ldy, w.bias ? w.bias + column : nullptr);
  });
}

void linear(const float* x, int64_t tokens, const Weight& w, float* y, int64_t ldy) {
  if (tokens > MOST) return linear_large(x, tokens, w, y, ldy);
  if (w.dtype == I8 || w.dtype == I4) return linear_quantized(x, tokens, w, y, ldy);
  linear_small(x, tokens, w, y, ldy);
}

}  // namespace ISA
}  // namespace mf
