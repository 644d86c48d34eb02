"""``run_check``: does this installation work? Versions, then a tiny network that learns and answers."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from mindformers.errors import DeviceError
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
    start_runtime(device_target=device, mode=PYNATIVE_MODE)
    loss, answer = _try_network()
    print(f"one training step: loss {loss:.4f}; generation: token {answer[0]}")
    print("run_check: all is well")


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
