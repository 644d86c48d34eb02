// The register tile every large product is made of: packed panels of A (MR rows) times panels of B (NR columns).
//
// Panel layouts: A [k][MR], B [k][NR]; what is past the edge of a matrix is zero, so a tile has one size.
#pragma once

#include "simd.h"

namespace mf {
namespace ISA {

constexpr int KC = 768;  // depth of a packed block: a panel of it stays in the nearest caches, C is seldom touched

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Where the CPU multiplies pairs of bfloat16, a panel may hold two in the place of each float ("words"): the tile then
// adds a0 * b0 + a1 * b1 in float, twice the work in the same time.
#if defined(__AVX512BF16__)
constexpr bool HAS_PAIRS = true;
static inline vf multiply_pairs(vf sum, vf a, vf b) {
  return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#else
constexpr bool HAS_PAIRS = false;
static inline vf multiply_pairs(vf sum, vf, vf) { return sum; }
#endif
// Whether inputs are rounded to bfloat16 and multiplied in pairs; the same for any number of tokens, so that a row does
// not depend on what else is in its batch.
static inline bool uses_pairs(const Weight& w) {
  return HAS_PAIRS && w.dtype == BF16 && w.compute == BF16 && w.cols % 2 == 0;
}
// C (MR, NR) = or += A panel * B panel, all columns and rows of the tile.
template <bool PAIRS = false>
static inline void full_tile(int64_t depth, const float* a, const float* b, float* c, int64_t ldc,
                             bool accumulate) {
  vf acc[MR][NV];
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) acc[i][j] = vf{};
  // C is needed last and lies farthest: asked for now, it is there by then.
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) __builtin_prefetch(c + i * ldc + j * VW, 1, 3);
  for (int64_t k = 0; k < depth; ++k) {
    vf column[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) column[j] = load(b + k * NR + j * VW);
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i) {
      vf row = PAIRS ? splat_word(a + k * MR + i) : splat(a[k * MR + i]);
#pragma GCC unroll 2
      for (int j = 0; j < NV; ++j) acc[i][j] = PAIRS ? multiply_pairs(acc[i][j], row, column[j]) : acc[i][j] + row * column[j];
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) {
      float* target = c + i * ldc + j * VW;
      store(target, accumulate ? load(target) + acc[i][j] : acc[i][j]);
    }
}

// The same for a tile of which only (rows, columns) lie inside C.
template <bool PAIRS = false>
static inline void edge_tile(int64_t depth, const float* a, const float* b, float* c, int64_t ldc,
                             bool accumulate, int64_t rows, int64_t columns) {
  alignas(64) float whole[MR * NR];
  full_tile<PAIRS>(depth, a, b, whole, NR, false);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      c[i * ldc + j] = accumulate ? c[i * ldc + j] + whole[i * NR + j] : whole[i * NR + j];
}

// C (m, n) = or += A * B from packed panels of one depth.
template <bool PAIRS = false>
static inline void packed_product(int64_t m, int64_t n, int64_t depth, const float* a, const float* b,
                                  float* c, int64_t ldc, bool accumulate) {
  for (int64_t j = 0; j < n; j += NR) {
    const float* panel = b + j * depth;
    for (int64_t i = 0; i < m; i += MR) {
      const int64_t rows = m - i < MR ? m - i : MR, columns = n - j < NR ? n - j : NR;
      float* target = c + i * ldc + j;
      if (rows == MR && columns == NR) {
        full_tile<PAIRS>(depth, a + i * depth, panel, target, ldc, accumulate);
      } else {
        edge_tile<PAIRS>(depth, a + i * depth, panel, target, ldc, accumulate, rows, columns);
      }
    }
  }
}

// Writes four rows of four elements as columns: out[k * step + lane].
static inline void transpose_4(v4 a, v4 b, v4 c, v4 d, float* out, int64_t step) {
  const v4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const v4 cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  store_4(out, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
  store_4(out + step, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
  store_4(out + 2 * step, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
  store_4(out + 3 * step, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
}

// Packs `count` lanes (rows of A, columns of B) whose elements lie `lane_step` apart and whose depth elements
// lie side by side: source[lane * lane_step + k] -> out[k][WIDTH].
template <int WIDTH, class T>
static inline void pack_rows(const T* source, int64_t lane_step, int64_t count, int64_t depth, float* out) {
  for (int64_t first = 0; first < count; first += WIDTH, out += WIDTH * depth) {
    const int64_t lanes = count - first < WIDTH ? count - first : WIDTH;
    if (lanes < WIDTH) std::memset(out, 0, sizeof(float) * size_t(WIDTH * depth));
    int64_t lane = 0;
    for (; lane + 4 <= lanes; lane += 4) {
      const T* row = source + (first + lane) * lane_step;
      int64_t k = 0;
      for (; k + 4 <= depth; k += 4)
        transpose_4(load_4(row + k), load_4(row + lane_step + k), load_4(row + 2 * lane_step + k),
                    load_4(row + 3 * lane_step + k), out + k * WIDTH + lane, WIDTH);
      for (; k < depth; ++k)
        for (int i = 0; i < 4; ++i) out[k * WIDTH + lane + i] = to_float(row[i * lane_step + k]);
    }
    for (; lane < lanes; ++lane) {
      const T* row = source + (first + lane) * lane_step;
      for (int64_t k = 0; k < depth; ++k) out[k * WIDTH + lane] = to_float(row[k]);
    }
  }
}

// Packs lanes that lie side by side: source[k * depth_step + lane] -> out[k][WIDTH].
template <int WIDTH, class T>
static inline void pack_columns(const T* source, int64_t depth_step, int64_t count, int64_t depth,
                                float* out) {
  for (int64_t first = 0; first < count; first += WIDTH, out += WIDTH * depth) {
    const int64_t lanes = count - first < WIDTH ? count - first : WIDTH;
    for (int64_t k = 0; k < depth; ++k) {
      const T* row = source + k * depth_step + first;
      float* target = out + k * WIDTH;
      int64_t lane = 0;
      for (; lane + VW <= lanes; lane += VW) store(target + lane, load(row + lane));
      for (; lane < lanes; ++lane) target[lane] = to_float(row[lane]);
      for (; lane < WIDTH; ++lane) target[lane] = 0.0f;
    }
  }
}

}  // namespace ISA
}  // namespace mf
