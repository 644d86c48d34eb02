// Quantized weights. I8: int8, value = q * scale. I4: two to a byte, value = (q - zero) * scale, q and zero 0..15
// (zero 8 where none is given); in every 32 columns byte i holds column i in its low and column i + 16 in its
// high half. A scale covers `group` columns, a multiple of 32 that divides the row.
#pragma once

#include "tile.h"

namespace mf {
namespace ISA {

static inline void dequantize_32(const Weight& w, const Part& part, int64_t row, int64_t k, float* out) {
  const int64_t groups = w.cols / w.group, at = row * groups + k / w.group;
  const float scale = to_float(part.scale[at]);
  if (w.dtype == I8) {
    const int8_t* q = static_cast<const int8_t*>(part.data) + row * w.cols + k;
    for (int i = 0; i < 32; i += VW) store(out + i, load(q + i) * scale);
    return;
  }
  const uint8_t* q = static_cast<const uint8_t*>(part.data) + (row * w.cols + k) / 2;
  const float zero = part.zero ? float(part.zero[at]) : 8.0f;
  for (int i = 0; i < 16; ++i) {
    out[i] = (float(q[i] & 15) - zero) * scale;
    out[i + 16] = (float(q[i] >> 4) - zero) * scale;
  }
}

// As pack_rows, for the rows first..first+count of a quantized weight; k0 and depth are multiples of 32.
template <int WIDTH>
static inline void pack_quantized(const Weight& w, const Part& part, int64_t first, int64_t count, int64_t k0,
                                  int64_t depth, float* out) {
  alignas(64) float values[32];
  for (int64_t panel = 0; panel < count; panel += WIDTH, out += WIDTH * depth) {
    const int64_t lanes = count - panel < WIDTH ? count - panel : WIDTH;
    if (lanes < WIDTH) std::memset(out, 0, sizeof(float) * size_t(WIDTH * depth));
    for (int64_t lane = 0; lane < lanes; ++lane)
      for (int64_t k = 0; k < depth; k += 32) {
        dequantize_32(w, part, first + panel + lane, k0 + k, values);
        for (int i = 0; i < 32; ++i) out[(k + i) * WIDTH + lane] = values[i];
      }
  }
}

}  // namespace ISA
}  // namespace mf
