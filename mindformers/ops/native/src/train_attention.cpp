// Attention of whole sequences for training: tiles with an online softmax; of the scores only the logarithm of each
// row's sum is kept. The keys and values of every group are packed once.

#include "train_attention.h"

namespace mf {
namespace ISA {
namespace {

struct Packed {  // keys (dim deep) and values (a tile of keys deep) of one group, tile after tile
  float *keys, *values;
  int64_t key_step, value_step;  // from one tile to the next
};

struct Tile {  // of queries; query and weights are packed
  float *query, *mixed, *scores, *weights, *top, *total;
};

void query_tile(const HeadView& view, const Packed& packed, int64_t first, int64_t count) {
  const TrainAttentionCall& call = view.call;
  const int64_t dim = call.dim, limit = first + count;
  const auto [query, mixed, scores, weights, top, total] = carved(Slot::WORK, [&](Carver& c) {
    return Tile{c.take(QUERIES * dim),  c.take(QUERIES * dim), c.take(QUERIES * KEYS), c.take(QUERIES * KEYS),
                c.take(QUERIES), c.take(QUERIES)};
  });
  const float scale = 1.0f / std::sqrt(float(dim));
  std::memset(mixed, 0, size_t(count * dim) * 4);
  for (int64_t r = 0; r < count; ++r) {
    top[r] = HIDDEN;
    total[r] = 0.0f;
  }
  pack_rows_turned<MR>(call.query + view.at_query(first), call.query_step, count, dim, query);
  for (int64_t k0 = view.first_tile(first); k0 < limit; k0 += KEYS) {
    const int64_t keys = std::min(KEYS, limit - k0), tile = k0 / KEYS;
    packed_product(count, keys, dim, query, packed.keys + tile * packed.key_step, scores, KEYS, false);
    for (int64_t r = 0; r < count; ++r) {
      hide(scores + r * KEYS, view, first + r, k0, keys);
      const int64_t seen = std::max<int64_t>(0, std::min(keys, first + r + 1 - k0));
      soften(scores + r * KEYS, seen, keys, scale, top[r], total[r], mixed + r * dim, dim);
    }
    pack_rows_turned<MR>(scores, KEYS, count, keys, weights);
    shallow_product(count, dim, keys, weights, packed.values + tile * packed.value_step,
                    std::min(KEYS, call.tokens - k0), mixed, dim, true);
  }
  for (int64_t r = 0; r < count; ++r) {
    float* out = call.out + view.at_out(first + r);
    const float share = total[r] > 0.0f ? 1.0f / total[r] : 0.0f;
    for (int64_t d = 0; d < dim; ++d) out[d] = mixed[r * dim + d] * share;
    call.lse[view.at_lse(first + r)] = total[r] > 0.0f ? top[r] + std::log(total[r]) : -HIDDEN;
  }
}

}  // namespace

void train_attention_forward(const TrainAttentionCall& call) {
  const int64_t dim = call.dim, tiles = ceil_div(call.tokens, KEYS), pairs = call.batch * call.groups;
  const int64_t key_step = dim * KEYS, value_step = KEYS * round_up(dim, NR), per_group = call.heads / call.groups;
  float* space = static_cast<float*>(scratch(Slot::SHARED, 4 * pairs * tiles * (key_step + value_step)));
  auto packed_of = [&](int64_t pair) {
    float* keys = space + pair * tiles * (key_step + value_step);
    return Packed{keys, keys + tiles * key_step, key_step, value_step};
  };
  parallel(pairs * tiles, [&](int64_t index) {
    const int64_t pair = index / tiles, tile = index % tiles, k0 = tile * KEYS;
    const int64_t count = std::min(KEYS, call.tokens - k0);
    const HeadView view(call, pair * per_group);
    const Packed packed = packed_of(pair);
    pack_rows_turned<NR>(call.key + view.at_key(k0), call.key_step, count, dim, packed.keys + tile * key_step);
    pack_columns_whole<NR>(call.value + view.at_value(k0), call.value_step, dim, count,
                           packed.values + tile * value_step);
  });
  const int64_t query_tiles = ceil_div(call.tokens, QUERIES), units = call.batch * call.heads;
  parallel(units * query_tiles, [&](int64_t index) {
    // The last tiles see the most keys: they go first, so that the threads end together.
    const int64_t first = (query_tiles - 1 - index / units) * QUERIES, unit = index % units;
    query_tile(HeadView(call, unit), packed_of(unit / per_group), first, std::min(QUERIES, call.tokens - first));
  });
}

}  // namespace ISA
}  // namespace mf
