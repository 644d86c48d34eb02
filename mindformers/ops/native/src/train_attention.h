// What the two passes of training attention share: where heads lie, tiles, masked rows.
#pragma once

#include <cmath>

#include "carver.h"
#include "kernels_train.h"
#include "pointwise.h"
#include "train_sums.h"
#include "transpose.h"

namespace mf {
namespace ISA {

constexpr int64_t QUERIES = 48;  // queries of a tile, a multiple of every MR
constexpr int64_t KEYS = 128;    // keys of a tile, a multiple of every NR

static_assert(QUERIES % MR == 0 && KEYS % NR == 0, "tiles are made of whole panels");

// One head of one sequence.
struct HeadView {
  const TrainAttentionCall& call;
  int64_t batch, head, group;

  HeadView(const TrainAttentionCall& c, int64_t index)
      : call(c), batch(index / c.heads), head(index % c.heads), group(head / (c.heads / c.groups)) {}

  int64_t row(int64_t token) const { return batch * call.tokens + token; }
  int64_t at_query(int64_t token) const { return row(token) * call.query_step + head * call.dim; }
  int64_t at_key(int64_t token) const { return row(token) * call.key_step + group * call.dim; }
  int64_t at_value(int64_t token) const { return row(token) * call.value_step + group * call.dim; }
  int64_t at_out(int64_t token) const { return (row(token) * call.heads + head) * call.dim; }
  int64_t at_lse(int64_t token) const { return (batch * call.heads + head) * call.tokens + token; }
  int64_t start(int64_t query) const { return call.starts ? call.starts[row(query)] : 0; }
  // The first tile of keys that queries from `query` on meet: what lies before it belongs to other documents.
  int64_t first_tile(int64_t query) const { return start(query) / KEYS * KEYS; }
  const uint8_t* visible(int64_t token) const { return call.visible ? call.visible + row(token) : nullptr; }
};

// C (m, n) = or += packed A * packed B of which the first `depth` of `packed_depth` rows count.
static inline void shallow_product(int64_t m, int64_t n, int64_t depth, const float* a, const float* b,
                                   int64_t packed_depth, float* c, int64_t ldc, bool accumulate) {
  for (int64_t j = 0; j < n; j += NR)
    packed_product(m, std::min<int64_t>(NR, n - j), depth, a, b + j * packed_depth, c + j, ldc, accumulate);
}

// Hides what query `query` does not see of the scores of keys k0 to k0 + keys, but for the keys that come after it.
static inline void hide(float* row, const HeadView& view, int64_t query, int64_t k0, int64_t keys) {
  const uint8_t* visible = view.visible(k0);
  for (int64_t i = 0; visible && i < keys; ++i) row[i] = visible[i] ? row[i] : HIDDEN;
  const int64_t others = std::min(keys, view.start(query) - k0);
  for (int64_t i = 0; i < others; ++i) row[i] = HIDDEN;
}

}  // namespace ISA
}  // namespace mf
