// Whether a step stays inside the network's buffers. Asked before every step, so it costs next to nothing.

#include "check.h"

namespace mf {
namespace {

bool within(const int32_t* values, int64_t count, int64_t limit) {
  bool fits = true;
  for (int64_t i = 0; i < count; ++i) fits &= values[i] >= 0 && values[i] < limit;
  return fits;
}

// Sequence q has tokens starts[q]..starts[q + 1], at least one, and they are the last of its cached ones.
bool sequences_fit(const Step& step) {
  if (step.starts[0] != 0 || step.starts[step.sequences] != step.tokens) return false;
  for (int64_t q = 0; q < step.sequences; ++q) {
    const int64_t count = int64_t(step.starts[q + 1]) - step.starts[q];
    if (count <= 0 || step.lengths[q] < count) return false;
  }
  return true;
}

bool tables_fit(const Shape& s, const Step& step, int64_t num_blocks) {
  for (int64_t q = 0; q < step.sequences; ++q) {
    const int64_t used = (int64_t(step.lengths[q]) + s.block_size - 1) / s.block_size;
    if (used > step.table_width) return false;
    if (!within(step.tables + q * step.table_width, used, num_blocks)) return false;
  }
  return true;
}

// Some of the step's tokens, none twice.
bool chooses(const Step& step, const int32_t* chosen, int64_t count) {
  for (int64_t i = 1; i < count; ++i)
    if (chosen[i] <= chosen[i - 1]) return false;
  return within(chosen, count, step.tokens);
}

}  // namespace

StepFault check_step(const Shape& s, const Step& step, int64_t num_blocks) {
  if (!within(step.ids, step.tokens, s.vocab)) return BAD_IDS;
  if (!within(step.positions, step.tokens, s.positions)) return BAD_POSITIONS;
  if (!within(step.slots, step.tokens, num_blocks * s.block_size)) return BAD_SLOTS;
  if (!sequences_fit(step)) return BAD_SEQUENCES;
  if (!tables_fit(s, step, num_blocks)) return BAD_TABLES;
  if (!chooses(step, step.picked, step.outputs)) return BAD_PICKED;
  if (!chooses(step, step.kept, step.keeps)) return BAD_KEPT;
  return NO_FAULT;
}

}  // namespace mf
