// Packing rows and columns into panels by whole vectors: blocks of VW x VW floats turn in registers.
#pragma once

#include "tile.h"

namespace mf {
namespace ISA {

#if defined(__AVX512F__)
#define MF_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define MF_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define MF_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define MF_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define MF_LOW 0, 4, 1, 5
#define MF_HIGH 2, 6, 3, 7
#endif

// The elements of two vectors taken in turn: those of their first halves, those of their second halves.
#if defined(__clang__)
static inline vf zip_low(vf a, vf b) { return __builtin_shufflevector(a, b, MF_LOW); }
static inline vf zip_high(vf a, vf b) { return __builtin_shufflevector(a, b, MF_HIGH); }
#else
static inline vf zip_low(vf a, vf b) { return __builtin_shuffle(a, b, vi{MF_LOW}); }
static inline vf zip_high(vf a, vf b) { return __builtin_shuffle(a, b, vi{MF_HIGH}); }
#endif
#undef MF_LOW
#undef MF_HIGH

// Rows to columns. Each round takes rows i and i + VW/2 in turn; after log2(VW) rounds the block has turned.
static inline void turn_block(vf* rows) {
#pragma GCC unroll 4
  for (int width = 1; width < VW; width *= 2) {
    vf next[VW];
#pragma GCC unroll 16
    for (int i = 0; i < VW / 2; ++i) {
      next[2 * i] = zip_low(rows[i], rows[i + VW / 2]);
      next[2 * i + 1] = zip_high(rows[i], rows[i + VW / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < VW; ++i) rows[i] = next[i];
  }
}

// As pack_rows: source[lane * lane_step + k] -> out[k][WIDTH].
template <int WIDTH>
static inline void pack_rows_turned(const float* source, int64_t lane_step, int64_t count, int64_t depth, float* out) {
  for (int64_t first = 0; first < count; first += WIDTH, out += WIDTH * depth) {
    const float* panel = source + first * lane_step;
    if (count - first < WIDTH) return pack_rows<WIDTH>(panel, lane_step, count - first, depth, out);
    int64_t k = 0;
    for (; k + VW <= depth; k += VW) {
#pragma GCC unroll 8
      for (int lane = 0; lane < WIDTH; lane += VW) {
        const int lanes = WIDTH - lane < VW ? WIDTH - lane : VW;
        vf block[VW] = {};
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) block[i] = load(panel + (lane + i) * lane_step + k);
        turn_block(block);
#pragma GCC unroll 16
        for (int i = 0; i < VW; ++i)
          std::memcpy(out + (k + i) * WIDTH + lane, &block[i], sizeof(float) * size_t(lanes));
      }
    }
    for (; k < depth; ++k)
      for (int lane = 0; lane < WIDTH; ++lane) out[k * WIDTH + lane] = panel[lane * lane_step + k];
  }
}

template <int WIDTH, class T>
static inline void pack_rows_turned(const T* source, int64_t lane_step, int64_t count, int64_t depth, float* out) {
  pack_rows<WIDTH>(source, lane_step, count, depth, out);  // shorter types widen on the way
}

// As pack_columns: source[k * depth_step + lane] -> out[k][WIDTH].
template <int WIDTH>
static inline void pack_columns_whole(const float* source, int64_t depth_step, int64_t count, int64_t depth,
                                      float* out) {
  for (int64_t first = 0; first < count; first += WIDTH, out += WIDTH * depth) {
    if (count - first < WIDTH) return pack_columns<WIDTH>(source + first, depth_step, count - first, depth, out);
    for (int64_t k = 0; k < depth; ++k)
      std::memcpy(out + k * WIDTH, source + k * depth_step + first, sizeof(float) * WIDTH);
  }
}
template <int WIDTH, class T>
static inline void pack_columns_whole(const T* source, int64_t depth_step, int64_t count, int64_t depth, float* out) {
  pack_columns<WIDTH>(source, depth_step, count, depth, out);
}

}  // namespace ISA
}  // namespace mf
