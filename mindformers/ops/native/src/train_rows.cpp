// Norm, gated activation, rotation and embedding with their gradients: work on rows of tokens.

#include <cmath>

#include "kernels_train.h"
#include "pointwise.h"
#include "quant.h"
#include "train_sums.h"

namespace mf {
namespace ISA {
namespace {

constexpr int64_t PIECE = 32;  // rows a task takes

// dx of one row; adds the row's share of dweight unless it is null.
void norm_row_backward(const float* x, const float* weight, float eps, const float* dout, int64_t n, float* dx,
                       float* dweight) {
  vf squares = {}, products = {};
  float square = 0, product = 0;
  int64_t i = 0;
  for (; i + VW <= n; i += VW) {
    vf a = load(x + i);
    squares += a * a;
    products += a * load(dout + i) * load(weight + i);
  }
  for (; i < n; ++i) {
    square += x[i] * x[i];
    product += x[i] * dout[i] * weight[i];
  }
  const float factor = 1.0f / std::sqrt((sum(squares) + square) / float(n) + eps);
  const float back = (sum(products) + product) * factor * factor * factor / float(n);
  if (dx) {
    for (i = 0; i + VW <= n; i += VW)
      store(dx + i, load(dout + i) * load(weight + i) * factor - load(x + i) * back);
    for (; i < n; ++i) dx[i] = dout[i] * weight[i] * factor - x[i] * back;
  }
  if (!dweight) return;
  for (i = 0; i + VW <= n; i += VW)
    store(dweight + i, load(dweight + i) + load(dout + i) * load(x + i) * factor);
  for (; i < n; ++i) dweight[i] += dout[i] * x[i] * factor;
}

// With s = sigmoid(gate): dgate = dout up s (1 + gate (1 - s)), dup = dout gate s.
void swiglu_row_backward(const float* gate, const float* up, const float* dout, int64_t n, float* dgate, float* dup) {
  int64_t i = 0;
  for (; i + VW <= n; i += VW) {
    vf g = load(gate + i), d = load(dout + i), s = 1.0f / (1.0f + exp(-g));
    vf u = load(up + i);
    store(dup + i, d * g * s);
    store(dgate + i, d * u * s * (1.0f + g * (1.0f - s)));
  }
  for (; i < n; ++i) {
    const float g = gate[i], u = up[i], s = 1.0f / (1.0f + std::exp(-g));
    dup[i] = dout[i] * g * s;
    dgate[i] = dout[i] * u * s * (1.0f + g * (1.0f - s));
  }
}

template <class T>
void gather_rows(const void* table, const int32_t* ids, int64_t tokens, int64_t width, float* out) {
  const T* rows = static_cast<const T*>(table);
  each_piece(tokens, PIECE, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) copy_row(rows + ids[t] * width, width, out + t * width);
  });
}

void gather_rounded(const Weight& table, const int32_t* ids, int64_t tokens, float* out) {
  each_piece(tokens, PIECE, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t)
      for (int64_t k = 0; k < table.cols; k += 32)
        dequantize_32(table, table.part[0], ids[t], k, out + t * table.cols + k);
  });
}

}  // namespace

void rms_norm_forward(const float* x, const float* weight, float eps, int64_t rows, int64_t width, float* out) {
  each_piece(rows, PIECE, [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r)
      rms_norm_row(const_cast<float*>(x + r * width), nullptr, weight, eps, width, out + r * width);
  });
}

void rms_norm_backward(const float* x, const float* weight, float eps, const float* dout, int64_t rows, int64_t width,
                       float* dx, float* dweight) {
  auto each_row = [&](int64_t first, int64_t count, float* sums) {
    for (int64_t r = first; r < first + count; ++r)
      norm_row_backward(x + r * width, weight, eps, dout + r * width, width, dx ? dx + r * width : nullptr, sums);
  };
  if (dweight) return sum_over_rows(rows, width, dweight, each_row);
  each_piece(rows, PIECE, [&](int64_t first, int64_t count) { each_row(first, count, nullptr); });
}

void swiglu_forward(const float* gate, const float* up, int64_t step, int64_t rows, int64_t width, float* out) {
  each_piece(rows, PIECE, [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r)
      swiglu_row(gate + r * step, up + r * step, width, out + r * width);
  });
}

void swiglu_backward(const float* gate, const float* up, int64_t step, const float* dout, int64_t rows, int64_t width,
                     float* dgate, float* dup) {
  each_piece(rows, PIECE, [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r)
      swiglu_row_backward(gate + r * step, up + r * step, dout + r * width, width, dgate + r * step, dup + r * step);
  });
}

void rotate(const RotateCall& call) {
  const float sign = call.is_inverse ? -1.0f : 1.0f;
  each_piece(call.rows, PIECE, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      const float *c = call.cosine + t % call.angle_rows * call.dim, *s = call.sine + t % call.angle_rows * call.dim;
      for (int64_t h = 0; h < call.heads; ++h) {
        float* head = call.data + t * call.step + h * call.dim;
        for (int64_t i = 0; i < 2 * call.pairs; i += 2) {
          const float even = head[i], odd = head[i + 1], turn = sign * s[i];
          head[i] = even * c[i] - odd * turn;
          head[i + 1] = odd * c[i] + even * turn;
        }
      }
    }
  });
}

void embedding_forward(const Weight& table, const int32_t* ids, int64_t tokens, float* out) {
  switch (table.dtype) {
    case BF16: return gather_rows<bf16>(table.part[0].data, ids, tokens, table.cols, out);
    case F16: return gather_rows<f16>(table.part[0].data, ids, tokens, table.cols, out);
    case I8:
    case I4: return gather_rounded(table, ids, tokens, out);
    default: return gather_rows<float>(table.part[0].data, ids, tokens, table.cols, out);
  }
}

// A task owns a range of rows and adds the tokens that fall into it, in the order of the tokens.
void embedding_backward(const float* dout, const int32_t* ids, int64_t tokens, int64_t rows, int64_t width,
                        float* dtable) {
  each_piece(rows, std::max<int64_t>(1, ceil_div(rows, 64)), [&](int64_t first, int64_t count) {
    std::memset(dtable + first * width, 0, size_t(count * width) * 4);
    for (int64_t t = 0; t < tokens; ++t)
      if (ids[t] >= first && ids[t] < first + count) add_row(dtable + ids[t] * width, dout + t * width, width);
  });
}

}  // namespace ISA
}  // namespace mf
