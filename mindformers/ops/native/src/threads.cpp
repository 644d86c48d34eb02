#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <system_error>
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

constexpr int SPINS = 20000;  // about 250 us: longer than what Python does between two steps, shorter than a time slice

// The job at hand in one word, [serial 16 | count 24 | next index 24], so that taking an index tells which job it
// is of. Whoever holds an index keeps its job open; one that wakes late finds none left and holds up nobody.
constexpr int FIELD = 24;
constexpr uint64_t MASK = (uint64_t(1) << FIELD) - 1;

struct Pool {
  alignas(64) std::atomic<uint64_t> word{0};
  alignas(64) std::atomic<int64_t> done{0};  // tasks of the job that have ended
  std::atomic<int> sleeping{0};
  std::atomic<bool> stop{false};
  std::atomic<bool> has_failed{false};  // a task of the job ran out of memory
  Task task = nullptr;
  void* context = nullptr;
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;

  bool has_work() const {
    const uint64_t now = word.load();
    return (now & MASK) < ((now >> FIELD) & MASK);
  }
};

std::mutex gate;  // one job at a time; also guards the pool's size
Pool* pool = nullptr;
std::atomic<int> wanted{0};  // 0: not asked for yet
thread_local bool is_inside = false;  // a kernel that calls a kernel runs it on its own thread

int allowed_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, int(std::thread::hardware_concurrency()));
}

void drain(Pool* p) {
  while (p->has_work()) {
    const uint64_t taken = p->word.fetch_add(1);
    const uint64_t index = taken & MASK, count = (taken >> FIELD) & MASK;
    if (index >= count) return;
    try {
      p->task(p->context, int64_t(index));
    } catch (const std::exception&) {  // must not leave a worker; the caller throws it
      p->has_failed.store(true);
    }
    p->done.fetch_add(1, std::memory_order_release);
  }
}

void work(Pool* p) {
  is_inside = true;
  while (!p->stop.load()) {
    for (int spins = 0; spins < SPINS && !p->has_work(); ++spins) PAUSE();
    if (!p->has_work()) {
      std::unique_lock<std::mutex> lock(p->mutex);
      p->sleeping.fetch_add(1);
      p->wake.wait(lock, [&] { return p->has_work() || p->stop.load(); });
      p->sleeping.fetch_sub(1);
    }
    drain(p);
  }
}

void publish(Pool* p, int64_t count) {
  const uint64_t serial = (p->word.load() >> (2 * FIELD)) + 1;
  p->done.store(0);
  p->has_failed.store(false);
  p->word.store(serial << (2 * FIELD) | uint64_t(count) << FIELD);
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
  // Signals are for the program's own threads: one that lands here would not interrupt what it waits for.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    for (int i = 1; i < thread_count(); ++i) pool->workers.emplace_back(work, pool);
  } catch (const std::system_error&) {
    // The system gives no more threads: those that are there share the work.
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace

int thread_count() {
  int count = wanted.load(std::memory_order_relaxed);
  if (count == 0) {
    count = allowed_cpus();
    wanted.store(count, std::memory_order_relaxed);
  }
  return count;
}

void set_thread_count(int count) {
  std::lock_guard<std::mutex> lock(gate);
  close_pool();
  wanted.store(std::max(0, count));
}

void run_tasks(int64_t count, Task task, void* context) {
  if (count <= 0) return;
  // Late workers may count an index past the end each, so half the field is left to them.
  if (is_inside || thread_count() == 1 || count > int64_t(MASK / 2)) {
    for (int64_t i = 0; i < count; ++i) task(context, i);
    return;
  }
  std::lock_guard<std::mutex> lock(gate);
  if (!pool) open_pool();
  pool->task = task;
  pool->context = context;
  publish(pool, count);
  is_inside = true;
  drain(pool);
  is_inside = false;
  for (int spins = 0; pool->done.load(std::memory_order_acquire) < count; ++spins) {
    if (spins < SPINS) {
      PAUSE();
    } else {
      sched_yield();
    }
  }
  if (pool->has_failed.load()) throw std::bad_alloc();
}

void* scratch(Slot slot, int64_t bytes) {
  struct Buffer {
    void* data = nullptr;
    int64_t size = 0;
    ~Buffer() { std::free(data); }
  };
  thread_local Buffer buffers[int(Slot::COUNT)];
  Buffer& buffer = buffers[int(slot)];
  if (buffer.size < bytes) {
    std::free(buffer.data);
    buffer.data = nullptr;
    buffer.size = 0;
    const int64_t size = (bytes + 4095) / 4096 * 4096;
    buffer.data = std::aligned_alloc(64, size_t(size));
    if (!buffer.data) throw std::bad_alloc();
    buffer.size = size;
  }
  return buffer.data;
}

}  // namespace mf
