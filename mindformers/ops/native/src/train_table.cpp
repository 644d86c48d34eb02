// The training kernels of one instruction set as a table; Kernels points at it.
#include "kernels.h"
#include "kernels_train.h"

namespace mf {
namespace ISA {

extern const TrainKernels train_kernels;
const TrainKernels train_kernels = {
    linear_large,  // of any number of tokens: a row must not depend on how many stand beside it
    linear_backward,
    rms_norm_forward,
    rms_norm_backward,
    swiglu_forward,
    swiglu_backward,
    rotate,
    embedding_forward,
    embedding_backward,
    train_attention_forward,
    train_attention_backward,
    head_loss,
    adam_update,
    moment_update,
    square_sum,
    scale_all,
};

}  // namespace ISA
}  // namespace mf
