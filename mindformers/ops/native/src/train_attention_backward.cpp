// Gradients of training attention. With P = exp(scale Q K^T - lse) and D = rowsum(dout * out):
//   dV = P^T dout,  dS = P * (dout V^T - D) * scale,  dQ = dS K,  dK = dS^T Q.
// A task takes one query head and goes over its keys tile by tile; where several heads share a key, each writes
// its part into a buffer of its own and the parts are added in the order of the heads.

#include "train_attention.h"

namespace mf {
namespace ISA {
namespace {

struct Buffers {
  // By tiles of queries: as rows (MR) and as columns (NR) of a product.
  float *query_rows, *query_columns, *dout_rows, *dout_columns;
  float* delta;  // (tokens,)
  // Of a tile of keys, and of a tile of scores.
  float *keys_deep, *keys_wide, *values_deep, *weights, *slopes, *packed;
};

Buffers carve(Carver& carver, int64_t tokens, int64_t dim) {
  const int64_t tiles = ceil_div(tokens, QUERIES), wide = round_up(dim, NR);
  Buffers b;
  b.query_rows = carver.take(tiles * QUERIES * dim);
  b.query_columns = carver.take(tiles * QUERIES * wide);
  b.dout_rows = carver.take(tiles * QUERIES * dim);
  b.dout_columns = carver.take(tiles * QUERIES * wide);
  b.delta = carver.take(tokens);
  b.keys_deep = carver.take(KEYS * dim);
  b.keys_wide = carver.take(KEYS * wide);
  b.values_deep = carver.take(KEYS * dim);
  b.weights = carver.take(QUERIES * KEYS);
  b.slopes = carver.take(QUERIES * KEYS);
  b.packed = carver.take(QUERIES * round_up(KEYS, MR));
  return b;
}

void prepare(const HeadView& view, const Buffers& b) {
  const TrainAttentionCall& call = view.call;
  const int64_t dim = call.dim, wide = round_up(dim, NR), out_step = call.heads * dim;
  for (int64_t first = 0; first < call.tokens; first += QUERIES) {
    const int64_t count = std::min(QUERIES, call.tokens - first);
    const float *query = call.query + view.at_query(first), *dout = call.dout + view.at_out(first);
    pack_rows_turned<MR>(query, call.query_step, count, dim, b.query_rows + first * dim);
    pack_columns_whole<NR>(query, call.query_step, dim, count, b.query_columns + first * wide);
    pack_rows_turned<MR>(dout, out_step, count, dim, b.dout_rows + first * dim);
    pack_columns_whole<NR>(dout, out_step, dim, count, b.dout_columns + first * wide);
  }
  for (int64_t t = 0; t < call.tokens; ++t)
    b.delta[t] = dot_row(call.dout + view.at_out(t), call.out + view.at_out(t), dim);
}

// Scores of a row to weights, and the row of dout V^T to the gradient of the scores.
void slope_row(float* weights, float* slopes, int64_t seen, int64_t keys, float scale, float lse, float delta) {
  int64_t i = 0;
  for (; i + VW <= seen; i += VW) {
    vf p = exp(load(weights + i) * scale - lse);
    store(weights + i, p);
    store(slopes + i, p * (load(slopes + i) - delta) * scale);
  }
  for (; i < seen; ++i) {
    weights[i] = std::exp(weights[i] * scale - lse);
    slopes[i] = weights[i] * (slopes[i] - delta) * scale;
  }
  for (; i < keys; ++i) weights[i] = slopes[i] = 0.0f;
}

struct Target {  // where a head's gradients of key and value go
  float *key, *value;
  int64_t key_step, value_step;
};

void tile_backward(const HeadView& view, const Buffers& b, const Target& target, int64_t k0, int64_t first) {
  const TrainAttentionCall& call = view.call;
  const int64_t dim = call.dim, wide = round_up(dim, NR);
  const int64_t keys = std::min(KEYS, call.tokens - k0), count = std::min(QUERIES, call.tokens - first);
  const float scale = 1.0f / std::sqrt(float(dim));
  packed_product(count, keys, dim, b.query_rows + first * dim, b.keys_deep, b.weights, KEYS, false);
  packed_product(count, keys, dim, b.dout_rows + first * dim, b.values_deep, b.slopes, KEYS, false);
  for (int64_t r = 0; r < count; ++r) {
    const int64_t seen = std::max<int64_t>(0, std::min(keys, first + r + 1 - k0)), t = first + r;
    hide(b.weights + r * KEYS, view, t, k0, keys);
    slope_row(b.weights + r * KEYS, b.slopes + r * KEYS, seen, keys, scale, call.lse[view.at_lse(t)], b.delta[t]);
  }
  const bool is_later = first > k0 / QUERIES * QUERIES;  // this tile of keys has met queries before
  pack_columns_whole<MR>(b.weights, KEYS, keys, count, b.packed);
  packed_product(keys, dim, count, b.packed, b.dout_columns + first * wide, target.value + k0 * target.value_step,
                 target.value_step, is_later);
  pack_columns_whole<MR>(b.slopes, KEYS, keys, count, b.packed);
  packed_product(keys, dim, count, b.packed, b.query_columns + first * wide, target.key + k0 * target.key_step,
                 target.key_step, is_later);
  pack_rows_turned<MR>(b.slopes, KEYS, count, keys, b.packed);
  packed_product(count, dim, keys, b.packed, b.keys_wide, call.dquery + view.at_query(first), call.query_step,
                 k0 > view.first_tile(first));
}

void head_backward(const HeadView& view, const Target& target) {
  const TrainAttentionCall& call = view.call;
  const int64_t dim = call.dim;
  const Buffers b = carved(Slot::WORK, [&](Carver& carver) { return carve(carver, call.tokens, dim); });
  prepare(view, b);
  for (int64_t k0 = 0; k0 < call.tokens; k0 += KEYS) {
    const int64_t keys = std::min(KEYS, call.tokens - k0);
    pack_rows_turned<NR>(call.key + view.at_key(k0), call.key_step, keys, dim, b.keys_deep);
    pack_columns_whole<NR>(call.key + view.at_key(k0), call.key_step, dim, keys, b.keys_wide);
    pack_rows_turned<NR>(call.value + view.at_value(k0), call.value_step, keys, dim, b.values_deep);
    // Documents follow one another, so behind the first tile of queries that sees none of these keys no other does.
    for (int64_t first = k0 / QUERIES * QUERIES; first < call.tokens && view.start(first) < k0 + keys; first += QUERIES)
      tile_backward(view, b, target, k0, first);
  }
}

}  // namespace

void train_attention_backward(const TrainAttentionCall& call) {
  const int64_t dim = call.dim, per_group = call.heads / call.groups, units = call.batch * call.heads;
  const int64_t size = call.tokens * dim;
  float* parts = per_group > 1 ? static_cast<float*>(scratch(Slot::SHARED, 4 * units * 2 * size)) : nullptr;
  parallel(units, [&](int64_t index) {
    const HeadView view(call, index);
    if (parts) {
      float* mine = parts + index * 2 * size;
      head_backward(view, Target{mine, mine + size, dim, dim});
    } else {
      head_backward(view, Target{call.dkey + view.at_key(0), call.dvalue + view.at_value(0), call.key_step,
                                 call.value_step});
    }
  });
  if (!parts) return;
  each_piece(call.batch * call.groups * call.tokens, 64, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      const int64_t pair = i / call.tokens, t = i % call.tokens;
      const HeadView view(call, pair * per_group);
      float *key = call.dkey + view.at_key(t), *value = call.dvalue + view.at_value(t);
      for (int64_t d = 0; d < dim; ++d) key[d] = value[d] = 0.0f;
      for (int64_t h = 0; h < per_group; ++h) {
        const float* part = parts + (pair * per_group + h) * 2 * size + t * dim;
        for (int64_t d = 0; d < dim; ++d) key[d] += part[d];
        for (int64_t d = 0; d < dim; ++d) value[d] += part[size + d];
      }
    }
  });
}

}  // namespace ISA
}  // namespace mf
