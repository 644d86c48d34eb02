"""``TrainingStateMonitor``: norms of weights, gradients and optimizer state while a run goes on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import mindspore as ms
from mindspore import Tensor

from mindformers.config.options import refuse_options
from mindformers.config.weight_patterns import compiled
from mindformers.errors import ConfigError, TrainingError
from mindformers.logger import logger
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.callback import Callback
from mindformers.training.extras import import_viz
from mindformers.training.run import StepReport, TrainRun
from mindformers.training.train_step import host_square_sum

WAYS = ("log", "tensorboard")
_FIGURES = (
    "local_norm_format", "device_local_norm_format", "optimizer_state_format", "weight_state_format",
)  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "monitor_on": (),  # it is built when this is on
    "dump_path": (),  # upstream's kernels dump there; these figures need no files
    "local_loss_format": (None,),
    "device_local_loss_format": (None,),
    "max_attention_logit_format": (None,),
    "stable_rank_config": (None,),
}


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class TrainingStateMonitor(Callback):
    """Show figures of the network every so many steps, and stop a run whose gradients stay too large.

    A figure's format is ``log``, ``tensorboard`` or both in a list; None leaves it out. Of several processes
    the first shows what it holds.

    Args:
        step_interval: Steps between two looks, 1 or more.
        target: Regular expressions found in the names of the parameters to look at; None: all.
        invert: Look at the others.
        throughput_baseline: Tokens per second that count as 1 in ``throughput-linearity``; None: not shown.
        print_struct: Log the network once.
        check_for_global_norm: Stop after ``global_norm_spike_count_threshold`` steps in a row whose gradient
            norm is ``global_norm_spike_threshold`` or more.
        options: ``local_norm_format`` (norm of each parameter's gradient), ``device_local_norm_format`` (of
            all of them), ``optimizer_state_format`` and ``weight_state_format`` (norm of each tensor); the
            two thresholds; and upstream's others at their neutral values.

    Raises:
        ConfigError: If an argument is out of range or not implemented.
        MissingExtraError: If TensorBoard is asked for and tensorboardX is not installed.
    """

    def __init__(
        self,
        step_interval: int = 1,
        target: Sequence[str] | None = None,
        invert: bool = False,
        throughput_baseline: float | None = None,
        print_struct: bool = False,
        check_for_global_norm: bool = False,
        **options: Any,
    ):
        self.threshold = float(options.pop("global_norm_spike_threshold", 3.0))
        self.most_spikes = int(options.pop("global_norm_spike_count_threshold", 10))
        self.ways = {name: _ways(name, options.pop(name, None)) for name in _FIGURES}
        refuse_options("monitor_config", options, _NEUTRAL)
        if step_interval < 1:
            raise ConfigError(f"is {step_interval}", where="monitor_config.step_interval",
                              allowed="1 or more")  # fmt: skip
        self.step_interval, self.invert = step_interval, invert
        self.target = (
            None if target is None else [compiled("monitor_config.target", t) for t in target]
        )
        self.baseline, self.print_struct = throughput_baseline, print_struct
        self.checks_norm = check_for_global_norm
        uses_events = any("tensorboard" in ways for ways in self.ways.values())
        self._module = import_viz("tensorboardX", "monitor_config") if uses_events else None
        self._events: Any = None
        self._spikes = 0

    def on_train_begin(self, run: TrainRun) -> None:
        """Open the events; show the network."""
        self._spikes = 0
        if self._module is not None:
            self._events = self._module.SummaryWriter(
                logdir=str(run.output_dir / "tensorboard"), purge_step=run.state.global_step + 1
            )
        if self.print_struct:
            logger.info("%s", run.step.network)

    def on_step_end(self, run: TrainRun, report: StepReport) -> None:
        """Look, when it is time; count spikes in every step.

        Raises:
            TrainingError: If the norm was too large too often in a row.
        """
        if report.global_step % self.step_interval == 0:
            self._show_all(run, report)
        self._spikes = self._spikes + 1 if report.grad_norm >= self.threshold else 0
        if self.checks_norm and self._spikes >= self.most_spikes:
            raise TrainingError(
                f"the gradient norm was {self.threshold:g} or more in {self._spikes} steps in a row, "
                f"{report.grad_norm:g} in step {report.global_step}",
                where="monitor_config.check_for_global_norm",
                fix="lower the learning rate, or resume from an earlier step with other data",
            )

    def on_train_end(self, run: TrainRun) -> None:
        """Close the events."""
        if self._events is not None:
            self._events.close()

    def on_exception(self, run: TrainRun, error: BaseException) -> None:
        """Close the events."""
        self.on_train_end(run)

    def _show_all(self, run: TrainRun, report: StepReport) -> None:
        step, optimizer = report.global_step, run.step.optimizer
        names = [parameter.name for parameter in optimizer.parameters]
        local = zip(names, report.local_norms, strict=True) if report.local_norms else ()
        self._show("local_norm", "local_norm_format", local, step)
        own = [("device_local_norm", math.hypot(*report.local_norms))]
        self._show("", "device_local_norm_format", own, step)
        self._show("weight_norm", "weight_state_format", _norms(optimizer.parameters, self), step)
        self._show(
            "optimizer_state",
            "optimizer_state_format",
            _norms(optimizer.state_parameters(), self),
            step,
        )
        if self.baseline:
            logger.info("throughput-linearity: %.4f", report.tokens_per_second / self.baseline)

    def looks_at(self, name: str) -> bool:
        """Tell whether a parameter is one to look at."""
        found = self.target is None or any(each.search(name) for each in self.target)
        return found is not self.invert

    def _show(self, kind: str, figure: str, values: Iterable[tuple[str, float]], step: int) -> None:
        ways = self.ways[figure]
        for name, value in values if ways else ():
            if kind and not self.looks_at(name):
                continue
            if "log" in ways:
                logger.info("step %d %s %s: %.6g", step, kind, name, value)
            if "tensorboard" in ways:
                self._events.add_scalar(f"{kind}/{name}" if kind else name, value, step)


def _norms(tensors: Iterable[Any], monitor: TrainingStateMonitor) -> Iterable[tuple[str, float]]:
    return ((each.name, _norm(each)) for each in tensors if monitor.looks_at(each.name))


def _norm(tensor: Tensor) -> float:
    return math.sqrt(host_square_sum(tensor.astype(ms.float32)))


def _ways(name: str, value: Any) -> tuple[str, ...]:
    """Return where a figure goes."""
    ways = (value,) if isinstance(value, str) else tuple(value or ())
    for each in ways:
        if each not in WAYS:
            raise ConfigError(f"found {each!r}", where=f"monitor_config.{name}",
                              allowed="log, tensorboard, or a list of them")  # fmt: skip
    return ways
