// The working set of one tile of attention, and its operands as panels: floats, or pairs of bfloat16.
#pragma once

#include <algorithm>
#include <cmath>

#include "cache_rows.h"
#include "carver.h"
#include "transpose.h"

namespace mf {
namespace ISA {

constexpr int64_t KEYS = 128;  // keys of a tile; even

struct Tile {  // the working set of one task, carved out of one buffer
  float *query, *packed_query, *rows, *packed, *scores, *packed_scores, *mixed, *top, *total;
};

static inline Tile carve(Carver& carver, int64_t rows, int64_t head_dim) {
  const int64_t high = round_up(rows, MR);
  Tile t;
  t.query = carver.take(rows * head_dim);
  t.packed_query = carver.take(high * head_dim);
  t.rows = carver.take(KEYS * head_dim);
  t.packed = carver.take(std::max(head_dim * round_up(KEYS, NR), KEYS * round_up(head_dim, NR)));
  t.scores = carver.take(rows * KEYS);
  t.packed_scores = carver.take(high * KEYS);
  t.mixed = carver.take(rows * head_dim);
  t.top = carver.take(rows);
  t.total = carver.take(rows);
  return t;
}

// Operands as floats.
template <class T>
struct FloatPanels {
  static constexpr bool PAIRS = false;
  static int64_t depth(int64_t count) { return count; }

  static void query(const Tile& t, int64_t rows, int64_t dim) { pack_rows_turned<MR>(t.query, dim, rows, dim, t.packed_query); }
  static void keys(const Tile& t, const CacheRows<T>& cache, int64_t k0, int64_t count) {
    cache.keys(k0, count, t.rows);
    pack_rows_turned<NR>(t.rows, cache.dim, count, cache.dim, t.packed);
  }
  static void weights(const Tile& t, int64_t rows, int64_t keys) {
    pack_rows_turned<MR>(t.scores, KEYS, rows, keys, t.packed_scores);
  }
  static void values(const Tile& t, const CacheRows<T>& cache, int64_t k0, int64_t count) {
    cache.values(k0, count, t.rows);
    pack_columns_whole<NR>(t.rows, cache.dim, cache.dim, count, t.packed);
  }
};

// Operands as words of two bfloat16, for a cache of bfloat16 and heads of even size.
struct PairPanels {
  static constexpr bool PAIRS = true;
  static int64_t depth(int64_t count) { return (count + 1) / 2; }

  static const float* words(const void* p) { return static_cast<const float*>(p); }

  static void query(const Tile& t, int64_t rows, int64_t dim) {
    round_row(t.query, rows * dim, reinterpret_cast<bf16*>(t.query));
    pack_rows_turned<MR>(t.query, dim / 2, rows, dim / 2, t.packed_query);
  }
  static void keys(const Tile& t, const CacheRows<bf16>& cache, int64_t k0, int64_t count) {
    bf16* raw = reinterpret_cast<bf16*>(t.rows);
    cache.raw(cache.key_data, k0, count, raw);
    pack_rows_turned<NR>(words(raw), cache.dim / 2, count, cache.dim / 2, t.packed);
  }
  static void weights(const Tile& t, int64_t rows, int64_t keys) {
    // In place: a row of words takes half of its row of floats. Past the last key stands 0.
    for (int64_t r = 0; r < rows; ++r) {
      float* row = t.scores + r * KEYS;
      if (keys % 2) row[keys] = 0.0f;
      round_row(row, keys + keys % 2, reinterpret_cast<bf16*>(row));
    }
    pack_rows_turned<MR>(t.scores, KEYS, rows, depth(keys), t.packed_scores);
  }
  static void values(const Tile& t, const CacheRows<bf16>& cache, int64_t k0, int64_t count) {
    bf16* raw = reinterpret_cast<bf16*>(t.rows);
    cache.raw(cache.value_data, k0, count, raw);
    if (count % 2) std::memset(raw + count * cache.dim, 0, sizeof(bf16) * size_t(cache.dim));
    for (int64_t first = 0; first < cache.dim; first += NR)
      for (int64_t k = 0; k < depth(count); ++k) {
        const bf16* even = raw + 2 * k * cache.dim + first;
        interleave(even, even + cache.dim, std::min<int64_t>(NR, cache.dim - first),
                   t.packed + first * depth(count) + k * NR);
      }
  }
  // Words of (even[i], odd[i]), then zeros up to NR.
  static void interleave(const bf16* even, const bf16* odd, int64_t count, float* out) {
    int64_t i = 0;
    for (; i + VW <= count; i += VW) {
      const vu low = widen(*reinterpret_cast<const vh_any*>(even + i));
      const vu high = widen(*reinterpret_cast<const vh_any*>(odd + i));
      const vu both = low | high << 16;
      std::memcpy(out + i, &both, sizeof both);
    }
    for (; i < NR; ++i) {
      const uint32_t both = i < count ? uint32_t(even[i].bits) | uint32_t(odd[i].bits) << 16 : 0;
      std::memcpy(out + i, &both, 4);
    }
  }
};

}  // namespace ISA
}  // namespace mf
