// Attention over the paged cache: whole prompts in tiles with an online softmax, single tokens split over the
// context. A token at position p sees the cached positions 0..p; query heads of one group share keys and values.

#include <algorithm>
#include <cmath>

#include "cache_rows.h"
#include "kernels.h"
#include "threads.h"
#include "tile.h"

namespace mf {
namespace ISA {
namespace {

constexpr int64_t KEYS = 128;   // keys of a tile
constexpr int64_t ROWS = 96;    // query rows (tokens x heads of a group) of a tile, about
constexpr int64_t SPLIT = 256;  // keys a task of single-token attention takes
constexpr int64_t TILED_FROM = 5;  // tokens of a sequence from which tiles pay
enum Slot { TILE = 1, PARTIAL = 2 };

struct Tile {  // the working set of one task, carved out of one buffer
  float *query, *packed_query, *rows, *packed, *scores, *packed_scores, *mixed, *top, *total;
};

int64_t tile_floats(int64_t rows, int64_t head_dim) {
  const int64_t high = round_up(rows, MR), wide = round_up(head_dim, NR);
  return rows * head_dim + high * head_dim + KEYS * head_dim + KEYS * std::max<int64_t>(wide, round_up(KEYS, NR)) +
         head_dim * round_up(KEYS, NR) + rows * KEYS + high * KEYS + rows * head_dim + 2 * rows;
}

Tile carve(float* p, int64_t rows, int64_t head_dim) {
  const int64_t high = round_up(rows, MR);
  Tile t;
  auto take = [&p](int64_t count) {
    float* at = p;
    p += count;
    return at;
  };
  t.query = take(rows * head_dim);
  t.packed_query = take(high * head_dim);
  t.rows = take(KEYS * head_dim);
  t.packed = take(std::max(head_dim * round_up(KEYS, NR), KEYS * round_up(head_dim, NR)));
  t.scores = take(rows * KEYS);
  t.packed_scores = take(high * KEYS);
  t.mixed = take(rows * head_dim);
  t.top = take(rows);
  t.total = take(rows);
  return t;
}

// Turns a row of scores of which `seen` columns count into weights; rescales what was mixed so far.
void soften(float* row, int64_t seen, int64_t keys, float& top, float& total, float* mixed, int64_t head_dim) {
  if (seen <= 0) {
    std::memset(row, 0, sizeof(float) * size_t(keys));
    return;
  }
  float high = top;
  for (int64_t i = 0; i < seen; ++i) high = std::max(high, row[i]);
  const float keep = std::exp(top - high);
  vf part = {};
  int64_t i = 0;
  for (; i + VW <= seen; i += VW) {
    vf e = exp(load(row + i) - high);
    store(row + i, e);
    part += e;
  }
  float added = sum(part);
  for (; i < seen; ++i) added += row[i] = std::exp(row[i] - high);
  for (; i < keys; ++i) row[i] = 0.0f;
  top = high;
  total = total * keep + added;
  if (keep != 1.0f)
    for (int64_t d = 0; d < head_dim; ++d) mixed[d] *= keep;
}

template <class T>
void tile_task(const AttentionCall& call, int64_t sequence, int64_t group, int64_t first, int64_t tokens) {
  const Shape& s = *call.shape;
  const int64_t per_group = s.heads / s.groups, dim = s.head_dim, rows = tokens * per_group;
  const int64_t start = call.step->starts[sequence], count = call.step->starts[sequence + 1] - start;
  const int64_t position = call.step->lengths[sequence] - count + first;  // of the tile's first token
  const int64_t limit = position + tokens;                                // keys anyone in the tile sees
  Tile t = carve(static_cast<float*>(scratch(TILE, 4 * tile_floats(rows, dim))), rows, dim);
  const float scale = 1.0f / std::sqrt(float(dim));
  for (int64_t r = 0; r < rows; ++r) {
    const float* q = call.query + (start + first + r / per_group) * call.query_step +
                     (group * per_group + r % per_group) * dim;
    for (int64_t d = 0; d < dim; ++d) t.query[r * dim + d] = q[d] * scale;
    t.top[r] = -1e30f;
    t.total[r] = 0.0f;
  }
  std::memset(t.mixed, 0, sizeof(float) * size_t(rows * dim));
  pack_rows<MR>(t.query, dim, rows, dim, t.packed_query);
  const CacheRows<T> cache(call, sequence, group);
  for (int64_t k0 = 0; k0 < limit; k0 += KEYS) {
    const int64_t keys = std::min(KEYS, limit - k0);
    cache.keys(k0, keys, t.rows);
    pack_rows<NR>(t.rows, dim, keys, dim, t.packed);
    packed_product(rows, keys, dim, t.packed_query, t.packed, t.scores, KEYS, false);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t seen = std::min(keys, position + r / per_group + 1 - k0);
      soften(t.scores + r * KEYS, seen, keys, t.top[r], t.total[r], t.mixed + r * dim, dim);
    }
    cache.values(k0, keys, t.rows);
    pack_columns<NR>(t.rows, dim, dim, keys, t.packed);
    pack_rows<MR>(t.scores, KEYS, rows, keys, t.packed_scores);
    packed_product(rows, dim, keys, t.packed_scores, t.packed, t.mixed, dim, true);
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* out = call.out + (start + first + r / per_group) * s.heads * dim + (group * per_group + r % per_group) * dim;
    const float share = 1.0f / t.total[r];
    for (int64_t d = 0; d < dim; ++d) out[d] = t.mixed[r * dim + d] * share;
  }
}

// One token's heads of a group over keys k0..k0+keys: (top, total, mixed sum) of each head.
template <class T>
void token_task(const AttentionCall& call, int64_t sequence, int64_t token, int64_t group, int64_t k0,
                int64_t keys, float* top, float* total, float* mixed) {
  const Shape& s = *call.shape;
  const int64_t per_group = s.heads / s.groups, dim = s.head_dim;
  const float* query = call.query + token * call.query_step + group * per_group * dim;
  float* scores = static_cast<float*>(scratch(TILE, 4 * per_group * SPLIT));
  const CacheRows<T> cache(call, sequence, group);
  const float scale = 1.0f / std::sqrt(float(dim));
  cache.for_runs(k0, keys, [&](int64_t at, int64_t slot, int64_t count) {
    cache.scores(query, per_group, slot, count, scale, scores + at, SPLIT);
  });
  for (int64_t h = 0; h < per_group; ++h) {
    top[h] = -1e30f;
    total[h] = 0.0f;
    soften(scores + h * SPLIT, keys, keys, top[h], total[h], mixed, 0);
  }
  std::memset(mixed, 0, sizeof(float) * size_t(per_group * dim));
  cache.for_runs(k0, keys, [&](int64_t at, int64_t slot, int64_t count) {
    cache.mix(scores + at, SPLIT, per_group, slot, count, mixed);
  });
}

struct TokenWork {
  int64_t sequence, token, group, k0, keys;
};

template <class T>
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
    for (int64_t i = 0; i < count && count < TILED_FROM; ++i)
      for (int64_t g = 0; g < s.groups; ++g) {
        const int64_t seen = step.lengths[q] - count + i + 1;
        for (int64_t k0 = 0; k0 < seen; k0 += SPLIT)
          work.push_back({q, start + i, g, k0, std::min(SPLIT, seen - k0)});
      }
  }
  // The last tiles see the most keys: they go first, so that the threads end together.
  std::sort(tiles.begin(), tiles.end(), [&](const TileWork& a, const TileWork& b) { return a.first > b.first; });
  parallel(int64_t(tiles.size()), [&](int64_t i) {
    const TileWork& w = tiles[size_t(i)];
    tile_task<T>(call, w.sequence, w.group, w.first, w.tokens);
  });
  if (work.empty()) return;
  const int64_t width = per_group * (dim + 2), count = int64_t(work.size());
  float* partial = static_cast<float*>(scratch(PARTIAL, 4 * width * count));
  parallel(count, [&](int64_t i) {
    const TokenWork& w = work[size_t(i)];
    float* p = partial + i * width;
    token_task<T>(call, w.sequence, w.token, w.group, w.k0, w.keys, p, p + per_group, p + 2 * per_group);
  });
  for (int64_t i = 0; i < count;) {
    int64_t end = i + 1;
    while (end < count && work[size_t(end)].k0 > 0) ++end;
    const TokenWork& w = work[size_t(i)];
    float* out = call.out + (w.token * s.heads + w.group * per_group) * dim;
    for (int64_t h = 0; h < per_group; ++h) merge(partial + i * width, end - i, width, h, per_group, dim, out + h * dim);
    i = end;
  }
}

}  // namespace

void attention(const AttentionCall& call) {
  switch (call.shape->cache_dtype) {
    case BF16: return attend<bf16>(call);
    case I8: return attend<int8_t>(call);
    default: return attend<float>(call);
  }
}

}  // namespace ISA
}  // namespace mf
