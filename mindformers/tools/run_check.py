"""``run_check``: does this installation work? Versions, then a tiny network that learns and answers.

``python -m mindformers.tools.run_check`` starts it from a shell.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from mindformers.errors import DeviceError
from mindformers.guard import FlagParser, run_guarded
from mindformers.ops.native.build import find_compiler
from mindformers.ops.native.library import is_native, kernels
from mindformers.parallel.runtime import PYNATIVE_MODE, check_versions, start_runtime
from mindformers.version import __version__


def run_check() -> None:
    """Print what is installed, then train and question a network of one layer; takes seconds.

    Raises:
        DeviceError: If something is missing, or the network gives no finite loss or no answer.
    """
    check_versions()
    device = "Ascend" if any(Path("/dev").glob("davinci*")) else "CPU"
    print(f"mindformers {__version__}, mindspore {metadata.version('mindspore')}, "
          f"numpy {metadata.version('numpy')}, device {device}")  # fmt: skip
    print(_kernel_line())
    start_runtime(device_target=device, mode=PYNATIVE_MODE)
    loss, answer = _try_network()
    print(f"one training step: loss {loss:.4f}; generation: token {answer[0]}")
    print("run_check: all is well")


def _kernel_line() -> str:
    """Return what computes on a CPU here: the set, the threads, where the library lies, the compiler."""
    compiler = " ".join(find_compiler() or ("none",))
    library = kernels() if is_native() else None
    if library is None:
        return f"CPU operators: portable (compiler: {compiler})"
    name, threads = library.mf_instruction_set().decode(), library.mf_threads()
    return (
        f"CPU operators: native, {name}, {threads} threads, {library._name} (compiler: {compiler})"
    )


def _try_network() -> tuple[float, list[int]]:
    import numpy as np

    from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration
    from mindformers.models.glm2.glm2_config import ChatGLM2Config
    from mindformers.training.optimizer import AdamW
    from mindformers.training.train_step import MFTrainOneStepCell

    sizes = {"num_layers": 1, "padded_vocab_size": 64, "hidden_size": 32, "ffn_hidden_size": 48}
    heads = {"kv_channels": 8, "num_attention_heads": 4, "multi_query_group_num": 2}
    types = {"param_init_type": "float32", "compute_dtype": "float32"}
    network = ChatGLM2ForConditionalGeneration(
        ChatGLM2Config(**sizes, **heads, **types, seq_length=16, block_size=4, num_blocks=8)
    )
    batch = {name: np.arange(8, dtype=np.int32)[None] for name in ("input_ids", "labels")}
    result = MFTrainOneStepCell(network, AdamW(network.trainable_params())).step([batch], 1e-3)
    prompt = [3, 4, 5]
    output = network.generate([prompt], max_new_tokens=4, eos_token_id=list(range(64)))
    assert isinstance(output, list)
    answer = output[0].tolist()[len(prompt) :]  # every token ends it: one comes
    if result.overflow or len(answer) != 1:
        raise DeviceError(
            f"a network of one layer gave loss {result.loss} and {len(answer)} tokens for 1",
            where="run_check",
            fix="install the pinned MindSpore again",
        )
    return result.loss, answer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check as a command."""
    FlagParser(prog="run_check", description="Does this installation work?").parse_args(argv)
    run_check()
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(main))
