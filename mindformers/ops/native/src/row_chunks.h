// How the rows of a weight are shared out among the threads.
#pragma once

#include <algorithm>

#include "threads.h"
#include "tile.h"

namespace mf {
namespace ISA {

static inline int64_t bytes_of_row(const Weight& w) {
  switch (w.dtype) {
    case F32: return w.cols * 4;
    case I8: return w.cols;
    case I4: return w.cols / 2;
    default: return w.cols * 2;
  }
}

// body(part, first row in it, rows, first column of the output) for chunks of weights: up to 64 KB, so that they
// stream, and a dozen for each thread where there are rows enough, so that the threads end together.
template <class Body>
static inline void each_row_chunk(const Weight& w, const Body& body) {
  const int64_t most = 65536 / std::max<int64_t>(1, bytes_of_row(w)), fair = w.rows / (12 * thread_count());
  const int64_t chunk = std::max<int64_t>(12, round_up(std::min(most, fair), 12));
  int64_t start[4] = {0, 0, 0, 0}, offset[4] = {0, 0, 0, 0};
  for (int p = 0; p < w.parts; ++p) {
    start[p + 1] = start[p] + ceil_div(w.part[p].rows, chunk);
    offset[p + 1] = offset[p] + w.part[p].rows;
  }
  parallel(start[w.parts], [&](int64_t index) {
    int p = 0;
    while (index >= start[p + 1]) ++p;
    const int64_t first = (index - start[p]) * chunk;
    body(w.part[p], first, std::min(chunk, w.part[p].rows - first), offset[p] + first);
  });
}

}  // namespace ISA
}  // namespace mf
