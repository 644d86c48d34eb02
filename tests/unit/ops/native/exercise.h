// What the parts of the exercise share: numbers that are the same on every machine, weights made of them, results.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "types.h"

namespace exercise {

using namespace mf;

inline void require(bool is_true, const char* what) {
  if (is_true) return;
  std::fprintf(stderr, "exercise: %s\n", what);
  std::exit(1);
}

// Numbers from -1 to 1 that are the same on every machine.
struct Source {
  uint32_t state;
  float next() {
    state = state * 1664525u + 1013904223u;
    return float(int32_t(state >> 8) - (1 << 23)) / float(1 << 23);
  }
  std::vector<float> floats(int64_t count, float scale = 1.0f) {
    std::vector<float> out(static_cast<size_t>(count));
    for (float& each : out) each = next() * scale;
    return out;
  }
};

// A weight and the memory it lies in.
struct Stored {
  std::vector<char> data;
  std::vector<uint16_t> scales;
  std::vector<float> bias;
  Weight weight{};

  Stored(Source& source, int64_t rows, int64_t cols, DType dtype, bool has_bias) {
    const int64_t count = rows * cols;
    if (dtype == F32) {
      auto values = source.floats(count, 0.3f);
      data.resize(size_t(count) * 4);
      std::memcpy(data.data(), values.data(), data.size());
    } else if (dtype == BF16) {
      std::vector<bf16> values(static_cast<size_t>(count));
      for (bf16& each : values) assign(each, source.next() * 0.3f);
      data.resize(size_t(count) * 2);
      std::memcpy(data.data(), values.data(), data.size());
    } else if (dtype == F16) {
      data.resize(size_t(count) * 2);
      for (int64_t i = 0; i < count; ++i) {  // 0.25 to 0.5 with either sign
        const uint16_t bits = uint16_t(0x3400 | (int(source.next() * 500) & 0x3ff) | (i % 3 == 0 ? 0x8000 : 0));
        std::memcpy(data.data() + 2 * i, &bits, 2);
      }
    } else {
      data.resize(size_t(dtype == I8 ? count : count / 2));
      for (char& each : data) each = char(int(source.next() * 127));
      scales.assign(size_t(rows * cols / 32), 0x1c00);  // 2^-8
      weight.group = 32;
    }
    if (has_bias) bias = source.floats(rows);
    weight.part[0] = Part{data.data(), reinterpret_cast<const f16*>(scales.data()), nullptr, rows};
    weight.rows = rows;
    weight.cols = cols;
    weight.bias = has_bias ? bias.data() : nullptr;
    weight.parts = 1;
    weight.dtype = dtype;
  }
};

inline void keep(std::vector<float>& all, const std::vector<float>& some) { all.insert(all.end(), some.begin(), some.end()); }

// The training kernels: their results and gradients over odd shapes.
void training(Source& source, std::vector<float>& results);

}  // namespace exercise
