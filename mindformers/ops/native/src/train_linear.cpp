// Gradients of a linear layer, and the output layer with its cross entropy.

#include <cmath>

#include "kernels.h"
#include "kernels_train.h"
#include "pointwise.h"
#include "train_sums.h"

#include <vector>

namespace mf {
namespace ISA {
namespace {

constexpr int64_t LOGIT_BYTES = int64_t(64) << 20;  // of a chunk's logits, about
constexpr int64_t CHUNK = 256;                      // tokens of a chunk at least: the products stay large

// Logits of a row to their gradient, weight * (softmax - onehot); returns weight * the negative log likelihood.
double loss_row(float* row, int64_t n, int64_t label, float weight) {
  vf tops = splat(row[0]);
  int64_t i = 0;
  for (; i + VW <= n; i += VW) tops = max(tops, load(row + i));
  float top = max_of(tops);
  for (; i < n; ++i) top = row[i] > top ? row[i] : top;
  const float picked = row[label];
  vf parts = {}, parts_b = {};
  for (i = 0; i + 2 * VW <= n; i += 2 * VW) {
    vf a = exp(load(row + i) - top), b = exp(load(row + i + VW) - top);
    store(row + i, a);
    store(row + i + VW, b);
    parts += a;
    parts_b += b;
  }
  float total = sum(parts + parts_b);
  for (; i < n; ++i) total += row[i] = std::exp(row[i] - top);
  const float share = weight / total;
  for (i = 0; i + VW <= n; i += VW) store(row + i, load(row + i) * share);
  for (; i < n; ++i) row[i] *= share;
  row[label] -= weight;
  return double(weight) * (std::log(double(total)) + double(top) - double(picked));
}

// The tokens whose loss counts, chunk by chunk.
struct Chunk {
  const int32_t* tokens;
  int64_t count;
  float *logits, *hidden, *dhidden;
  double* losses;
};

void run_chunk(const HeadCall& call, const Chunk& chunk, bool is_first) {
  const Weight& w = *call.head;
  const int64_t cols = w.cols, vocab = w.rows;
  for (int64_t i = 0; i < chunk.count; ++i)
    std::memcpy(chunk.hidden + i * cols, call.hidden + chunk.tokens[i] * cols, size_t(cols) * 4);
  linear_large(chunk.hidden, chunk.count, w, chunk.logits, vocab);
  each_piece(chunk.count, 4, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      const int64_t t = chunk.tokens[i];
      chunk.losses[i] = loss_row(chunk.logits + i * vocab, vocab, call.labels[t], call.weights[t]);
    }
  });
  linear_backward(chunk.hidden, chunk.logits, chunk.count, w, call.dhidden ? chunk.dhidden : nullptr, nullptr, nullptr);
  if (call.dhead)
    gemm(Matrix{chunk.logits, vocab, F32, true}, Matrix{chunk.hidden, cols, F32, false}, vocab, cols, chunk.count,
         call.dhead, cols, !is_first);
  for (int64_t i = 0; i < chunk.count && call.dhidden; ++i)
    std::memcpy(call.dhidden + chunk.tokens[i] * cols, chunk.dhidden + i * cols, size_t(cols) * 4);
}

}  // namespace

void linear_backward(const float* x, const float* dy, int64_t tokens, const Weight& w, float* dx, float* dw,
                     float* db) {
  const Matrix weight{w.part[0].data, w.cols, DType(w.dtype), false};
  if (dx) gemm(Matrix{dy, w.rows, F32, false}, weight, tokens, w.cols, w.rows, dx, w.cols, false);
  if (dw)
    gemm(Matrix{dy, w.rows, F32, true}, Matrix{x, w.cols, F32, false}, w.rows, w.cols, tokens, dw, w.cols, false);
  if (db)
    sum_over_rows(tokens, w.rows, db, [&](int64_t first, int64_t count, float* sums) {
      for (int64_t t = first; t < first + count; ++t) add_row(sums, dy + t * w.rows, w.rows);
    });
}

void head_loss(const HeadCall& call) {
  const int64_t cols = call.head->cols, vocab = call.head->rows;
  std::vector<int32_t> counted;
  for (int64_t t = 0; t < call.tokens; ++t)
    if (call.weights[t] != 0.0f) counted.push_back(int32_t(t));
  const int64_t total = int64_t(counted.size());
  if (call.dhidden && total < call.tokens) std::memset(call.dhidden, 0, size_t(call.tokens * cols) * 4);
  if (call.dhead && total == 0) std::memset(call.dhead, 0, size_t(vocab * cols) * 4);
  const int64_t fitting = std::max(CHUNK, LOGIT_BYTES / (4 * vocab));
  const int64_t chunks = std::max<int64_t>(1, ceil_div(total, fitting)), most = ceil_div(total, chunks);
  float* space = static_cast<float*>(scratch(Slot::SHARED, 4 * std::max<int64_t>(1, most) * (vocab + 2 * cols)));
  std::vector<double> losses(counted.size());
  for (int64_t first = 0; first < total; first += most) {
    const int64_t count = std::min(most, total - first);
    float* hidden = space + most * vocab;
    run_chunk(call, Chunk{counted.data() + first, count, space, hidden, hidden + most * cols, losses.data() + first},
              first == 0);
  }
  *call.loss = 0;
  for (double each : losses) *call.loss += each;
}

}  // namespace ISA
}  // namespace mf
