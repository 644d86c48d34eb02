// C = A B for large matrices: blocks of A packed once by all threads, blocks of B packed by whoever takes them.

#include <algorithm>

#include "kernels.h"
#include "pointwise.h"
#include "quant.h"
#include "threads.h"
#include "tile.h"
#include "transpose.h"

namespace mf {
namespace ISA {
namespace {

constexpr int64_t MC = MR * 8;      // rows of A that stay in the second-level cache
constexpr int64_t M_BLOCK = 4096;   // rows of A packed at once; bounds the buffer

// Columns of C a task takes: enough to fill the packed block, few enough that all threads get their share.
int64_t task_columns(int64_t n) {
  const int64_t threads = thread_count();
  int64_t tasks = std::max<int64_t>(1, ceil_div(n, 256));
  tasks = round_up(tasks, threads);
  return std::max<int64_t>(NR, round_up(ceil_div(n, tasks), NR));
}

template <bool PAIRS = false, class PackA, class PackB>
void product(int64_t m, int64_t n, int64_t k, const PackA& pack_a, const PackB& pack_b, float* c,
             int64_t ldc, bool accumulate) {
  const int64_t columns = task_columns(n), tasks = ceil_div(n, columns);
  const int64_t panel_rows = round_up(std::min(m, M_BLOCK), MR);
  float* packed_a = static_cast<float*>(scratch(Slot::PACKED_A, 4 * panel_rows * std::min<int64_t>(k, KC)));
  for (int64_t m0 = 0; m0 < m; m0 += M_BLOCK) {
    const int64_t rows = std::min(M_BLOCK, m - m0), panels = ceil_div(rows, MR);
    for (int64_t k0 = 0; k0 < k; k0 += KC) {
      const int64_t depth = std::min<int64_t>(KC, k - k0);
      const int64_t group = std::max<int64_t>(1, ceil_div(panels, 4 * thread_count()));
      parallel(ceil_div(panels, group), [&](int64_t index) {
        const int64_t first = index * group * MR, count = std::min(group * MR, rows - first);
        pack_a(m0 + first, count, k0, depth, packed_a + first * depth);
      });
      parallel(tasks, [&](int64_t index) {
        const int64_t n0 = index * columns, width = std::min(columns, n - n0);
        float* packed_b = static_cast<float*>(scratch(Slot::PACKED_B, columns * KC * 4));
        pack_b(n0, width, k0, depth, packed_b);
        for (int64_t i = 0; i < rows; i += MC)
          packed_product<PAIRS>(std::min(MC, rows - i), width, depth, packed_a + i * depth, packed_b,
                         c + (m0 + i) * ldc + n0, ldc, accumulate || k0 > 0);
      });
    }
  }
}

template <class PackB>
void with_a(const Matrix& a, int64_t m, int64_t n, int64_t k, const PackB& pack_b, float* c, int64_t ldc,
            bool accumulate) {
  const float* data = static_cast<const float*>(a.data);
  if (a.is_transposed) {
    product(m, n, k, [=](int64_t m0, int64_t count, int64_t k0, int64_t depth, float* out) {
      pack_columns_whole<MR>(data + k0 * a.step + m0, a.step, count, depth, out);
    }, pack_b, c, ldc, accumulate);
  } else {
    product(m, n, k, [=](int64_t m0, int64_t count, int64_t k0, int64_t depth, float* out) {
      pack_rows_turned<MR>(data + m0 * a.step + k0, a.step, count, depth, out);
    }, pack_b, c, ldc, accumulate);
  }
}

template <class T>
void with_b(const Matrix& a, const Matrix& b, int64_t m, int64_t n, int64_t k, float* c, int64_t ldc,
            bool accumulate) {
  const T* data = static_cast<const T*>(b.data);
  if (b.is_transposed) {
    with_a(a, m, n, k, [=](int64_t n0, int64_t count, int64_t k0, int64_t depth, float* out) {
      pack_rows_turned<NR>(data + n0 * b.step + k0, b.step, count, depth, out);
    }, c, ldc, accumulate);
  } else {
    with_a(a, m, n, k, [=](int64_t n0, int64_t count, int64_t k0, int64_t depth, float* out) {
      pack_columns_whole<NR>(data + k0 * b.step + n0, b.step, count, depth, out);
    }, c, ldc, accumulate);
  }
}

// x rounded to bfloat16, as words of two.
const float* rounded_words(const float* x, int64_t tokens, int64_t cols) {
  bf16* rounded = static_cast<bf16*>(scratch(Slot::ROUNDED, tokens * cols * 2));
  parallel(ceil_div(tokens, 16), [&](int64_t index) {
    const int64_t first = index * 16 * cols, stop = std::min(tokens, index * 16 + 16) * cols;
    round_row(x + first, stop - first, rounded + first);
  });
  return reinterpret_cast<const float*>(rounded);
}

// y = x W^T of words of two bfloat16, sums in float.
void pairs_product(const float* x, int64_t tokens, const Part& part, int64_t words, float* y, int64_t ldy) {
  const float* w = static_cast<const float*>(part.data);
  product<true>(tokens, part.rows, words, [=](int64_t m0, int64_t count, int64_t k0, int64_t depth, float* out) {
    pack_rows_turned<MR>(x + m0 * words + k0, words, count, depth, out);
  }, [=](int64_t n0, int64_t count, int64_t k0, int64_t depth, float* out) {
    pack_rows_turned<NR>(w + n0 * words + k0, words, count, depth, out);
  }, y, ldy, false);
}

}  // namespace

void gemm(const Matrix& a, const Matrix& b, int64_t m, int64_t n, int64_t k, float* c, int64_t ldc,
          bool accumulate) {
  if (b.dtype == BF16) {
    with_b<bf16>(a, b, m, n, k, c, ldc, accumulate);
  } else if (b.dtype == F16) {
    with_b<f16>(a, b, m, n, k, c, ldc, accumulate);
  } else {
    with_b<float>(a, b, m, n, k, c, ldc, accumulate);
  }
}

void linear_large(const float* x, int64_t tokens, const Weight& w, float* y, int64_t ldy) {
  const Matrix a{x, w.cols, F32, false};
  const float* words = uses_pairs(w) ? rounded_words(x, tokens, w.cols) : nullptr;
  int64_t first = 0;
  for (int p = 0; p < w.parts; ++p) {
    const Part& part = w.part[p];
    if (w.dtype == I8 || w.dtype == I4) {
      with_a(a, tokens, part.rows, w.cols,
             [&](int64_t n0, int64_t count, int64_t k0, int64_t depth, float* out) {
               pack_quantized<NR>(w, part, n0, count, k0, depth, out);
             }, y + first, ldy, false);
    } else if (words) {
      pairs_product(words, tokens, part, w.cols / 2, y + first, ldy);
    } else {
      gemm(a, Matrix{part.data, w.cols, DType(w.dtype), true}, tokens, part.rows, w.cols, y + first, ldy,
           false);
    }
    first += part.rows;
  }
  if (!w.bias) return;
  parallel(ceil_div(tokens, 16), [&](int64_t index) {
    for (int64_t t = index * 16; t < std::min(tokens, index * 16 + 16); ++t) add_row(y + t * ldy, w.bias, w.rows);
  });
}

}  // namespace ISA
}  // namespace mf
