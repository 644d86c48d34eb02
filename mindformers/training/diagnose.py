"""Find out where a loss or gradient that is not finite came from, by a second look in PyNative."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindformers.errors import TrainingError
from mindformers.logger import logger
from mindformers.parallel.mesh import mesh
from mindformers.training.step_result import StepResult
from mindformers.training.train_step import Batch, MFTrainOneStepCell, batch_tensors


def non_finite_error(
    step: MFTrainOneStepCell, micro_batches: Sequence[Batch], result: StepResult, position: str
) -> TrainingError:
    """Return the error that names the first thing that is not finite.

    Args:
        step: The step that overflowed; its weights were not updated.
        micro_batches: What it was given.
        result: What it found.
        position: Step and samples, in words.
    """
    try:
        cause = _find_cause(step, micro_batches, result)
    except (RuntimeError, TypeError, ValueError) as error:  # the search must not hide the finding
        logger.warning("the search for the first bad layer failed: %s", error)
        cause = "the first bad layer could not be found"
    return TrainingError(
        f"loss {result.loss:g}, gradient norm {result.grad_norm:g}; {cause}",
        where=position,
        fix="the weights are those of the step before; lower the learning rate, look at these "
        "samples, or set max_skipped_steps to go on without them",
    )


def _find_cause(
    step: MFTrainOneStepCell, micro_batches: Sequence[Batch], result: StepResult
) -> str:
    for parameter in step.network.get_parameters():
        if not _is_finite(parameter):
            return f"the weight {parameter.name} is not finite"
    layout = mesh().layout
    if layout.size > layout.data:
        # A pass needs every process of its group, and they would not look at the same places.
        return "layers shared by several processes are not searched for the first bad one"
    suspects = result.bad_micro_batches or tuple(range(len(micro_batches)))
    with _pynative():
        for index in suspects:
            batch = micro_batches[index]
            layer = first_bad_layer(step.network, batch)
            if layer:
                rows = _bad_rows(step.network, batch)
                return f"first bad layer: {layer} (micro batch {index}{rows})"
    for index in suspects:
        _, grads = step.gradients(micro_batches[index])
        for parameter, grad in zip(step.optimizer.parameters, grads, strict=True):
            if not _is_finite(grad):
                return f"first bad gradient: {parameter.name} (micro batch {index})"
    return "no single layer or gradient overflows; their sum does"


def first_bad_layer(network: nn.Cell, batch: Batch) -> str | None:
    """Return the first cell whose output is not finite although its inputs are, or None.

    The forward pass is run once more; PyNative mode must be on.
    """
    found: list[str] = []
    with _watched(network, found):
        _run(network, batch)
    return found[0] if found else None


@contextmanager
def _watched(network: nn.Cell, found: list[str]) -> Iterator[None]:
    """Append the name of every cell that turns finite inputs into a bad output, while inside."""
    handles = [
        cell.register_forward_hook(_watcher(name or "the network itself", found))
        for name, cell in network.cells_and_names()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watcher(name: str, found: list[str]) -> Callable[[nn.Cell, Any, Any], None]:
    def watch(cell: nn.Cell, inputs: Any, output: Any) -> None:
        if not _is_finite(output) and _is_finite(inputs):
            found.append(f"{name} ({type(cell).__name__})")

    return watch


def _bad_rows(network: nn.Cell, batch: Batch) -> str:
    """Return ``", rows 0 2"``: the rows whose loss alone is not finite."""
    bad = []
    for row in range(len(batch["input_ids"])):
        alone = {name: values[row : row + 1] for name, values in batch.items()}
        if not _is_finite(_run(network, alone)):
            bad.append(str(row))
    return f", rows {' '.join(bad)}" if bad else ""


def _run(network: nn.Cell, batch: Batch) -> Any:
    ids, labels, *starts = batch_tensors(batch)
    return network(ids, labels, document_starts=starts[0]) if starts else network(ids, labels)


def _is_finite(value: Any) -> bool:
    """Tell whether every float in a tensor, or in a tuple or list of them, is finite."""
    if isinstance(value, (tuple, list)):
        return all(_is_finite(each) for each in value)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return True
    return bool(np.isfinite(value.astype(ms.float32).asnumpy()).all())


@contextmanager
def _pynative() -> Iterator[None]:
    """Switch to PyNative mode, where single layers can be watched, and back."""
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=mode)
