// Element types and their conversions, the same for every instruction set.
#pragma once

#include <cstdint>
#include <cstring>

namespace mf {

enum DType : int32_t { F32 = 0, BF16 = 1, F16 = 2, I8 = 3, I4 = 4 };

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

static inline float to_float(float x) { return x; }
static inline float to_float(bf16 x) {
  uint32_t wide = uint32_t(x.bits) << 16;
  float out;
  std::memcpy(&out, &wide, 4);
  return out;
}
static inline float to_float(f16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7fff;
  uint32_t wide;
  if (magnitude >= 0x7c00) {
    wide = sign | 0x7f800000 | (magnitude & 0x3ff) << 13;
  } else if (magnitude >= 0x400) {
    wide = sign | ((magnitude + (112 << 10)) << 13);
  } else {
    float small = float(magnitude) * 5.9604644775390625e-8f;  // 2^-24, the step of subnormal numbers
    std::memcpy(&wide, &small, 4);
    wide |= sign;
  }
  float out;
  std::memcpy(&out, &wide, 4);
  return out;
}
static inline float to_float(int8_t x) { return float(x); }

static inline void assign(float& out, float x) { out = x; }
static inline void assign(bf16& out, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  out.bits = x != x ? uint16_t(bits >> 16 | 0x40) : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// A matrix (rows, cols) whose rows lie one after another, in up to three pieces (query, key and value apart).
struct Part {
  const void* data;    // F32, BF16, F16: elements; I8: int8; I4: two to a byte, see quant.h
  const f16* scale;    // I8, I4: (rows, cols / group)
  const uint8_t* zero; // I4, asymmetric: (rows, cols / group); null: 8
  int64_t rows;
};
struct Weight {
  Part part[3];
  int64_t rows, cols;
  const float* bias;  // (rows,) or null
  int32_t parts, dtype, group;
  int32_t compute;  // F32; BF16: inputs of a product may be rounded to bfloat16 where that is faster
};

}  // namespace mf
