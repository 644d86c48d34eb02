// Whether a step stays inside the network's buffers.
#pragma once

#include "cache.h"

namespace mf {

// In the order of the messages in step_check.py.
enum StepFault : int32_t {
  NO_FAULT = 0,
  BAD_IDS,
  BAD_POSITIONS,
  BAD_SLOTS,
  BAD_SEQUENCES,
  BAD_TABLES,
  BAD_PICKED,
  BAD_KEPT,
};

// The first fault of a step whose arrays have the sizes it says.
StepFault check_step(const Shape& shape, const Step& step, int64_t num_blocks);

}  // namespace mf
