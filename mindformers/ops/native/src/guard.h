// No exception passes the C interface: a call that ran out of memory returns 1, any other 0.
#pragma once

#include <exception>

namespace mf {

template <class Call>
static int guarded(const Call& call) {
  try {
    call();
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

}  // namespace mf
