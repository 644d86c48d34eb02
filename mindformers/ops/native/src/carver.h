// Cutting the working set of a kernel out of one buffer, its size being what was cut.
#pragma once

#include <cstdint>

#include "threads.h"

namespace mf {

struct Carver {
  float* base;  // null: only count
  int64_t used = 0;

  // Room for `count` floats; 64-byte aligned.
  float* take(int64_t count) {
    float* piece = base ? base + used : nullptr;
    used += (count + 15) / 16 * 16;
    return piece;
  }
};

// cut(carver) with as much room as it takes.
template <class Cut>
auto carved(Slot slot, const Cut& cut) {
  Carver counting{nullptr};
  cut(counting);
  Carver carver{static_cast<float*>(scratch(slot, 4 * counting.used))};
  return cut(carver);
}

}  // namespace mf
