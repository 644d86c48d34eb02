"""What a run needs beside weights and optimizer to go on as if it had never stopped.

The order of the data is a function of (seed, epoch), so a position is enough. MindSpore's generator
is kept for networks that draw from it; those of this package draw nothing during a step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

from mindformers.errors import CheckpointError, DataError
from mindformers.logger import logger

FORMAT_VERSION = 1


@dataclass(frozen=True)
class TrainState:
    """Position and identity of a run after a number of finished steps.

    Attributes:
        global_step: Finished steps of the whole run.
        epoch: Epoch the last finished step belongs to, counted from 1; 0 before the first.
        step_in_epoch: That step's number within its epoch, counted from 1.
        consumed_samples: Rows seen.
        consumed_tokens: Tokens seen, padding included.
        trained_tokens: Tokens seen that had a label.
        optimizer_step: Updates made; fewer than steps when steps were skipped.
        elapsed_seconds: Time spent in steps.
        seed: Seed of the run.
        batch_size: Rows of a micro batch.
        accumulation: Micro batches of a step.
        steps_per_epoch: Steps of an epoch.
        data_fingerprint: Identifies the data set.
        optimizer: Class name of the optimizer.
        schedule: The learning-rate schedule with its arguments.
        rng_state: MindSpore's random generator, in hex.
    """

    global_step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    consumed_samples: int = 0
    consumed_tokens: int = 0
    trained_tokens: int = 0
    optimizer_step: int = 0
    elapsed_seconds: float = 0.0
    seed: int = 0
    batch_size: int = 1
    accumulation: int = 1
    steps_per_epoch: int = 1
    data_fingerprint: str = ""
    optimizer: str = ""
    schedule: str = ""
    rng_state: str = ""

    def advanced(self, num_tokens: int, num_trained_tokens: int, seconds: float) -> TrainState:
        """Return the state one step later."""
        done = self.global_step + 1
        return replace(
            self,
            global_step=done,
            epoch=(done - 1) // self.steps_per_epoch + 1,
            step_in_epoch=(done - 1) % self.steps_per_epoch + 1,
            consumed_samples=self.consumed_samples + self.batch_size * self.accumulation,
            consumed_tokens=self.consumed_tokens + num_tokens,
            trained_tokens=self.trained_tokens + num_trained_tokens,
            elapsed_seconds=self.elapsed_seconds + seconds,
        )

    def to_json(self) -> str:
        """Return the text of ``state.json``."""
        return json.dumps({"version": FORMAT_VERSION, **asdict(self)}, indent=1)


def read_state(path: Path) -> TrainState:
    """Read ``state.json``.

    Raises:
        CheckpointError: If it is missing, damaged or of a later version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("version")
        kinds: dict[str, Any] = {field.name: type(field.default) for field in fields(TrainState)}
        if version > FORMAT_VERSION:
            raise ValueError(f"version {version}, this release reads up to {FORMAT_VERSION}")
        return TrainState(**{name: kinds[name](value) for name, value in content.items()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"no usable training state: {error}", where=str(path), fix="resume from another step"
        ) from error


def check_optimizer(saved: TrainState, kind: str) -> None:
    """Refuse the state of another optimizer than ``kind``.

    Raises:
        CheckpointError: If it is of another type.
    """
    if saved.optimizer != kind:
        raise CheckpointError(
            f"the checkpoint was trained with {saved.optimizer}, this run uses {kind}",
            where="optimizer.type",
            fix="use the same optimizer, or load the weights without resume_training",
        )


def merge_state(saved: TrainState, fresh: TrainState, *, allow_data_change: bool) -> TrainState:
    """Return the saved progress under the identity of the run that resumes it.

    Args:
        saved: State of the checkpoint.
        fresh: State of the new run at step 0.
        allow_data_change: Go on although the data or its order is another one.

    Raises:
        DataError: If the data or its order changed and that is not allowed.
    """
    watched: tuple[str, ...] = ("data_fingerprint", "seed", "batch_size", "accumulation",
                                "steps_per_epoch")  # fmt: skip
    if saved.batch_size * saved.accumulation == fresh.batch_size * fresh.accumulation:
        # The same rows in every step, however they are cut into micro batches.
        watched = ("data_fingerprint", "seed", "steps_per_epoch")
    changes = _differences(saved, fresh, watched)
    if changes and not allow_data_change:
        raise DataError(
            f"the data is not what the checkpoint was trained on ({changes})",
            where="resume_training",
            fix="restore it, or allow it with --allow_data_change true",
        )
    if changes:
        logger.warning("the data changed since the checkpoint was saved (%s)", changes)
    if saved.schedule != fresh.schedule:
        logger.warning("the schedule was %s and is now %s", saved.schedule, fresh.schedule)
    progress = ("global_step", "consumed_samples", "consumed_tokens", "trained_tokens",
                "optimizer_step", "elapsed_seconds", "rng_state")  # fmt: skip
    kept = replace(fresh, **{name: getattr(saved, name) for name in progress})
    done = max(0, kept.global_step - 1)
    return replace(
        kept,
        epoch=min(1, kept.global_step) * (done // kept.steps_per_epoch + 1),
        step_in_epoch=min(1, kept.global_step) * (done % kept.steps_per_epoch + 1),
    )


def _differences(saved: TrainState, fresh: TrainState, names: tuple[str, ...]) -> str:
    """Return ``"seed 1 -> 2, ..."`` for the fields that differ."""
    old: Mapping[str, Any] = asdict(saved)
    new: Mapping[str, Any] = asdict(fresh)
    return ", ".join(
        f"{name} {_short(old[name])} -> {_short(new[name])}"
        for name in names
        if old[name] != new[name]
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 12 else text[:12] + "..."


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave MindSpore's random generator as it was, whatever is drawn meanwhile."""
    before = random_state()
    try:
        yield
    finally:
        restore_random_state(before)


def random_state() -> str:
    """Return the state of MindSpore's random generator, in hex."""
    return bytes(ms.get_rng_state().asnumpy().tobytes()).hex()


def restore_random_state(text: str) -> None:
    """Set MindSpore's random generator to what ``random_state`` gave."""
    if text:
        ms.set_rng_state(ms.Tensor(np.frombuffer(bytes.fromhex(text), np.uint8).copy()))
