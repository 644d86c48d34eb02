// Reading and writing the rows of one sequence and group in the paged cache.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "cache.h"
#include "kernels.h"
#include "pointwise.h"

namespace mf {
namespace ISA {

template <class T>
struct CacheRows {
  const T *key_data, *value_data;
  const float *key_scale, *value_scale;
  const int32_t* table;
  int64_t block_size, groups, group, dim;

  CacheRows(const AttentionCall& call, int64_t sequence, int64_t which)
      : key_data(static_cast<const T*>(call.layer->keys)),
        value_data(static_cast<const T*>(call.layer->values)),
        key_scale(call.layer->key_scale),
        value_scale(call.layer->value_scale),
        table(call.step->tables + sequence * call.step->table_width),
        block_size(call.shape->block_size),
        groups(call.shape->groups),
        group(which),
        dim(call.shape->head_dim) {}

  // body(offset from k0, slot, count) for runs of positions whose slots follow one another.
  template <class Body>
  void for_runs(int64_t k0, int64_t keys, const Body& body) const {
    for (int64_t at = 0; at < keys;) {
      const int64_t position = k0 + at, inside = position % block_size;
      const int64_t count = std::min(keys - at, block_size - inside);
      body(at, table[position / block_size] * block_size + inside, count);
      at += count;
    }
  }

  void gather(const T* data, const float* scale, int64_t k0, int64_t keys, float* out) const {
    for_runs(k0, keys, [&](int64_t at, int64_t slot, int64_t count) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t row = (slot + i) * groups + group;
        float* target = out + (at + i) * dim;
        copy_row(data + row * dim, dim, target);
        if (sizeof(T) == 1) scale_row(target, scale[row], dim, target);
      }
    });
  }
  // The elements as they are, (keys, dim).
  void raw(const T* data, int64_t k0, int64_t keys, T* out) const {
    for_runs(k0, keys, [&](int64_t at, int64_t slot, int64_t count) {
      for (int64_t i = 0; i < count; ++i)
        std::memcpy(out + (at + i) * dim, data + ((slot + i) * groups + group) * dim, sizeof(T) * size_t(dim));
    });
  }
  void keys(int64_t k0, int64_t count, float* out) const { gather(key_data, key_scale, k0, count, out); }
  void values(int64_t k0, int64_t count, float* out) const { gather(value_data, value_scale, k0, count, out); }

  // scores[h * step + i] = query[h] . key[i] * scale, for a run of slots.
  void scores(const float* query, int64_t heads, int64_t slot, int64_t count, float scale, float* out,
              int64_t step) const {
    each_block(heads, [&](int64_t h, auto block) {
      score_block<decltype(block)::value>(query + h * dim, slot, count, scale, out + h * step, step);
    });
  }

  // mixed[h] += sum_i weights[h * step + i] * value[i], for a run of slots.
  void mix(const float* weights, int64_t step, int64_t heads, int64_t slot, int64_t count, float* mixed) const {
    each_block(heads, [&](int64_t h, auto block) {
      mix_block<decltype(block)::value>(weights + h * step, step, slot, count, mixed + h * dim);
    });
  }

 private:
  // body(first head, how many as a type) for up to four heads at a time: their sums stay in registers.
  template <class Body>
  static void each_block(int64_t heads, const Body& body) {
    int64_t h = 0;
    for (; h + 4 <= heads; h += 4) body(h, std::integral_constant<int, 4>());
    switch (heads - h) {
      case 3: return body(h, std::integral_constant<int, 3>());
      case 2: return body(h, std::integral_constant<int, 2>());
      case 1: return body(h, std::integral_constant<int, 1>());
    }
  }

  template <int HEADS>
  void score_block(const float* query, int64_t slot, int64_t count, float scale, float* out, int64_t step) const {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = (slot + i) * groups + group;
      const T* key = key_data + row * dim;
      const float factor = sizeof(T) == 1 ? scale * key_scale[row] : scale;
      vf acc[HEADS] = {};
      int64_t d = 0;
      for (; d + VW <= dim; d += VW) {
        const vf k = load(key + d);
#pragma GCC unroll 4
        for (int b = 0; b < HEADS; ++b) acc[b] += k * load(query + b * dim + d);
      }
#pragma GCC unroll 4
      for (int b = 0; b < HEADS; ++b) {
        float total = sum(acc[b]);
        for (int64_t e = d; e < dim; ++e) total += to_float(key[e]) * query[b * dim + e];
        out[b * step + i] = total * factor;
      }
    }
  }

  template <int HEADS>
  void mix_block(const float* weights, int64_t step, int64_t slot, int64_t count, float* mixed) const {
    int64_t d = 0;
    for (; d + VW <= dim; d += VW) {
      vf acc[HEADS];
#pragma GCC unroll 4
      for (int b = 0; b < HEADS; ++b) acc[b] = load(mixed + b * dim + d);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t row = (slot + i) * groups + group;
        vf v = load(value_data + row * dim + d);
        if (sizeof(T) == 1) v *= value_scale[row];
#pragma GCC unroll 4
        for (int b = 0; b < HEADS; ++b) acc[b] += v * weights[b * step + i];
      }
#pragma GCC unroll 4
      for (int b = 0; b < HEADS; ++b) store(mixed + b * dim + d, acc[b]);
    }
    for (; d < dim; ++d)
      for (int b = 0; b < HEADS; ++b)
        for (int64_t i = 0; i < count; ++i) {
          const int64_t row = (slot + i) * groups + group;
          const float v = to_float(value_data[row * dim + d]) * (sizeof(T) == 1 ? value_scale[row] : 1.0f);
          mixed[b * dim + d] += v * weights[b * step + i];
        }
  }
};

static inline void write_row(float* to, float*, const float* from, int64_t n) {
  std::memcpy(to, from, sizeof(float) * size_t(n));
}
static inline void write_row(bf16* to, float*, const float* from, int64_t n) {
  round_row(from, n, to);
}
static inline void write_row(int8_t* to, float* scale, const float* from, int64_t n) {
  float top = 0;
  for (int64_t i = 0; i < n; ++i) top = std::max(top, std::fabs(from[i]));
  *scale = top / 127.0f;
  const float inverse = top > 0 ? 127.0f / top : 0.0f;
  for (int64_t i = 0; i < n; ++i) to[i] = int8_t(std::lrint(from[i] * inverse));
}

// Joins the parts of a split softmax: parts p0, p0 + width, ... each hold (top, total) of all heads, then sums.
static inline void merge(const float* parts, int64_t count, int64_t width, int64_t head, int64_t heads,
                         int64_t dim, float* out) {
  float top = HIDDEN, total = 0;
  for (int64_t p = 0; p < count; ++p) top = std::max(top, parts[p * width + head]);
  std::memset(out, 0, sizeof(float) * size_t(dim));
  for (int64_t p = 0; p < count; ++p) {
    const float* part = parts + p * width;
    const float share = std::exp(part[head] - top);
    const float* mixed = part + 2 * heads + head * dim;
    total += share * part[heads + head];
    for (int64_t d = 0; d < dim; ++d) out[d] += share * mixed[d];
  }
  for (int64_t d = 0; d < dim; ++d) out[d] /= total;
}

}  // namespace ISA
}  // namespace mf
