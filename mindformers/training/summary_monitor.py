"""``SummaryMonitor``: scalars of the steps and histograms of the weights as TensorBoard events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mindspore as ms

from mindformers.config.options import refuse_options
from mindformers.config.weight_patterns import compiled
from mindformers.errors import ConfigError
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.callback import Callback
from mindformers.training.extras import import_viz
from mindformers.training.metrics import scalars_of
from mindformers.training.run import StepReport, TrainRun

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "keep_default_action": (),
    "custom_lineage_data": (None,),
    "collect_tensor_freq": (None,),
    "max_file_size": (None,),
    "export_options": (None,),
}
_KINDS = ("histogram_regular",)


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class SummaryMonitor(Callback):
    """Write every so many steps what upstream's summary holds of a language model.

    Args:
        summary_dir: Folder; None: ``summary`` in the run's output folder.
        collect_freq: Steps between two records, 1 or more.
        collect_specified_data: ``{"histogram_regular": pattern}``: a regular expression found in the names
            of the weights whose histograms are written; None: none.
        options: Upstream's other arguments at their neutral values.

    Raises:
        ConfigError: If an argument is out of range or not implemented.
        MissingExtraError: If tensorboardX is not installed.
    """

    def __init__(
        self,
        summary_dir: str | None = None,
        collect_freq: int = 10,
        collect_specified_data: Mapping[str, str] | None = None,
        **options: Any,
    ):
        refuse_options("SummaryMonitor", options, _NEUTRAL)
        if collect_freq < 1:
            raise ConfigError(f"is {collect_freq}", where="SummaryMonitor.collect_freq",
                              allowed="1 or more")  # fmt: skip
        asked = dict(collect_specified_data or {})
        pattern = asked.pop("histogram_regular", None)
        for name in asked:
            raise ConfigError(
                "is not implemented", where=f"SummaryMonitor.collect_specified_data.{name}",
                allowed=" or ".join(_KINDS),
            )  # fmt: skip
        self.summary_dir, self.collect_freq = summary_dir, collect_freq
        self.pattern = None if pattern is None else compiled("SummaryMonitor", pattern)
        self._module = import_viz("tensorboardX", "SummaryMonitor")
        self._events: Any = None

    def on_train_begin(self, run: TrainRun) -> None:
        """Open the file."""
        folder = Path(self.summary_dir) if self.summary_dir else run.output_dir / "summary"
        self._events = self._module.SummaryWriter(
            logdir=str(folder), purge_step=run.state.global_step + 1
        )

    def on_step_end(self, run: TrainRun, report: StepReport) -> None:
        """Write a record when it is time."""
        if report.global_step % self.collect_freq:
            return
        for name, value in scalars_of(report).items():
            self._events.add_scalar(name, value, report.global_step)
        for parameter in run.step.network.get_parameters():
            if self.pattern is not None and self.pattern.search(parameter.name):
                values = parameter.astype(ms.float32).asnumpy()
                self._events.add_histogram(parameter.name, values, report.global_step)

    def on_train_end(self, run: TrainRun) -> None:
        """Close the file."""
        self._events.close()

    def on_exception(self, run: TrainRun, error: BaseException) -> None:
        """Close the file."""
        if self._events is not None:
            self._events.close()
