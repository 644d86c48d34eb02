// Vectors of the instruction set this file is compiled for, written once with the compiler's vector types.
//
// Every kernel file is compiled once per instruction set with -DISA=<name>; all that stands in namespace
// mf::ISA is private to that set, so one library holds all of them and picks one at run time.
#pragma once

#include <cstdint>
#include <cstring>

#include "types.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace mf {
namespace ISA {

#if defined(__AVX512F__)
constexpr int VW = 16;  // float lanes of a vector
constexpr int MR = 12;  // rows of a register tile
#elif defined(__AVX2__)
constexpr int VW = 8;
constexpr int MR = 6;
#elif defined(__ARM_NEON)
constexpr int VW = 4;
constexpr int MR = 12;
#else
constexpr int VW = 4;
constexpr int MR = 6;
#endif
constexpr int NV = 2;        // vectors side by side in a register tile
constexpr int NR = NV * VW;  // columns of a register tile

typedef float vf __attribute__((vector_size(VW * 4)));
typedef float vf_any __attribute__((vector_size(VW * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(VW * 4)));
typedef uint32_t vu __attribute__((vector_size(VW * 4)));
typedef uint16_t vh_any __attribute__((vector_size(VW * 2), aligned(2), may_alias));
typedef uint16_t vh __attribute__((vector_size(VW * 2)));
typedef int8_t vb __attribute__((vector_size(VW)));
typedef int8_t vb_any __attribute__((vector_size(VW), aligned(1), may_alias));

static inline vf load(const float* p) { return *reinterpret_cast<const vf_any*>(p); }
static inline void store(float* p, vf v) { *reinterpret_cast<vf_any*>(p) = v; }
static inline vf splat(float x) { return x - vf{}; }
// The 32 bits at p in every lane, whatever they stand for.
static inline vf splat_word(const float* p) {
  uint32_t bits;
  std::memcpy(&bits, p, 4);
  vu wide = bits - vu{};
  vf out;
  std::memcpy(&out, &wide, sizeof out);
  return out;
}

// To and from vectors of shorter elements, by instruction: the compiler's own conversions go by halves or by element.
#if defined(__AVX512F__)
static inline vu widen(vh h) { return (vu)_mm512_cvtepu16_epi32((__m256i)h); }
static inline vi widen(vb b) { return (vi)_mm512_cvtepi8_epi32((__m128i)b); }
static inline vh narrow_to_16(vu v) { return (vh)_mm512_cvtepi32_epi16((__m512i)v); }
static inline vb narrow_to_8(vi v) { return (vb)_mm512_cvtepi32_epi8((__m512i)v); }
#elif defined(__AVX2__)
static inline vu widen(vh h) { return (vu)_mm256_cvtepu16_epi32((__m128i)h); }
static inline vi widen(vb b) {
  int64_t bits;
  std::memcpy(&bits, &b, sizeof bits);
  return (vi)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(bits));
}
static inline vh narrow_to_16(vu v) { return __builtin_convertvector(v, vh); }
static inline vb narrow_to_8(vi v) { return __builtin_convertvector(v, vb); }
#else
static inline vu widen(vh h) { return __builtin_convertvector(h, vu); }
static inline vi widen(vb b) { return __builtin_convertvector(b, vi); }
static inline vh narrow_to_16(vu v) { return __builtin_convertvector(v, vh); }
static inline vb narrow_to_8(vi v) { return __builtin_convertvector(v, vb); }
#endif

static inline vf from_bf16(vh h) {
  vu wide = widen(h) << 16;
  vf out;
  std::memcpy(&out, &wide, sizeof out);
  return out;
}
static inline vf load(const bf16* p) { return from_bf16(*reinterpret_cast<const vh_any*>(p)); }

static inline vf load(const f16* p) {
#if defined(__AVX512F__)
  return (vf)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__) && defined(__F16C__)
  return (vf)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  vf out;
  for (int i = 0; i < VW; ++i) out[i] = to_float(p[i]);
  return out;
#endif
}
static inline vf load(const int8_t* p) {
  return __builtin_convertvector(widen(*reinterpret_cast<const vb_any*>(p)), vf);
}

static inline vf load(const uint8_t* p) {
  return __builtin_convertvector(widen(*reinterpret_cast<const vb_any*>(p)) & 255, vf);
}

