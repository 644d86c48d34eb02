// The kernels of one instruction set as a table.
#include "kernels.h"

#define NAME_OF(isa) NAME_TEXT(isa)
#define NAME_TEXT(isa) #isa
#define TABLE_OF(isa) TABLE_NAME(isa)
#define TABLE_NAME(isa) kernels_##isa

namespace mf {

extern const Kernels TABLE_OF(ISA);
const Kernels TABLE_OF(ISA) = {
    NAME_OF(ISA),
    ISA::gemm,
    ISA::linear,
    ISA::run_step,
    ISA::sharpen,
    &ISA::train_kernels,
};

}  // namespace mf
