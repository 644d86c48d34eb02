// The optimizer's update of all parameters, and sums over all gradients.

#include <cmath>
#include <vector>

#include "kernels_train.h"
#include "simd.h"
#include "train_sums.h"

namespace mf {
namespace ISA {
namespace {

constexpr int64_t PIECE = 32768;  // elements a task takes

struct Piece {
  int64_t span, first, count;
};

template <class Span>
std::vector<Piece> pieces_of(const Span* spans, int64_t count) {
  std::vector<Piece> pieces;
  for (int64_t i = 0; i < count; ++i)
    for (int64_t first = 0; first < spans[i].count; first += PIECE)
      pieces.push_back({i, first, std::min(PIECE, spans[i].count - first)});
  return pieces;
}

void adam_piece(const AdamCall& call, float decay, const float* __restrict gradient, int64_t count,
                float* __restrict weight, float* __restrict first, float* __restrict second) {
  const float keep1 = 1.0f - call.beta1, keep2 = 1.0f - call.beta2, lr = call.lr, eps = call.eps;
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * call.scale;
    const float m = call.beta1 * first[i] + keep1 * g;
    const float v = call.beta2 * second[i] + keep2 * g * g;
    first[i] = m;
    second[i] = v;
    weight[i] -= lr * (m / (std::sqrt(v) + eps) + decay * weight[i]);
  }
}

void sgd_piece(const MomentCall& call, const MomentTarget& t, const float* __restrict gradient, int64_t count,
               float* __restrict weight, float* __restrict moment) {
  const float look = call.is_ahead ? call.keep : 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    float slope = gradient[i] * call.scale + t.decay * weight[i];
    if (moment) {
      const float m = call.keep * moment[i] + call.take * slope;
      moment[i] = m;
      slope = call.is_ahead ? slope + look * m : m;
    }
    weight[i] -= t.lr * slope;
  }
}

void lion_piece(const MomentCall& call, const MomentTarget& t, const float* __restrict gradient, int64_t count,
                float* __restrict weight, float* __restrict moment) {
  const float left = 1.0f - t.lr * t.decay;
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * call.scale;
    const float way = call.keep * moment[i] + (1.0f - call.keep) * g;
    const float sign = float(way > 0.0f) - float(way < 0.0f);
    moment[i] = call.take * moment[i] + (1.0f - call.take) * g;
    weight[i] = left * weight[i] - t.lr * sign;
  }
}

void average_piece(const MomentCall& call, const float* __restrict weight, int64_t count, float* __restrict mean) {
  for (int64_t i = 0; i < count; ++i) mean[i] += call.take * (weight[i] - mean[i]);
}

}  // namespace

void moment_update(const MomentCall& call) {
  const std::vector<Piece> pieces = pieces_of(call.targets, call.count);
  parallel(int64_t(pieces.size()), [&](int64_t index) {
    const Piece& p = pieces[size_t(index)];
    const MomentTarget& t = call.targets[p.span];
    float* weight = (t.master ? t.master : static_cast<float*>(t.parameter)) + p.first;
    float* moment = t.moment ? t.moment + p.first : nullptr;
    if (call.rule == AVERAGE) return average_piece(call, weight, p.count, moment);
    auto* piece = call.rule == LION ? lion_piece : sgd_piece;
    piece(call, t, t.gradient + p.first, p.count, weight, moment);
    bf16* lower = t.dtype == BF16 ? static_cast<bf16*>(t.parameter) + p.first : nullptr;
    for (int64_t i = 0; lower && i < p.count; ++i) assign(lower[i], weight[i]);
  });
}

void adam_update(const AdamCall& call) {
  const std::vector<Piece> pieces = pieces_of(call.targets, call.count);
  parallel(int64_t(pieces.size()), [&](int64_t index) {
    const Piece& p = pieces[size_t(index)];
    const AdamTarget& t = call.targets[p.span];
    float* weight = (t.master ? t.master : static_cast<float*>(t.parameter)) + p.first;
    adam_piece(call, t.decay, t.gradient + p.first, p.count, weight, t.first + p.first, t.second + p.first);
    bf16* lower = t.dtype == BF16 ? static_cast<bf16*>(t.parameter) + p.first : nullptr;
    for (int64_t i = 0; lower && i < p.count; ++i) assign(lower[i], weight[i]);
  });
}

double square_sum(const FloatSpan* spans, int64_t count) {
  const std::vector<Piece> pieces = pieces_of(spans, count);
  std::vector<double> sums(pieces.size());
  parallel(int64_t(pieces.size()), [&](int64_t index) {
    const Piece& p = pieces[size_t(index)];
    const float* data = spans[p.span].data + p.first;
    double total = 0;
    for (int64_t i = 0; i < p.count;) {  // short float sums, added up in double
      vf part = {};
      const int64_t end = std::min(p.count, i + 64 * VW);
      for (; i + VW <= end; i += VW) part += load(data + i) * load(data + i);
      total += double(sum(part));
      for (; i < end; ++i) total += double(data[i]) * double(data[i]);
    }
    sums[size_t(index)] = total;
  });
  double total = 0;
  for (double each : sums) total += each;
  return total;
}

void scale_all(const FloatSpan& span, float factor) {
  each_piece(span.count, PIECE, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) span.data[i] *= factor;
  });
}

}  // namespace ISA
}  // namespace mf
