// Sharing rows out among threads, and sums over rows whose order depends on the shape alone.
#pragma once

#include <algorithm>
#include <cstring>

#include "threads.h"
#include "tile.h"

namespace mf {
namespace ISA {

// body(first, count) for pieces of `rows` rows.
template <class Body>
void each_piece(int64_t rows, int64_t piece, const Body& body) {
  parallel(ceil_div(rows, piece), [&](int64_t index) {
    const int64_t first = index * piece;
    body(first, std::min(piece, rows - first));
  });
}

// Rows of a piece of which the sum has a buffer of its own: few buffers, enough pieces for all threads.
static inline int64_t piece_of_sum(int64_t rows) { return std::max<int64_t>(16, ceil_div(rows, 64)); }

// out (width,) = the sum over the pieces of what body(first, count, sums) adds to sums (width,), zeros at first.
template <class Body>
void sum_over_rows(int64_t rows, int64_t width, float* out, const Body& body) {
  const int64_t piece = piece_of_sum(rows), pieces = ceil_div(rows, piece);
  float* sums = static_cast<float*>(scratch(Slot::SUMS, 4 * std::max<int64_t>(1, pieces) * width));
  each_piece(rows, piece, [&](int64_t first, int64_t count) {
    float* mine = sums + first / piece * width;
    std::memset(mine, 0, size_t(width) * 4);
    body(first, count, mine);
  });
  each_piece(width, 512, [&](int64_t first, int64_t count) {
    std::memset(out + first, 0, size_t(count) * 4);
    for (int64_t p = 0; p < pieces; ++p)
      for (int64_t i = first; i < first + count; ++i) out[i] += sums[p * width + i];
  });
}

}  // namespace ISA
}  // namespace mf
