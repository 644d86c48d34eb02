// Which tokens can be drawn: temperature, the k likeliest, the likeliest of probability p; without sorting them all.

#include <algorithm>
#include <functional>
#include <vector>

#include "kernels.h"
#include "simd.h"

namespace mf {
namespace ISA {
namespace {

constexpr int64_t BLOCK = 256;    // scores of which the largest is kept, for a coarse search
constexpr int64_t FIRST_TRY = 128;  // tokens that usually hold top_p of the probability

struct Scores {
  float* x;
  int64_t n;
  std::vector<float> peaks;  // the largest of every block

  Scores(float* scores, int64_t count) : x(scores), n(count) {
    for (int64_t at = 0; at < n; at += BLOCK) {
      const int64_t stop = std::min(n, at + BLOCK);
      vf high = splat(-__builtin_inff());
      int64_t i = at;
      for (; i + VW <= stop; i += VW) high = max(high, load(x + i));
      float peak = max_of(high);
      for (; i < stop; ++i) peak = std::max(peak, x[i]);
      peaks.push_back(peak);
    }
  }
  float top() const { return *std::max_element(peaks.begin(), peaks.end()); }

  bool is_before(int64_t a, int64_t b) const { return x[a] > x[b] || (x[a] == x[b] && a < b); }

  // At least the k largest finite scores, as indexes in order: k blocks have a peak of at least the bound, so k scores
  // do, and smaller ones cannot count.
  std::vector<int64_t> candidates(int64_t k) const {
    float bound = -__builtin_inff();
    if (k < n) {
      std::vector<float> some = k < int64_t(peaks.size()) ? peaks : std::vector<float>(x, x + n);
      std::nth_element(some.begin(), some.begin() + k - 1, some.end(), std::greater<float>());
      bound = some[size_t(k - 1)];
    }
    std::vector<int64_t> found;
    for (size_t b = 0; b < peaks.size(); ++b) {
      if (peaks[b] < bound) continue;
      const int64_t stop = std::min(n, int64_t(b + 1) * BLOCK);
      for (int64_t i = int64_t(b) * BLOCK; i < stop; ++i)
        if (x[i] >= bound && x[i] > -__builtin_inff()) found.push_back(i);
    }
    return found;
  }

  std::vector<int64_t> top_k(int64_t k) const {
    std::vector<int64_t> found = candidates(k);
    if (int64_t(found.size()) <= k) return found;
    std::nth_element(found.begin(), found.begin() + k - 1, found.end(),
                     [this](int64_t a, int64_t b) { return is_before(a, b); });
    found.resize(size_t(k));
    return found;
  }

  std::vector<int64_t> top_p(double p) const {
    const float high = top();
    const double target = p * mass(high);
    for (int64_t tried = FIRST_TRY;; tried *= 16) {
      std::vector<int64_t> found = candidates(tried);
      std::sort(found.begin(), found.end(), [this](int64_t a, int64_t b) { return is_before(a, b); });
      double seen = 0;
      size_t kept = 0;
      while (kept < found.size() && (kept == 0 || seen < target)) seen += weight(x[found[kept++]], high);
      if (seen < target && tried < n) continue;
      found.resize(kept);
      return found;
    }
  }

  double weight(float score, float high) const { return double(exp(splat(score - high))[0]); }

  // The sum of exp(score - high).
  double mass(float high) const {
    double total = 0;
    for (size_t b = 0; b < peaks.size(); ++b) {
      const int64_t stop = std::min(n, int64_t(b + 1) * BLOCK);
      vf part = {};
      int64_t i = int64_t(b) * BLOCK;
      for (; i + VW <= stop; i += VW) part += exp(load(x + i) - high);
      total += sum(part);
      for (; i < stop; ++i) total += weight(x[i], high);
    }
    return total;
  }

  void keep_only(const std::vector<int64_t>& kept) {
    std::vector<float> values;
    for (int64_t i : kept) values.push_back(x[i]);
    std::fill(x, x + n, -__builtin_inff());
    for (size_t i = 0; i < kept.size(); ++i) x[kept[i]] = values[i];
  }
};

}  // namespace

void sharpen(float* scores, int64_t n, float temperature, int64_t top_k, double top_p) {
  for (int64_t i = 0; i < n; ++i) scores[i] /= temperature;
  if (top_k > 0 && top_k < n) {
    Scores all(scores, n);
    all.keep_only(all.top_k(top_k));
  }
  if (top_p < 1) {
    Scores all(scores, n);
    all.keep_only(all.top_p(top_p));
  }
}

}  // namespace ISA
}  // namespace mf
