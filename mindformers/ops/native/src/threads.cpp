#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#define PAUSE() _mm_pause()
#elif defined(__aarch64__)
#define PAUSE() asm volatile("yield")
#else
#define PAUSE()
#endif

namespace mf {
namespace {

constexpr int SPINS = 4000;  // about 50 us: longer than the gap between two kernels, shorter than a time slice

struct Job {
  Task task;
  void* context;
  int64_t count;
};

struct Pool {
  std::atomic<uint64_t> epoch{0};   // rises when a job is published
  std::atomic<int64_t> next{0};     // next index of the job
  std::atomic<int> pending{0};      // workers that have not finished the job
  std::atomic<int> sleeping{0};
  std::atomic<bool> stop{false};
  Job job{};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;
};

std::mutex gate;  // one job at a time; also guards the pool's size
Pool* pool = nullptr;
int wanted = 0;
thread_local bool is_inside = false;  // a kernel that calls a kernel runs it on its own thread

int allowed_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, int(std::thread::hardware_concurrency()));
}

void drain(Pool* p) {
  for (;;) {
    int64_t index = p->next.fetch_add(1, std::memory_order_relaxed);
    if (index >= p->job.count) return;
    p->job.task(p->job.context, index);
  }
}

void work(Pool* p) {
  is_inside = true;
  uint64_t seen = 0;
  for (;;) {
    int spins = 0;
    while (p->epoch.load(std::memory_order_acquire) == seen && spins < SPINS) {
      PAUSE();
      ++spins;
    }
    if (p->epoch.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(p->mutex);
      p->sleeping.fetch_add(1);
      p->wake.wait(lock, [&] { return p->epoch.load() != seen; });
      p->sleeping.fetch_sub(1);
    }
    seen = p->epoch.load(std::memory_order_acquire);
    if (p->stop.load()) return;
    drain(p);
    p->pending.fetch_sub(1, std::memory_order_release);
  }
}

void publish(Pool* p) {
  p->epoch.fetch_add(1);
  if (p->sleeping.load() > 0) {
    std::lock_guard<std::mutex> lock(p->mutex);
    p->wake.notify_all();
  }
}

void close_pool() {
  if (!pool) return;
  pool->stop.store(true);
  {
    std::lock_guard<std::mutex> lock(pool->mutex);
    pool->epoch.fetch_add(1);
    pool->wake.notify_all();
  }
  for (auto& worker : pool->workers) worker.join();
  delete pool;
  pool = nullptr;
}

// A child of fork() has none of the threads: it starts a pool of its own when it first needs one.
void before_fork() { gate.lock(); }
void after_fork_in_parent() { gate.unlock(); }
void after_fork_in_child() {
  pool = nullptr;
  gate.unlock();
}

void open_pool() {
  static const int registered = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
  (void)registered;
  pool = new Pool;
  for (int i = 1; i < thread_count(); ++i) pool->workers.emplace_back(work, pool);
}

}  // namespace

int thread_count() {
  if (wanted == 0) wanted = allowed_cpus();
  return wanted;
}

void set_thread_count(int count) {
  std::lock_guard<std::mutex> lock(gate);
  close_pool();
  wanted = std::max(0, count);
}

void run_tasks(int64_t count, Task task, void* context) {
  if (count <= 0) return;
  if (is_inside || thread_count() == 1) {
    for (int64_t i = 0; i < count; ++i) task(context, i);
    return;
  }
  std::lock_guard<std::mutex> lock(gate);
  if (!pool) open_pool();
  pool->job = {task, context, count};
  pool->next.store(0);
  pool->pending.store(int(pool->workers.size()));
  publish(pool);
  is_inside = true;
  drain(pool);
  is_inside = false;
  for (int spins = 0; pool->pending.load(std::memory_order_acquire) > 0; ++spins) {
    if (spins < SPINS) {
      PAUSE();
    } else {
      sched_yield();
    }
  }
}

void* scratch(int slot, int64_t bytes) {
  struct Buffer {
    void* data = nullptr;
    int64_t size = 0;
    ~Buffer() { std::free(data); }
  };
  thread_local Buffer buffers[8];
  Buffer& buffer = buffers[slot];
  if (buffer.size < bytes) {
    std::free(buffer.data);
    int64_t size = (bytes + 4095) / 4096 * 4096;
    buffer.data = std::aligned_alloc(64, size_t(size));
    if (!buffer.data) std::abort();
    buffer.size = size;
  }
  return buffer.data;
}

}  // namespace mf
