// Runs the kernels outside Python: products, linear layers, whole steps and training over odd shapes, from one thread
// and from two callers at once, with the pool resized and forked in between. Writes every result to a file, so that
// what one machine computes can be compared with another's. Usage: exercise INSTRUCTION_SET THREADS FILE

#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "decoder.h"
#include "exercise.h"
#include "kernels.h"

using namespace exercise;

extern "C" {
int mf_use_instruction_set(const char* name);
void mf_set_threads(int count);
int mf_gemm(const Matrix*, const Matrix*, int64_t, int64_t, int64_t, float*, int64_t, int);
int mf_linear(const float*, int64_t, const Weight*, float*, int64_t);
int mf_check_step(const Network*, const Step*, int64_t);
int mf_run_step(const Network*, const Step*, float*, float*);
}

namespace {

void products(Source& source, std::vector<float>& results) {
  const int64_t shapes[][3] = {{1, 1, 1}, {5, 3, 7}, {13, 33, 257}, {37, 130, 300}};
  for (auto& shape : shapes)
    for (int flips = 0; flips < 4; ++flips) {
      const int64_t m = shape[0], n = shape[1], k = shape[2];
      auto a = source.floats(m * k), b = source.floats(k * n);
      std::vector<float> c(size_t(m * n));
      const Matrix left{a.data(), flips & 1 ? m : k, F32, (flips & 1) != 0};
      const Matrix right{b.data(), flips & 2 ? k : n, F32, (flips & 2) != 0};
      require(mf_gemm(&left, &right, m, n, k, c.data(), n, 0) == 0, "a product ran out of memory");
      keep(results, c);
    }
}

void layers(Source& source, std::vector<float>& results) {
  for (DType dtype : {F32, BF16, F16, I8, I4}) {
    Stored stored(source, 97, 96, dtype, true);
    for (int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 33, 70}) {
      auto x = source.floats(tokens * 96);
      std::vector<float> y(size_t(tokens * 97));
      require(mf_linear(x.data(), tokens, &stored.weight, y.data(), 97) == 0, "a layer ran out of memory");
      // Sets differ in how many tokens of a quantized layer are multiplied as integers, with activations rounded.
      if (tokens <= 8 || (dtype != I8 && dtype != I4)) keep(results, y);
    }
  }
}

// Two sequences grow by prompts, pieces and single tokens, past a tile (128) and a split (256).
void steps(Source& source, DType cache_dtype, DType dtype, std::vector<float>& results) {
  const int64_t hidden = 64, heads = 6, groups = 3, dim = 20, ffn = 32, vocab = 97, block = 4, width = 90;
  const int64_t qkv = (heads + 2 * groups) * dim, slots = 2 * width * block * groups;
  Stored w_qkv(source, qkv, hidden, dtype, true), w_dense(source, hidden, heads * dim, F32, false),
      w_gate(source, 2 * ffn, hidden, dtype, false), w_down(source, hidden, ffn, dtype, false),
      embedding(source, vocab, hidden, dtype, false), head(source, vocab, hidden, dtype, false);
  auto norm = source.floats(hidden), angles = source.floats(400 * 10);
  std::vector<char> keys(size_t(slots * dim * 4)), values(keys.size());
  std::vector<float> key_scale(size_t(slots), 0.0f), value_scale(size_t(slots), 0.0f);
  Layer layer{norm.data(), norm.data(), norm.data(), nullptr, w_qkv.weight, w_dense.weight, w_gate.weight,
              w_down.weight, CacheLayer{keys.data(), values.data(), key_scale.data(), value_scale.data()}};
  const Shape shape{1, hidden, heads, groups, dim, 10, ffn, vocab, block, 400, 1e-5f, cache_dtype};
  const Network network{shape, &layer, norm.data(), angles.data(), embedding.weight, head.weight};
  const int calls[][2] = {{9, 1}, {1, 1}, {200, 4}, {1, 40}, {80, 1}, {1, 1}};
  int32_t cached[2] = {0, 0};
  std::vector<int32_t> tables(size_t(2 * width));
  for (size_t i = 0; i < tables.size(); ++i) tables[i] = int32_t((i * 7) % tables.size());
  for (auto& counts : calls) {
    std::vector<int32_t> ids, positions, where;
    int32_t starts[3] = {0, counts[0], counts[0] + counts[1]};
    for (int q = 0; q < 2; ++q)
      for (int i = 0; i < counts[q]; ++i) {
        const int32_t at = cached[q]++;
        ids.push_back(int32_t((source.next() + 1) * 48));
        positions.push_back(at);
        where.push_back(int32_t(tables[size_t(q * width + at / block)] * block + at % block));
      }
    const int32_t picked[2] = {starts[1] - 1, starts[2] - 1};
    const int32_t kept[2] = {0, starts[2] - 1};  // of the last token both are wanted
    const Step step{starts[2], 2, width, 2, 2, ids.data(), positions.data(), where.data(), starts, cached,
                    tables.data(), picked, kept};
    std::vector<float> logits(size_t(2 * vocab)), states(size_t(2 * hidden));
    require(mf_check_step(&network, &step, 2 * width) == 0, "a proper step is refused");
    require(mf_run_step(&network, &step, logits.data(), states.data()) == 0, "a step ran out of memory");
    keep(results, logits);
    keep(results, states);
  }
}

std::vector<float> everything(uint32_t seed) {
  Source source{seed};
  std::vector<float> results;
  products(source, results);
  layers(source, results);
  for (DType cache : {F32, BF16, I8})
    for (DType dtype : {F32, BF16}) steps(source, cache, dtype, results);
  training(source, results);
  return results;
}

void fork_and_compute() {
  const pid_t child = fork();
  if (child == 0) {
    Source source{5};
    std::vector<float> results;
    layers(source, results);
    _exit(results.empty() ? 1 : 0);
  }
  int status = 1;
  waitpid(child, &status, 0);
  require(status == 0, "a forked child cannot compute");
}

}  // namespace

int main(int count, char** arguments) {
  require(count == 4, "usage: exercise INSTRUCTION_SET THREADS FILE");
  require(mf_use_instruction_set(arguments[1]) == 0, "this CPU has no such instruction set");
  const int threads = std::atoi(arguments[2]);
  mf_set_threads(threads);
  const std::vector<float> results = everything(1);
#ifndef EXERCISE_WITHOUT_FORK
  fork_and_compute();
#endif
  std::vector<float> other, same;
  std::thread first([&] { other = everything(2); }), second([&] { same = everything(1); });
  first.join();
  second.join();
  require(same == results, "two callers at once get in one another's way");
  mf_set_threads(threads + 1);
  require(everything(1) == results, "the number of threads changes the numbers");
  mf_set_threads(1);
  require(everything(1) == results, "the number of threads changes the numbers");
  std::FILE* file = std::fopen(arguments[3], "wb");
  require(file && std::fwrite(results.data(), 4, results.size(), file) == results.size(), "cannot write");
  std::fclose(file);
  return 0;
}