// Rounds to nearest, ties to even; NaN stays NaN.
static inline void store(bf16* p, vf v) {
  vu bits;
  std::memcpy(&bits, &v, sizeof bits);
  vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  vu quiet = (bits >> 16) | 0x40;
  vi is_nan = (v != v);
  vu picked = ((vu)is_nan & quiet) | (~(vu)is_nan & rounded);
  *reinterpret_cast<vh_any*>(p) = narrow_to_16(picked);
}

typedef float v4 __attribute__((vector_size(16)));

typedef float v4_any __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint16_t h4_any __attribute__((vector_size(8), aligned(2), may_alias));
typedef uint32_t u4 __attribute__((vector_size(16)));
static inline v4 load_4(const float* p) { return *reinterpret_cast<const v4_any*>(p); }
static inline v4 load_4(const bf16* p) {
  u4 wide = __builtin_convertvector(*reinterpret_cast<const h4_any*>(p), u4) << 16;
  v4 out;
  std::memcpy(&out, &wide, sizeof out);
  return out;
}
static inline v4 load_4(const f16* p) { return v4{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])}; }
static inline void store_4(float* p, v4 v) { *reinterpret_cast<v4_any*>(p) = v; }

static inline float sum(vf v) {
  v4 part[VW / 4];
  std::memcpy(part, &v, sizeof v);
#if defined(__AVX512F__)
  v4 four = (part[0] + part[1]) + (part[2] + part[3]);
#elif defined(__AVX2__)
  v4 four = part[0] + part[1];
#else
  v4 four = part[0];
#endif
  return (four[0] + four[1]) + (four[2] + four[3]);
}

#if defined(__AVX512F__)
static inline vf max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
static inline vf min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
#else
static inline vf max(vf a, vf b) { return a > b ? a : b; }
static inline vf min(vf a, vf b) { return a < b ? a : b; }
#endif

static inline float max_of(vf v) {
  v4 part[VW / 4];
  std::memcpy(part, &v, sizeof v);
  v4 top = part[0];
  for (int i = 1; i < VW / 4; ++i) top = part[i] > top ? part[i] : top;
  const float a = top[0] > top[1] ? top[0] : top[1], b = top[2] > top[3] ? top[2] : top[3];
  return a > b ? a : b;
}

// e^r for r up to half of log 2, by a polynomial.
static inline vf exp_near_zero(vf r) {
  vf p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * r * r + r + 1.0f;
}

// e^x with a relative error below 2e-7; 0 below -87.3, +inf above 88.7.
static inline vf exp(vf x) {
  const vf low = splat(-87.33654f), high = splat(88.72283f);
#if defined(__AVX512F__)
  const __mmask16 is_over = _mm512_cmp_ps_mask((__m512)x, (__m512)high, _CMP_GT_OQ);
  const __mmask16 is_there = _mm512_cmp_ps_mask((__m512)x, (__m512)low, _CMP_NLT_UQ);  // NaN stays NaN
  const vf n = (vf)_mm512_roundscale_ps((__m512)(x * 1.44269504f), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const vf r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  const __m512 whole = _mm512_maskz_scalef_ps(is_there, (__m512)exp_near_zero(r), (__m512)n);
  return (vf)_mm512_mask_mov_ps(whole, is_over, (__m512)splat(__builtin_inff()));
#else
  vi is_under = x < low, is_over = x > high;
  vf bounded = min(max(x, low), high);
  vf whole = bounded * 1.44269504f;
  vi n = __builtin_convertvector(whole + (whole < 0.0f ? splat(-0.5f) : splat(0.5f)), vi);
  vf nf = __builtin_convertvector(n, vf);
  vf p = exp_near_zero((bounded - nf * 0.693145752f) - nf * 1.42860677e-6f);
  // 2^n in two factors, so that n = 128 and the smallest normal numbers come out right.
  vi half = n >> 1;
  vi first = (half + 127) << 23, second = (n - half + 127) << 23;
  vf scale_first, scale_second;
  std::memcpy(&scale_first, &first, sizeof first);
  std::memcpy(&scale_second, &second, sizeof second);
  vf out = p * scale_first * scale_second;
  out = is_under ? vf{} : out;
  out = is_over ? splat(__builtin_inff()) : out;
  return x != x ? x : out;
#endif
}

}  // namespace ISA
}  // namespace mf
