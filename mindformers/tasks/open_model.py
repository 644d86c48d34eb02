"""A model that answers, opened the quickest way there is on its device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindformers.models.auto import AutoModel, open_in_files
from mindformers.parallel.runtime import PYNATIVE_MODE, start_runtime


def open_model(
    model_dir: str | Path, *, device_target: str = "CPU", quantization: str | None = None
) -> Any:
    """Return the network of a model directory with its weights.

    On a CPU the weights stay in their files where that can be; MindSpore is then not loaded.

    Args:
        model_dir: What ``AutoModel`` takes.
        device_target: ``CPU`` or ``Ascend``.
        quantization: ``int8`` or ``int4``: round the weights when they are loaded; None: as they are.

    Raises:
        MindFormersError: If the model cannot be used.
    """
    overrides: dict[str, Any] = {} if quantization is None else {"quantization": quantization}
    network = open_in_files(model_dir, **overrides) if device_target == "CPU" else None
    if network is None:
        # PyNative: the first answer waits for no compiler.
        start_runtime(device_target=device_target, mode=PYNATIVE_MODE)
        network = AutoModel.from_pretrained(model_dir, **overrides)
    return network
