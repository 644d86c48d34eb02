// Linear layers: a few tokens at the speed the weights come from memory, many tokens as a large product.

#include <algorithm>

#include "kernels.h"
#include "linear_few.h"
#include "row_chunks.h"

namespace mf {
namespace ISA {
namespace {

template <class T>
void rows_for(int64_t tokens, const T* w, int64_t rows, int64_t cols, const float* x, float* y, int64_t ldy,
              const float* bias) {
  if (tokens == 1) return rows_of_one(w, rows, cols, x, y, bias);
  rows_of_few<false>(tokens, w, rows, cols, x, y, ldy, bias);
}

void rows_any(int64_t tokens, const Weight& w, const Part& part, int64_t first, int64_t count, const float* x,
              float* y, int64_t ldy, const float* bias) {
  if (uses_pairs(w) && tokens > 1) {
    const int64_t words = w.cols / 2;
    const float* data = static_cast<const float*>(part.data) + first * words;
    return rows_of_few<true>(tokens, data, count, words, x, y, ldy, bias);
  }
  if (w.dtype == F32)
    return rows_for(tokens, static_cast<const float*>(part.data) + first * w.cols, count, w.cols, x, y, ldy,
                    bias);
  if (w.dtype == BF16)
    return rows_for(tokens, static_cast<const bf16*>(part.data) + first * w.cols, count, w.cols, x, y, ldy,
                    bias);
  rows_for(tokens, static_cast<const f16*>(part.data) + first * w.cols, count, w.cols, x, y, ldy, bias);
}

// What the kernels read: x itself; with pairs rounded to bfloat16; of several tokens in groups.
const float* prepared(const float* x, int64_t tokens, const Weight& w) {
  if (uses_pairs(w)) {
    bf16* rounded = static_cast<bf16*>(scratch(Slot::ROUNDED, tokens * w.cols * 2));
    round_row(x, tokens * w.cols, rounded);
    if (tokens == 1) {
      float* wide = static_cast<float*>(scratch(Slot::FEW_TOKENS, w.cols * 4));
      copy_row(rounded, w.cols, wide);
      return wide;
    }
    x = reinterpret_cast<const float*>(rounded);
  }
  if (tokens == 1) return x;
  const int64_t width = uses_pairs(w) ? w.cols / 2 : w.cols;
  float* grouped = static_cast<float*>(scratch(Slot::FEW_TOKENS, grouped_floats(tokens, width) * 4));
  group_tokens(x, tokens, width, grouped);
  return grouped;
}

// For up to MOST tokens, at the speed the weights can be read.
void linear_few(const float* x, int64_t tokens, const Weight& w, float* y, int64_t ldy) {
  const float* source = prepared(x, tokens, w);
  each_row_chunk(w, [&](const Part& part, int64_t first, int64_t count, int64_t column) {
    rows_any(tokens, w, part, first, count, source, y + column, ldy, w.bias ? w.bias + column : nullptr);
  });
}

}  // namespace

void linear(const float* x, int64_t tokens, const Weight& w, float* y, int64_t ldy) {
  if (tokens == 0) return;  // the head, of a step that only reads
  if (is_integer_product(w, tokens)) return linear_quantized(x, tokens, w, y, ldy);
  if (tokens > MOST || w.dtype == I8 || w.dtype == I4) return linear_large(x, tokens, w, y, ldy);
  linear_few(x, tokens, w, y, ldy);
}

}  // namespace ISA
}  // namespace mf
