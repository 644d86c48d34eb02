// Linear layers with int8 and int4 weights: the activations are rounded once, products are those of integers.

#include <algorithm>
#include <cmath>

#include "kernels.h"
#include "quant_activations.h"
#include "row_chunks.h"

namespace mf {
namespace ISA {
namespace {

constexpr int AT_ONCE = 4;         // rows that share what is loaded of the activations
constexpr int64_t TOGETHER = 64;   // tokens whose rounded activations stay in the second-level cache

// Some rows of a weight, ready to be multiplied. Scales of row r: scale + r * width, one for each block; zero:
// null, or the same times what the zero points lie above 8.
struct Rows {
  const char* data;
  const float *scale, *zero, *bias;
  int64_t bytes, width, blocks;
};

// ROWS rows of W times TOKENS tokens, accumulators in registers.
template <class Format, int ROWS, int TOKENS>
void dot_rows(const Rows& w, const Activations<Format>& a, float* y, int64_t ldy) {
  const int64_t steps = a.steps, whole = w.blocks * BLOCK / Format::COLUMNS;
  Lanes acc[ROWS][TOKENS];
  for (int r = 0; r < ROWS; ++r)
    for (int t = 0; t < TOKENS; ++t) acc[r][t] = Lanes{};
  auto step = [&](int64_t s, const char* at, int64_t apart) {
    typename Format::Wide weight[ROWS];
    Lanes scale[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      weight[r] = Format::unpack(at + r * apart);
      scale[r] = Format::spread(w.scale + r * w.width + s * Format::SCALES);
    }
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; ++t) {
      const int64_t index = t * steps + s;
      const Lanes unit = load_lanes(a.scale + index * LANES);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
        acc[r][t] += Format::dot(weight[r], a.q + index * Format::COLUMNS, a.start + index * LANES) * (unit * scale[r]);
    }
  };
  for (int64_t s = 0; s < whole; ++s) {
    // The rows that come next, to the second level: too short for the CPU to see a stream in each.
    for (int r = 0; r < ROWS; ++r) __builtin_prefetch(w.data + s * Format::BYTES + (r + ROWS) * w.bytes, 0, 2);
    step(s, w.data + s * Format::BYTES, w.bytes);
  }
  if (whole < steps) {
    char tail[ROWS * Format::BYTES] = {};
    const int64_t done = whole * Format::BYTES;
    for (int r = 0; r < ROWS; ++r)
      std::memcpy(tail + r * Format::BYTES, w.data + r * w.bytes + done, size_t(w.bytes - done));
    step(whole, tail, Format::BYTES);
  }
  for (int r = 0; r < ROWS; ++r)
    for (int t = 0; t < TOKENS; ++t) {
      float total = sum_lanes(acc[r][t]);
      if (w.zero) total -= dot_row(w.zero + r * w.width, a.weighted + t * steps * Format::SCALES, w.blocks);
      y[t * ldy + r] = w.bias ? total + w.bias[r] : total;
    }
}

// All tokens for the same rows, which stay in the first-level cache.
template <class Format, int ROWS>
void each_token_group(const Rows& w, const Activations<Format>& a, int64_t tokens, float* y, int64_t ldy) {
  constexpr int MOST = ROWS == AT_ONCE ? 4 : 1, PAIR = ROWS == AT_ONCE ? 2 : 1;
  int64_t t = 0;
  for (; t + MOST <= tokens; t += MOST) dot_rows<Format, ROWS, MOST>(w, a.from(t), y + t * ldy, ldy);
  for (; t + PAIR <= tokens; t += PAIR) dot_rows<Format, ROWS, PAIR>(w, a.from(t), y + t * ldy, ldy);
  if (t < tokens) dot_rows<Format, ROWS, 1>(w, a.from(t), y + t * ldy, ldy);
}

// Rows first..first+count of a part for all tokens.
template <class Format>
void rows_for(int64_t tokens, const Weight& w, const Part& part, int64_t first, int64_t count,
              const Activations<Format>& a, float* y, int64_t ldy, const float* bias) {
  const int64_t blocks = w.cols / BLOCK, groups = w.cols / w.group, repeat = w.group / BLOCK, bytes = bytes_of_row(w);
  const int64_t width = round_up(blocks, Format::SCALES), room = AT_ONCE * width + 2 * VW;
  float* scale = static_cast<float*>(scratch(Slot::ROW_SCALES, 4 * 2 * room));
  float* zero = part.zero ? scale + room : nullptr;
  for (int64_t r = 0; r < count;) {
    const int64_t rows = count - r >= AT_ONCE ? AT_ONCE : 1, at = (first + r) * groups;
    spread_scales(part.scale + at, rows * groups, repeat, scale);
    if (zero) spread_zeros(part.zero + at, rows * groups, repeat, scale, zero);
    if (width > blocks) {
      move_apart(scale, rows, blocks, width);
      if (zero) move_apart(zero, rows, blocks, width);
    }
    const Rows some{static_cast<const char*>(part.data) + (first + r) * bytes, scale, zero, bias ? bias + r : nullptr,
                    bytes, width, blocks};
    if (rows == AT_ONCE) {
      each_token_group<Format, AT_ONCE>(some, a, tokens, y + r, ldy);
    } else {
      each_token_group<Format, 1>(some, a, tokens, y + r, ldy);
    }
    r += rows;
  }
}

template <class Format>
void linear_as(const float* x, int64_t tokens, const Weight& w, float* y, int64_t ldy) {
  for (int64_t t = 0; t < tokens; t += TOGETHER) {
    const int64_t some = std::min(TOGETHER, tokens - t);
    const Activations<Format> all = quantize<Format>(x + t * w.cols, some, w.cols);
    each_row_chunk(w, [&](const Part& part, int64_t first, int64_t count, int64_t column) {
      rows_for<Format>(some, w, part, first, count, all, y + t * ldy + column, ldy, w.bias ? w.bias + column : nullptr);
    });
  }
}

}  // namespace

bool is_integer_product(const Weight& w, int64_t tokens) {
  return (w.dtype == I8 && tokens <= MOST_INT8) || (w.dtype == I4 && tokens <= MOST_INT4);
}

void linear_quantized(const float* x, int64_t tokens, const Weight& w, float* y, int64_t ldy) {
  if (w.dtype == I8) return linear_as<Int8>(x, tokens, w, y, ldy);
  linear_as<Int4>(x, tokens, w, y, ldy);
}

}  // namespace ISA
}  // namespace mf
