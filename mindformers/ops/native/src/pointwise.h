// Work on single rows: norm, rotation, gated activation. Rows are float; callers share them out among threads.
#pragma once

#include <cmath>

#include "simd.h"

namespace mf {
namespace ISA {

// x += r (r may be null), out = x / sqrt(mean(x^2) + eps) * weight. Returns the factor 1 / sqrt(...).
static inline float rms_norm_row(float* x, const float* r, const float* weight, float eps, int64_t n,
                                 float* out) {
  vf squares = {}, squares_b = {};
  int64_t i = 0;
  float tail = 0;
  for (; i + 2 * VW <= n; i += 2 * VW) {
    vf a = load(x + i), b = load(x + i + VW);
    if (r) {
      a += load(r + i);
      b += load(r + i + VW);
      store(x + i, a);
      store(x + i + VW, b);
    }
    squares += a * a;
    squares_b += b * b;
  }
  for (; i < n; ++i) {
    if (r) x[i] += r[i];
    tail += x[i] * x[i];
  }
  const float factor = 1.0f / std::sqrt((sum(squares + squares_b) + tail) / float(n) + eps);
  for (i = 0; i + VW <= n; i += VW) store(out + i, load(x + i) * factor * load(weight + i));
  for (; i < n; ++i) out[i] = x[i] * factor * weight[i];
  return factor;
}

static inline void add_row(float* x, const float* r, int64_t n) {
  int64_t i = 0;
  for (; i + VW <= n; i += VW) store(x + i, load(x + i) + load(r + i));
  for (; i < n; ++i) x[i] += r[i];
}

// out = x * factor; may be done in place.
static inline void scale_row(const float* x, float factor, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + VW <= n; i += VW) store(out + i, load(x + i) * factor);
  for (; i < n; ++i) out[i] = x[i] * factor;
}

// out = gate * sigmoid(gate) * up.
static inline void swiglu_row(const float* gate, const float* up, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + VW <= n; i += VW) {
    vf g = load(gate + i);
    store(out + i, g / (1.0f + exp(-g)) * load(up + i));
  }
  for (; i < n; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

// Rotates the first 2 * pairs channels of a head in place; angles: (pairs, 2), cos and sin.
static inline void rotate_head(float* head, const float* angles, int64_t pairs) {
  for (int64_t j = 0; j < pairs; ++j) {
    const float c = angles[2 * j], s = angles[2 * j + 1], even = head[2 * j], odd = head[2 * j + 1];
    head[2 * j] = even * c - odd * s;
    head[2 * j + 1] = odd * c + even * s;
  }
}

template <class T>
static inline void copy_row(const T* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + VW <= n; i += VW) store(to + i, load(from + i));
  for (; i < n; ++i) to[i] = to_float(from[i]);
}

// To bfloat16, to nearest; may be done in place.
static inline void round_row(const float* from, int64_t count, bf16* to) {
  int64_t i = 0;
  for (; i + VW <= count; i += VW) store(to + i, load(from + i));
  for (; i < count; ++i) assign(to[i], from[i]);
}

static inline float dot_row(const float* a, const float* b, int64_t n) {
  vf parts = {};
  int64_t i = 0;
  for (; i + VW <= n; i += VW) parts += load(a + i) * load(b + i);
  v4 rest = {};
  for (; i + 4 <= n; i += 4) rest += load_4(a + i) * load_4(b + i);
  float total = sum(parts) + ((rest[0] + rest[1]) + (rest[2] + rest[3]));
  for (; i < n; ++i) total += a[i] * b[i];
  return total;
}

constexpr float HIDDEN = -1e30f;  // a score below every other one

// Scores of a row of keys, times scale, to weights; what lies from `seen` on is hidden. top and total go on from the
// tiles before, what was mixed so far is rescaled.
static inline void soften(float* row, int64_t seen, int64_t keys, float scale, float& top, float& total, float* mixed,
                          int64_t dim) {
  vf tops = splat(HIDDEN);
  int64_t i = 0;
  for (; i + VW <= seen; i += VW) tops = max(tops, load(row + i));
  float high = max_of(tops);
  for (; i < seen; ++i) high = row[i] > high ? row[i] : high;
  high *= scale;
  if (high <= HIDDEN * scale) {  // no key of this tile is seen
    std::memset(row, 0, size_t(keys) * 4);
    return;
  }
  high = top > high ? top : high;
  vf parts = {};
  for (i = 0; i + VW <= seen; i += VW) {
    vf e = exp(load(row + i) * scale - high);
    store(row + i, e);
    parts += e;
  }
  float added = sum(parts);
  for (; i < seen; ++i) added += row[i] = std::exp(row[i] * scale - high);
  for (; i < keys; ++i) row[i] = 0.0f;
  const float keep = std::exp(top - high);
  top = high;
  total = total * keep + added;
  if (keep == 1.0f) return;
  scale_row(mixed, keep, dim, mixed);
}

}  // namespace ISA
}  // namespace mf
