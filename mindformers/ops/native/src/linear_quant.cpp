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
constexpr int64_t PARALLEL = 65536;  // activations from which sharing them out pays
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
  auto token = [&](int64_t t) {
    const Activations one{all.q + t * steps * Format::COLUMNS, all.scale + t * steps * LANES,
                          all.weighted + t * steps * Format::SCALES, steps};
    for (int64_t block = 0; block < cols / BLOCK; ++block)
      quantize_block<Format>(x + t * cols + block * BLOCK, block, one);
  };
  if (tokens * cols < PARALLEL) {
    for (int64_t t = 0; t < tokens; ++t) token(t);
  } else {
    parallel(tokens, token);
  }
  return all;
}

typedef uint32_t half_lanes __attribute__((vector_size(VW * 2)));
typedef uint64_t pair_lanes __attribute__((vector_size(VW * 4)));

// Every lane twice in a row: 2 * VW floats.
inline void store_twice(float* p, vf v) {
  half_lanes half[2];
  std::memcpy(half, &v, sizeof v);
  for (int i = 0; i < 2; ++i) {
    pair_lanes pair = __builtin_convertvector(half[i], pair_lanes);
    pair |= pair << 32;
    std::memcpy(p + i * VW, &pair, sizeof pair);
  }
}

// The scales of a row, one for each block of 32 columns.
inline void row_scales(const Weight& w, const Part& part, int64_t row, float* out) {
  const int64_t groups = w.cols / w.group, repeat = w.group / BLOCK;
  const f16* from = part.scale + row * groups;
  int64_t g = 0;
  if (repeat == 1) {
    for (; g + VW <= groups; g += VW) store(out + g, load(from + g));
  } else if (repeat == 2) {
    for (; g + VW <= groups; g += VW) store_twice(out + 2 * g, load(from + g));
  }
  for (; g < groups; ++g) std::fill_n(out + g * repeat, repeat, to_float(from[g]));
}

// The same, each times its zero point as the integers have it.
inline void row_zeros(const Weight& w, const Part& part, int64_t row, int offset, const float* scale, float* out) {
  const int64_t groups = w.cols / w.group, repeat = w.group / BLOCK;
  const uint8_t* zero = part.zero + row * groups;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t i = g * repeat; i < (g + 1) * repeat; ++i) out[i] = scale[i] * float(offset - 8 + zero[g]);
}

inline float dot(const float* a, const float* b, int64_t n) {
  vf total = {};
  int64_t i = 0;
  for (; i + VW <= n; i += VW) total += load(a + i) * load(b + i);
  float rest = 0;
  for (; i < n; ++i) rest += a[i] * b[i];
  return sum(total) + rest;
}

// Some rows of a weight, ready to be multiplied. Scales of row r: scale + r * width; with zero points of their
// own, scale + (r + 4) * width is what the sums of the activations are taken off with.
struct Rows {
  const char* data;
  const float *scale, *bias;
  int64_t bytes, width, blocks;
  bool has_zeros;
};

// ROWS rows of W times TOKENS tokens, accumulators in registers.
template <class Format, int ROWS, int TOKENS>
void dot_rows(const Rows& w, const Activations& a, float* y, int64_t ldy) {
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
      const int8_t* q = a.q + (t * steps + s) * Format::COLUMNS;
      const Lanes unit = load_lanes(a.scale + (t * steps + s) * LANES);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) acc[r][t] += Format::dot(weight[r], q) * (unit * scale[r]);
    }
  };
  for (int64_t s = 0; s < whole; ++s) {
    // The rows that come next: they are too short for the CPU to see a stream in each.
    for (int r = 0; r < ROWS; ++r) __builtin_prefetch(w.data + s * Format::BYTES + (r + ROWS) * w.bytes);
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
      const float *scale = w.scale + r * w.width, *weighted = a.weighted + t * steps * Format::SCALES;
      float total = sum_lanes(acc[r][t]);
      if (w.has_zeros) {
        total -= dot(scale + 4 * w.width, weighted, w.blocks);
      } else if (Format::OFFSET) {
        total -= float(Format::OFFSET) * dot(scale, weighted, w.blocks);
      }
      y[t * ldy + r] = w.bias ? total + w.bias[r] : total;
    }
}

// Tokens t.. of Activations.
template <class Format>
inline Activations from_token(const Activations& a, int64_t t) {
  return {a.q + t * a.steps * Format::COLUMNS, a.scale + t * a.steps * LANES,
          a.weighted + t * a.steps * Format::SCALES, a.steps};
}

// All tokens for the same rows, which stay in the first-level cache.
template <class Format, int ROWS>
void each_token_group(const Rows& w, const Activations& a, int64_t tokens, float* y, int64_t ldy) {
  constexpr int MOST = ROWS == 4 ? 4 : 1;
  for (int64_t t = 0; t < tokens;) {
    const Activations some = from_token<Format>(a, t);
    const int64_t left = tokens - t;
    const int count = left >= MOST ? MOST : left >= 2 ? 2 : 1;
    if (count == MOST) {
      dot_rows<Format, ROWS, MOST>(w, some, y + t * ldy, ldy);
    } else if (count == 2) {
      dot_rows<Format, ROWS, MOST < 2 ? MOST : 2>(w, some, y + t * ldy, ldy);
    } else {
      dot_rows<Format, ROWS, 1>(w, some, y + t * ldy, ldy);
    }
    t += count;
  }
}

// Rows first..first+count of a part for all tokens.
template <class Format>
void rows_for(int64_t tokens, const Weight& w, const Part& part, int64_t first, int64_t count, const Activations& a,
              float* y, int64_t ldy, const float* bias) {
  const int64_t width = round_up(a.steps * Format::SCALES, 16);
  float* scales = static_cast<float*>(scratch(ROW_SCALES, 4 * 8 * width));
  std::memset(scales, 0, size_t(4 * 8 * width));
  for (int64_t r = 0; r < count;) {
    const int rows = count - r >= 4 ? 4 : 1;
    for (int i = 0; i < rows; ++i) {
      row_scales(w, part, first + r + i, scales + i * width);
      if (part.zero)
        row_zeros(w, part, first + r + i, Format::OFFSET, scales + i * width, scales + (i + 4) * width);
    }
    const int64_t bytes = bytes_of_row(w);
    const Rows some{static_cast<const char*>(part.data) + (first + r) * bytes, scales, bias ? bias + r : nullptr,
                    bytes, width, w.cols / BLOCK, part.zero != nullptr};
    if (rows == 4) {
      each_token_group<Format, 4>(some, a, tokens, y + r, ldy);
    } else {
      each_token_group<Format, 1>(some, a, tokens, y + r, ldy);
    }
    r += rows;
  }
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
