// The pool every kernel shares: as many threads as the process may use, the caller among them.
#pragma once

#include <cstdint>

namespace mf {

using Task = void (*)(void* context, int64_t index);

int thread_count();
void set_thread_count(int count);
// Runs task(context, 0..count-1) on the pool, whoever is free taking the next index; returns when all are done.
// Throws std::bad_alloc if a task did.
void run_tasks(int64_t count, Task task, void* context);

template <class Body>
void parallel(int64_t count, const Body& body) {
  if (count == 1) {
    body(int64_t(0));
    return;
  }
  run_tasks(
      count, [](void* context, int64_t index) { (*static_cast<const Body*>(context))(index); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// The users of scratch(), each with a buffer of its own: one may be at work inside another.
enum class Slot {
  PACKED_A, PACKED_B, ROUNDED,            // large products
  FEW_TOKENS, ACTIVATIONS, ROW_SCALES,    // products with a few tokens, and of integers
  STEP, TILE, PARTIAL,                    // a step of the network, its attention
  SUMS, WORK, SHARED,                     // training
  COUNT
};
// A buffer that belongs to the calling thread and grows to the largest size asked for; 64-byte aligned.
// Throws std::bad_alloc.
void* scratch(Slot slot, int64_t bytes);

}  // namespace mf
