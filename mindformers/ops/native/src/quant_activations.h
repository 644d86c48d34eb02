// What is prepared for integer products: activations rounded to int8, scales spread over the blocks of a row.
#pragma once

#include <algorithm>

#include "pointwise.h"
#include "quant_dot.h"
#include "threads.h"
#include "tile.h"

namespace mf {
namespace ISA {

constexpr int BLOCK = 32;                 // columns that share a scale of the activations
constexpr int64_t SHARE_OUT = 65536;      // activations from which several threads round them

// Tokens as a format wants them, what lies past the last column being zero. Per token: q (steps * COLUMNS);
// start (steps * LANES), what a step's sums begin with; scale (steps * LANES), a block's scale in each of its
// lanes; weighted (steps * SCALES), scale times the sum of the block.
template <class Format>
struct Activations {
  int8_t* q;
  int32_t* start;
  float *scale, *weighted;
  int64_t steps;

  Activations from(int64_t token) const {
    const int64_t step = token * steps;
    return {q + step * Format::COLUMNS, start + step * LANES, scale + step * LANES, weighted + step * Format::SCALES,
            steps};
  }
};

// One block of a token: q = x / scale with scale = max |x| / 127; NaN and infinities make the scale NaN.
template <class Format>
static inline void quantize_block(const float* x, int64_t block, const Activations<Format>& a) {
  vf top = {}, wrong = {};
  for (int i = 0; i < BLOCK; i += VW) {
    const vf v = load(x + i);
    top = max(top, v < 0.0f ? -v : v);
    wrong += v - v;
  }
  const float most = max_of(top), unit = most / 127.0f + sum(wrong), inverse = most > 1e-30f ? 127.0f / most : 0.0f;
  const int64_t column = block * BLOCK, step = column / Format::COLUMNS;
  const int first = int(column % Format::COLUMNS);
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  int8_t* q = a.q + step * Format::COLUMNS;
  vi total = {};
  for (int i = 0; i < BLOCK; i += VW) {
    const vi whole = __builtin_convertvector(load(x + i) * inverse + magic - magic, vi);
    const vb narrow = narrow_to_8(whole);
    std::memcpy(q + Format::place(first + i), &narrow, sizeof narrow);  // 16 columns always lie side by side
    total += whole;
  }
  const int lanes = LANES / Format::SCALES, lane = first / BLOCK * lanes;
  for (int i = 0; i < lanes; i += 4) store_4(a.scale + step * LANES + lane + i, v4{unit, unit, unit, unit});
  a.weighted[step * Format::SCALES + first / BLOCK] = unit * sum(__builtin_convertvector(total, vf));
}

// What the offset of the weights adds to the sums of a step, with the other sign: what a weight of zero would give.
template <class Format>
static inline void start_step(const int8_t* q, int32_t* start) {
  alignas(64) char zero[Format::BYTES];
  alignas(64) const int32_t none[LANES] = {};
  std::memset(zero, Format::ZERO, sizeof zero);
  const LaneSums sums = __builtin_convertvector(-Format::dot(Format::unpack(zero), q, none), LaneSums);
  std::memcpy(start, &sums, sizeof sums);
}

template <class Format>
static Activations<Format> quantize(const float* x, int64_t tokens, int64_t cols) {
  const int64_t steps = ceil_div(cols, Format::COLUMNS), all_steps = tokens * steps;
  const int64_t per_step = Format::COLUMNS + 4 * (2 * LANES + Format::SCALES);
  char* space = static_cast<char*>(scratch(Slot::ACTIVATIONS, all_steps * per_step));
  if (cols % Format::COLUMNS) std::memset(space, 0, size_t(all_steps * per_step));
  Activations<Format> all;
  all.q = reinterpret_cast<int8_t*>(space);
  all.start = reinterpret_cast<int32_t*>(space + all_steps * Format::COLUMNS);
  all.scale = reinterpret_cast<float*>(all.start + all_steps * LANES);
  all.weighted = all.scale + all_steps * LANES;
  all.steps = steps;
  auto token = [&](int64_t t) {
    const Activations<Format> one = all.from(t);
    for (int64_t block = 0; block < cols / BLOCK; ++block)
      quantize_block<Format>(x + t * cols + block * BLOCK, block, one);
    if (Format::OFFSET)
      for (int64_t s = 0; s < steps; ++s) start_step<Format>(one.q + s * Format::COLUMNS, one.start + s * LANES);
  };
  if (tokens * cols < SHARE_OUT) {
    for (int64_t t = 0; t < tokens; ++t) token(t);
  } else {
    parallel(tokens, token);
  }
  return all;
}

typedef uint32_t half_lanes __attribute__((vector_size(VW * 2)));
typedef uint64_t pair_lanes __attribute__((vector_size(VW * 4)));

// Every lane twice in a row: 2 * VW floats.
static inline void store_twice(float* p, vf v) {
  half_lanes half[2];
  std::memcpy(half, &v, sizeof v);
  for (int i = 0; i < 2; ++i) {
    pair_lanes pair = __builtin_convertvector(half[i], pair_lanes);
    pair |= pair << 32;
    std::memcpy(p + i * VW, &pair, sizeof pair);
  }
}

static inline void store_repeated(float* p, vf v, int64_t repeat) {
  if (repeat == 1) return store(p, v);
  if (repeat == 2) return store_twice(p, v);
  for (int i = 0; i < VW; ++i) std::fill_n(p + i * repeat, repeat, v[i]);
}

// Each of n scales `repeat` times in a row; `out` has room for 2 * VW more.
static inline void spread_scales(const f16* from, int64_t n, int64_t repeat, float* out) {
  int64_t g = 0;
  for (; g + VW <= n; g += VW) store_repeated(out + g * repeat, load(from + g), repeat);
  if (g == n) return;
  f16 last[VW] = {};
  std::memcpy(last, from + g, size_t(n - g) * sizeof(f16));
  const vf v = load(last);
  if (repeat <= 2) return store_repeated(out + g * repeat, v, repeat);
  for (int i = 0; g + i < n; ++i) std::fill_n(out + (g + i) * repeat, repeat, v[i]);
}

// Spread scales times what the zero points lie above 8; `out` has room for 2 * VW more.
static inline void spread_zeros(const uint8_t* zero, int64_t n, int64_t repeat, const float* scale, float* out) {
  int64_t g = 0;
  for (; g + VW <= n; g += VW) store_repeated(out + g * repeat, load(zero + g) - 8.0f, repeat);
  for (; g < n; ++g) std::fill_n(out + g * repeat, repeat, float(zero[g]) - 8.0f);
  int64_t i = 0;
  for (; i + VW <= n * repeat; i += VW) store(out + i, load(out + i) * load(scale + i));
  for (; i < n * repeat; ++i) out[i] *= scale[i];
}

// Rows side by side get `width` floats each, zeros between them.
static inline void move_apart(float* rows, int64_t count, int64_t size, int64_t width) {
  for (int64_t r = count - 1; r >= 0; --r) {
    std::memmove(rows + r * width, rows + r * size, size_t(size) * 4);
    std::fill_n(rows + r * width + size, width - size, 0.0f);
  }
}

}  // namespace ISA
}  // namespace mf
