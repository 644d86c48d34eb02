// Integer dot products of quantized weights and quantized activations, one step of columns at a time.
//
// A step of int4 is BLOCKS blocks of 32 columns: 16 bytes hold the block's first half in their low and its
// second half in their high nibbles, so 128 bits of a vector are one block. A step of int8 is one vector of
// plain columns. Lanes holds the partial sums of a step as float, four for each 128 bits.
#pragma once

#include "simd.h"

namespace mf {
namespace ISA {

// MOST_...: tokens up to which products of integers are faster than restoring the weights for one of floats.
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
constexpr int BLOCKS = 4;
constexpr int64_t MOST_INT8 = INT64_MAX, MOST_INT4 = INT64_MAX;
#elif defined(__AVX2__)
constexpr int BLOCKS = 2;
constexpr int64_t MOST_INT8 = 96, MOST_INT4 = INT64_MAX;
#elif defined(__ARM_NEON)
constexpr int BLOCKS = 1;
constexpr int64_t MOST_INT8 = 32, MOST_INT4 = 32;
#else
constexpr int BLOCKS = 1;
constexpr int64_t MOST_INT8 = 8, MOST_INT4 = 8;
#endif
constexpr int LANES = 4 * BLOCKS;
typedef float Lanes __attribute__((vector_size(LANES * 4)));
typedef int32_t LaneSums __attribute__((vector_size(LANES * 4)));
typedef float lanes_any __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

static inline Lanes load_lanes(const float* p) { return *reinterpret_cast<const lanes_any*>(p); }

static inline float sum_lanes(Lanes v) {
#if defined(__AVX2__)
#if defined(__AVX512VNNI__)
  const __m512 whole = (__m512)v;
  const __m256 pair = _mm256_add_ps(_mm512_castps512_ps256(whole), _mm512_extractf32x8_ps(whole, 1));
#else
  const __m256 pair = (__m256)v;
#endif
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(pair), _mm256_extractf128_ps(pair, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

// What a kernel needs to know of a format:
//   COLUMNS, BYTES   of a step; SCALES: blocks of 32 columns it touches.
//   OFFSET           what the integers that are multiplied lie above the weights.
//   ZERO             the byte of a weight, or of two, that is 0.
//   Wide unpack(p)   the weights of a step.
//   Lanes dot(w, x, start)  their partial sums with a step of activations in the order of `place`; start: the
//                    LANES whole numbers to begin with, which take the offset off again (null where it is 0).
//   Lanes spread(p)  the scales of the step's blocks, each in the lanes of its block.
//   place(c)         where column c of a step lies among the activations.

#if defined(__AVX512VNNI__) && defined(__AVX512F__)

struct Int8 {
  static constexpr int COLUMNS = 64, BYTES = 64, SCALES = 2, OFFSET = 128, ZERO = 0;
  typedef __m512i Wide;
  static Wide unpack(const void* p) { return _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128)); }
  static Lanes dot(Wide w, const int8_t* x, const int32_t* start) {
    const __m512i total = _mm512_dpbusd_epi32(_mm512_loadu_si512(start), w, _mm512_loadu_si512(x));
    return (Lanes)_mm512_cvtepi32_ps(total);
  }
  static Lanes spread(const float* p) {
    const __m512 both = _mm512_castpd_ps(_mm512_set1_pd(*reinterpret_cast<const double_any*>(p)));
    return (Lanes)_mm512_permutevar_ps(both, _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0));
  }
  static int place(int c) { return c; }
  typedef double double_any __attribute__((aligned(4), may_alias));
};

struct Int4 {
  static constexpr int COLUMNS = 128, BYTES = 64, SCALES = 4, OFFSET = 8, ZERO = 0x88;
  struct Wide {
    __m512i low, high;
  };
  static Wide unpack(const void* p) {
    const __m512i both = _mm512_loadu_si512(p), mask = _mm512_set1_epi8(15);
    return {_mm512_and_si512(both, mask), _mm512_and_si512(_mm512_srli_epi16(both, 4), mask)};
  }
  static Lanes dot(const Wide& w, const int8_t* x, const int32_t* start) {
    const __m512i total = _mm512_dpbusd_epi32(_mm512_loadu_si512(start), w.low, _mm512_loadu_si512(x));
    return (Lanes)_mm512_cvtepi32_ps(_mm512_dpbusd_epi32(total, w.high, _mm512_loadu_si512(x + 64)));
  }
  static Lanes spread(const float* p) {
    const __m512i index = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    return (Lanes)_mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(p)), index);
  }
  static int place(int c) { return c / 32 * 16 + c % 16 + (c % 32 < 16 ? 0 : 64); }
};

#elif defined(__AVX2__)

