// Attention over the paged cache: whole prompts in tiles with an online softmax, single tokens split over the
// context. A token at position p sees the cached positions 0..p; query heads of one group share keys and values.

#include <algorithm>
#include <cmath>

#include "attention_tile.h"
#include "kernels.h"
#include "threads.h"
#include "tile.h"

namespace mf {
namespace ISA {
namespace {

constexpr int64_t ROWS = 192;   // query rows (tokens x heads of a group) of a tile, about
constexpr int64_t SPLIT = 256;  // keys a task of single-token attention takes
constexpr int64_t TILED_FROM = 5;  // tokens of a sequence from which tiles pay

template <class T, class Panels>
void tile_task(const AttentionCall& call, int64_t sequence, int64_t group, int64_t first, int64_t tokens) {
  const Shape& s = *call.shape;
  const int64_t per_group = s.heads / s.groups, dim = s.head_dim, rows = tokens * per_group;
  const int64_t start = call.step->starts[sequence], count = call.step->starts[sequence + 1] - start;
  const int64_t position = call.step->lengths[sequence] - count + first;  // of the tile's first token
  const int64_t limit = position + tokens;                                // keys anyone in the tile sees
  const Tile t = carved(Slot::TILE, [&](Carver& carver) { return carve(carver, rows, dim); });
  const float scale = 1.0f / std::sqrt(float(dim));
  for (int64_t r = 0; r < rows; ++r) {
    const float* q = call.query + (start + first + r / per_group) * call.query_step +
                     (group * per_group + r % per_group) * dim;
    scale_row(q, scale, dim, t.query + r * dim);
    t.top[r] = HIDDEN;
    t.total[r] = 0.0f;
  }
  std::memset(t.mixed, 0, sizeof(float) * size_t(rows * dim));
  Panels::query(t, rows, dim);
  const CacheRows<T> cache(call, sequence, group);
  for (int64_t k0 = 0; k0 < limit; k0 += KEYS) {
    const int64_t keys = std::min(KEYS, limit - k0);
    Panels::keys(t, cache, k0, keys);
    packed_product<Panels::PAIRS>(rows, keys, Panels::depth(dim), t.packed_query, t.packed, t.scores, KEYS, false);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t seen = std::min(keys, position + r / per_group + 1 - k0);
      soften(t.scores + r * KEYS, seen, keys, 1.0f, t.top[r], t.total[r], t.mixed + r * dim, dim);
    }
    Panels::weights(t, rows, keys);
    Panels::values(t, cache, k0, keys);
    packed_product<Panels::PAIRS>(rows, dim, Panels::depth(keys), t.packed_scores, t.packed, t.mixed, dim, true);
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* out = call.out + (start + first + r / per_group) * s.heads * dim + (group * per_group + r % per_group) * dim;
    scale_row(t.mixed + r * dim, 1.0f / t.total[r], dim, out);
  }
}

// One token's heads of a group over keys k0..k0+keys: (top, total, mixed sum) of each head.
template <class T>
void token_task(const AttentionCall& call, int64_t sequence, int64_t token, int64_t group, int64_t k0,
                int64_t keys, float* top, float* total, float* mixed) {
  const Shape& s = *call.shape;
  const int64_t per_group = s.heads / s.groups, dim = s.head_dim;
  const float* query = call.query + token * call.query_step + group * per_group * dim;
  float* scores = static_cast<float*>(scratch(Slot::TILE, 4 * per_group * SPLIT));
  const CacheRows<T> cache(call, sequence, group);
  const float scale = 1.0f / std::sqrt(float(dim));
  cache.for_runs(k0, keys, [&](int64_t at, int64_t slot, int64_t count) {
    cache.scores(query, per_group, slot, count, scale, scores + at, SPLIT);
  });
  for (int64_t h = 0; h < per_group; ++h) {
    top[h] = HIDDEN;
    total[h] = 0.0f;
    soften(scores + h * SPLIT, keys, keys, 1.0f, top[h], total[h], mixed, 0);
  }
  std::memset(mixed, 0, sizeof(float) * size_t(per_group * dim));
  cache.for_runs(k0, keys, [&](int64_t at, int64_t slot, int64_t count) {
    cache.mix(scores + at, SPLIT, per_group, slot, count, mixed);
  });
}

struct TokenWork {
  int64_t sequence, token, group, k0, keys;
};

template <class T, class Panels>
void attend(const AttentionCall& call) {
  const Shape& s = *call.shape;
  const Step& step = *call.step;
  const int64_t per_group = s.heads / s.groups, dim = s.head_dim;
  const int64_t tile_tokens = std::max<int64_t>(1, ROWS / per_group);
  struct TileWork {
    int64_t sequence, group, first, tokens;
  };
  std::vector<TileWork> tiles;
  std::vector<TokenWork> work;
  for (int64_t q = 0; q < step.sequences; ++q) {
    const int64_t start = step.starts[q], count = step.starts[q + 1] - start;
    for (int64_t g = 0; g < s.groups && count >= TILED_FROM; ++g)
      for (int64_t first = 0; first < count; first += tile_tokens)
        tiles.push_back({q, g, first, std::min(tile_tokens, count - first)});
    for (int64_t i = 0; i < count && count < TILED_FROM; ++i) {
      const int64_t seen = step.lengths[q] - count + i + 1;
      for (int64_t k0 = 0; k0 < seen; k0 += SPLIT)
        for (int64_t g = 0; g < s.groups; ++g) work.push_back({q, start + i, g, k0, std::min(SPLIT, seen - k0)});
    }
  }
  // The last tiles see the most keys: they go first, so that the threads end together.
  std::sort(tiles.begin(), tiles.end(), [&](const TileWork& a, const TileWork& b) { return a.first > b.first; });
  parallel(int64_t(tiles.size()), [&](int64_t i) {
    const TileWork& w = tiles[size_t(i)];
    tile_task<T, Panels>(call, w.sequence, w.group, w.first, w.tokens);
  });
  if (work.empty()) return;
  const int64_t width = per_group * (dim + 2), count = int64_t(work.size());
  float* partial = static_cast<float*>(scratch(Slot::PARTIAL, 4 * width * count));
  // A thread takes some keys for all groups, whose rows lie side by side: what it reads of one brings the others near.
  // Where that leaves threads without work, it takes one group.
  const int64_t together = count / s.groups >= 2 * thread_count() ? s.groups : 1;
  parallel(count / together, [&](int64_t index) {
    for (int64_t i = index * together; i < (index + 1) * together; ++i) {
      const TokenWork& w = work[size_t(i)];
      float* p = partial + i * width;
      token_task<T>(call, w.sequence, w.token, w.group, w.k0, w.keys, p, p + per_group, p + 2 * per_group);
    }
  });
  // A group's parts of a token lie as many apart as there are groups.
  for (int64_t i = 0; i < count;) {
    int64_t end = i + 1;
    while (end < count && work[size_t(end)].token == work[size_t(i)].token) ++end;
    const int64_t parts = (end - i) / s.groups;
    for (int64_t h = 0; h < s.heads; ++h)
      merge(partial + (i + h / per_group) * width, parts, s.groups * width, h % per_group, per_group, dim,
            call.out + (work[size_t(i)].token * s.heads + h) * dim);
    i = end;
  }
}

}  // namespace

void attention(const AttentionCall& call) {
  switch (call.shape->cache_dtype) {
    case BF16:
      if (HAS_PAIRS && call.shape->compute == BF16 && call.shape->head_dim % 2 == 0)
        return attend<bf16, PairPanels>(call);
      return attend<bf16, FloatPanels<bf16>>(call);
    case I8: return attend<int8_t, FloatPanels<int8_t>>(call);
    default: return attend<float, FloatPanels<float>>(call);
  }
}

}  // namespace ISA
}  // namespace mf
