// Linear layers with int8 and int4 weights: the activations are quantized once, products are those of integers.

#include <algorithm>
#include <cmath>

#include "kernels.h"
#include "quant_dot.h"
#include "row_chunks.h"

namespace mf {
namespace ISA {
namespace {

constexpr int BLOCK = 32;  // columns that share a scale of the activations
enum Slot { ACTIVATIONS = 4, ROW_SCALES = 5 };

// Tokens as a format wants them. Per token: q (steps * COLUMNS) int8; scale (steps * LANES), the scale of its
// block in every lane of a step; weighted (steps * SCALES), scale times the sum of the block. What lies past
// the last column is zero.
struct Activations {
  int8_t* q;
  float *scale, *weighted;
  int64_t steps;
};

// One block of a token: q = x / scale with scale = max |x| / 127; NaN and infinities make the scale NaN.
template <class Format>
inline void quantize_block(const float* x, int64_t block, const Activations& a) {
  vf top = {}, wrong = {};
  for (int i = 0; i < BLOCK; i += VW) {
    const vf v = load(x + i);
    top = max(top, v < 0.0f ? -v : v);
    wrong += v - v;
  }
  const float most = max_of(top), unit = most / 127.0f + sum(wrong), inverse = most > 1e-30f ? 127.0f / most : 0.0f;
  const int64_t column = block * BLOCK, step = column / Format::COLUMNS;
  const int first = int(column % Format::COLUMNS);
  int8_t* q = a.q + step * Format::COLUMNS;
  int32_t total = 0;
  alignas(64) int32_t rounded[BLOCK];
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  for (int i = 0; i < BLOCK; i += VW) {
    const vi whole = __builtin_convertvector(load(x + i) * inverse + magic - magic, vi);
    std::memcpy(rounded + i, &whole, sizeof whole);
  }
  for (int half = 0; half < BLOCK; half += 16) {
    int8_t* target = q + Format::place(first + half);
    for (int i = 0; i < 16; ++i) target[i] = int8_t(rounded[half + i]);
  }
  for (int i = 0; i < BLOCK; ++i) total += rounded[i];
  const int lanes = LANES / Format::SCALES;
  float* scale = a.scale + step * LANES + first / BLOCK * lanes;
  for (int i = 0; i < lanes; ++i) scale[i] = unit;
  a.weighted[step * Format::SCALES + first / BLOCK] = unit * float(total);
}

template <class Format>
Activations quantize(const float* x, int64_t tokens, int64_t cols) {
  const int64_t steps = ceil_div(cols, Format::COLUMNS);
  const int64_t per_token = steps * (Format::COLUMNS + 4 * LANES + 4 * Format::SCALES);
  char* space = static_cast<char*>(scratch(ACTIVATIONS, tokens * per_token));
  std::memset(space, 0, size_t(tokens * per_token));
  Activations all{reinterpret_cast<int8_t*>(space), reinterpret_cast<float*>(space + tokens * steps * Format::COLUMNS),
                  nullptr, steps};
  all.weighted = all.scale + tokens * steps * LANES;
  for (int64_t t = 0; t < tokens; ++t) {
    const Activations one{all.q + t * steps * Format::COLUMNS, all.scale + t * steps * LANES,
                          all.weighted + t * steps * Format::SCALES, steps};
    for (int64_t block = 0; block < cols / BLOCK; ++block)
      quantize_block<Format>(x + t * cols + block * BLOCK, block, one);
  }
  return all;
}

// The scales of a row, one for each block of 32 columns, and what the sums of the activations count for.
template <class Format>
inline void row_scales(const Weight& w, const Part& part, int64_t row, float* scale, float* offset) {
  const int64_t groups = w.cols / w.group, repeat = w.group / BLOCK;
  const f16* from = part.scale + row * groups;
  const uint8_t* zero = part.zero ? part.zero + row * groups : nullptr;
  float* flat = repeat == 1 ? scale : offset;  // converted here, then spread
  int64_t g = 0;
  for (; g + VW <= groups; g += VW) store(flat + g, load(from + g));
  for (; g < groups; ++g) flat[g] = to_float(from[g]);
  if (repeat == 2) {
    for (g = 0; g < groups; ++g) scale[2 * g] = scale[2 * g + 1] = flat[g];
  } else if (repeat > 2) {
    for (g = 0; g < groups; ++g) std::fill_n(scale + g * repeat, repeat, flat[g]);
  }
  if (zero) {
    for (g = 0; g < groups; ++g)
      for (int64_t i = g * repeat; i < (g + 1) * repeat; ++i)
        offset[i] = scale[i] * float(Format::OFFSET - 8 + zero[g]);
  } else {
    for (int64_t i = 0; i < groups * repeat; ++i) offset[i] = scale[i] * float(Format::OFFSET);
  }
}

// ROWS rows of W times TOKENS tokens, accumulators in registers.
template <class Format, int ROWS, int TOKENS>
void dot_rows(const Weight& w, const Part& part, int64_t row, const Activations& a, float* y, int64_t ldy,
                     const float* bias, float* scales) {
  const int64_t steps = a.steps, whole = w.cols / Format::COLUMNS, width = round_up(steps * Format::SCALES, 16);
  const int64_t row_bytes = w.cols / Format::COLUMNS * Format::BYTES + w.cols % Format::COLUMNS * Format::BYTES / Format::COLUMNS;
  const char* data = static_cast<const char*>(part.data) + row * row_bytes;
  for (int r = 0; r < ROWS; ++r) row_scales<Format>(w, part, row + r, scales + 2 * r * width, scales + (2 * r + 1) * width);
  Lanes acc[ROWS][TOKENS];
  for (int r = 0; r < ROWS; ++r)
    for (int t = 0; t < TOKENS; ++t) acc[r][t] = Lanes{};
  auto step = [&](int64_t s, const char* at, int64_t apart) {
    typename Format::Wide weight[ROWS];
    Lanes scale[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      weight[r] = Format::unpack(at + r * apart);
      scale[r] = Format::spread(scales + 2 * r * width + s * Format::SCALES);
    }
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; ++t) {
      const int8_t* q = a.q + (t * steps + s) * Format::COLUMNS;
      const Lanes unit = load_lanes(a.scale + (t * steps + s) * LANES);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) acc[r][t] += Format::dot(weight[r], q) * (unit * scale[r]);
    }
  };
  for (int64_t s = 0; s < whole; ++s) step(s, data + s * Format::BYTES, row_bytes);
  if (whole < steps) {
    char tail[ROWS * Format::BYTES] = {};
    for (int r = 0; r < ROWS; ++r)
      std::memcpy(tail + r * Format::BYTES, data + r * row_bytes + whole * Format::BYTES,
                  size_t(row_bytes - whole * Format::BYTES));
    step(whole, tail, Format::BYTES);
  }
  for (int r = 0; r < ROWS; ++r)
    for (int t = 0; t < TOKENS; ++t) {
      float total = sum_lanes(acc[r][t]);
      if (Format::OFFSET || part.zero) {
        const float *offset = scales + (2 * r + 1) * width, *weighted = a.weighted + t * steps * Format::SCALES;
        const int64_t blocks = w.cols / BLOCK;
        vf lost = {};
        int64_t i = 0;
        for (; i + VW <= blocks; i += VW) lost += load(offset + i) * load(weighted + i);
        total -= sum(lost);
        for (; i < blocks; ++i) total -= offset[i] * weighted[i];
      }
      y[t * ldy + r] = bias ? total + bias[r] : total;
    }
}

// Tokens t.. of Activations.
template <class Format>
inline Activations from_token(const Activations& a, int64_t t) {
  return {a.q + t * a.steps * Format::COLUMNS, a.scale + t * a.steps * LANES,
          a.weighted + t * a.steps * Format::SCALES, a.steps};
}

// Rows first..first+count of a part for all tokens. The rows are few enough to stay in the cache, so that taking
// the tokens in powers of two, one group after another, reads the weights from memory once.
template <class Format>
void rows_for(int64_t tokens, const Weight& w, const Part& part, int64_t first, int64_t count, const Activations& a,
              float* y, int64_t ldy, const float* bias) {
  const int64_t floats = 2 * 4 * round_up(a.steps * Format::SCALES, 16);
  float* scales = static_cast<float*>(scratch(ROW_SCALES, 4 * floats));
  std::memset(scales, 0, size_t(4 * floats));
  const int64_t whole = count / 4 * 4;
  for (int64_t t = 0; t < tokens;) {
    const Activations some = from_token<Format>(a, t);
    const int64_t left = tokens - t;
    const auto kernel = left >= 8   ? dot_rows<Format, 2, 8>
                        : left >= 4 ? dot_rows<Format, 4, 4>
                        : left >= 2 ? dot_rows<Format, 4, 2>
                                    : dot_rows<Format, 4, 1>;
    const int64_t rows = left >= 8 ? 2 : 4, step = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    for (int64_t r = 0; r < whole; r += rows)
      kernel(w, part, first + r, some, y + t * ldy + r, ldy, bias ? bias + r : nullptr, scales);
    t += step;
  }
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t r = whole; r < count; ++r)
      dot_rows<Format, 1, 1>(w, part, first + r, from_token<Format>(a, t), y + t * ldy + r, ldy,
                             bias ? bias + r : nullptr, scales);
}

template <class Format>
void linear_as(const float* x, int64_t tokens, const Weight& w, float* y, int64_t ldy) {
  const Activations all = quantize<Format>(x, tokens, w.cols);
  each_row_chunk(w, [&](const Part& part, int64_t first, int64_t count, int64_t column) {
    rows_for<Format>(tokens, w, part, first, count, all, y + column, ldy, w.bias ? w.bias + column : nullptr);
  });
}

}  // namespace

void linear_quantized(const float* x, int64_t tokens, const Weight& w, float* y, int64_t ldy) {
  if (w.dtype == I8) return linear_as<Int8>(x, tokens, w, y, ldy);
  linear_as<Int4>(x, tokens, w, y, ldy);
}

}  // namespace ISA
}  // namespace mf