struct Int8 {
  static constexpr int COLUMNS = 32, BYTES = 32, SCALES = 1, OFFSET = 0, ZERO = 0;
  typedef __m256i Wide;
  static Wide unpack(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  // |w| times x with the sign of w: two products are at most 2 * 128 * 127, which int16 holds.
  static Lanes dot(Wide w, const int8_t* x, const int32_t*) {
    const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(value, w));
    return (Lanes)_mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static Lanes spread(const float* p) { return (Lanes)_mm256_broadcast_ss(p); }
  static int place(int c) { return c; }
};

struct Int4 {
  static constexpr int COLUMNS = 64, BYTES = 32, SCALES = 2, OFFSET = 8, ZERO = 0x88;
  struct Wide {
    __m256i low, high;
  };
  static Wide unpack(const void* p) {
    const __m256i both = _mm256_loadu_si256(static_cast<const __m256i*>(p)), mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(both, mask), _mm256_and_si256(_mm256_srli_epi16(both, 4), mask)};
  }
  static Lanes dot(const Wide& w, const int8_t* x, const int32_t* start) {
    const __m256i* value = reinterpret_cast<const __m256i*>(x);
    const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(w.low, _mm256_loadu_si256(value)),
                                           _mm256_maddubs_epi16(w.high, _mm256_loadu_si256(value + 1)));
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(start));
    return (Lanes)_mm256_cvtepi32_ps(_mm256_add_epi32(first, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
  }
  static Lanes spread(const float* p) {
    const __m128 pair = _mm_castpd_ps(_mm_load_sd(reinterpret_cast<const double*>(p)));
    const __m256 both = _mm256_insertf128_ps(_mm256_castps128_ps256(pair), pair, 1);
    return (Lanes)_mm256_permutevar_ps(both, _mm256_set_epi32(1, 1, 1, 1, 0, 0, 0, 0));
  }
  static int place(int c) { return c / 32 * 16 + c % 16 + (c % 32 < 16 ? 0 : 32); }
};

#elif defined(__ARM_NEON)

static inline int32x4_t dot_16(int32x4_t total, int8x16_t a, int8x16_t b) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(total, a, b);
#else
  // Two products are at most 2 * 128 * 127, which int16 holds.
  int16x8_t pairs = vmull_s8(vget_low_s8(a), vget_low_s8(b));
  return vpadalq_s16(total, vmlal_s8(pairs, vget_high_s8(a), vget_high_s8(b)));
#endif
}

struct Int8 {
  static constexpr int COLUMNS = 32, BYTES = 32, SCALES = 1, OFFSET = 0, ZERO = 0;
  struct Wide {
    int8x16_t low, high;
  };
  static Wide unpack(const void* p) {
    const int8_t* q = static_cast<const int8_t*>(p);
    return {vld1q_s8(q), vld1q_s8(q + 16)};
  }
  static Lanes dot(const Wide& w, const int8_t* x, const int32_t*) {
    const int32x4_t total = dot_16(vdupq_n_s32(0), w.low, vld1q_s8(x));
    return (Lanes)vcvtq_f32_s32(dot_16(total, w.high, vld1q_s8(x + 16)));
  }
  static Lanes spread(const float* p) { return (Lanes)vdupq_n_f32(*p); }
  static int place(int c) { return c; }
};

struct Int4 : Int8 {
  static constexpr int BYTES = 16;
  // Centred here, so that the products are those of signed numbers.
  static Wide unpack(const void* p) {
    const uint8x16_t both = vld1q_u8(static_cast<const uint8_t*>(p));
    const int8x16_t middle = vdupq_n_s8(8);
    return {vsubq_s8(vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))), middle),
            vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(both, 4)), middle)};
  }
};

#else

struct Int8 {
  static constexpr int COLUMNS = 32, BYTES = 32, SCALES = 1, OFFSET = 0, ZERO = 0;
  struct Wide {
    int8_t q[32];
  };
  static Wide unpack(const void* p) {
    Wide w;
    std::memcpy(w.q, p, sizeof w.q);
    return w;
  }
  static Lanes dot(const Wide& w, const int8_t* x, const int32_t*) {
    int32_t total = 0;
    for (int i = 0; i < 32; ++i) total += int32_t(w.q[i]) * x[i];
    return Lanes{float(total), 0, 0, 0};
  }
  static Lanes spread(const float* p) { return Lanes{*p, 0, 0, 0}; }
  static int place(int c) { return c; }
};

struct Int4 : Int8 {
  static constexpr int BYTES = 16;
  static Wide unpack(const void* p) {
    const uint8_t* both = static_cast<const uint8_t*>(p);
    Wide w;
    for (int i = 0; i < 16; ++i) {
      w.q[i] = int8_t((both[i] & 15) - 8);
      w.q[i + 16] = int8_t((both[i] >> 4) - 8);
    }
    return w;
  }
};

#endif

}  // namespace ISA
}  // namespace mf
