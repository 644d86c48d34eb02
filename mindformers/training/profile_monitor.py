"""``ProfileMonitor``: where the time of some steps goes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import profiler
from mindspore.profiler import ProfilerActivity, ProfilerLevel, _ExperimentalConfig

from mindformers.checkpoint.atomic import write_text
from mindformers.config.options import refuse_options
from mindformers.errors import ConfigError
from mindformers.logger import logger
from mindformers.ops.native.timing import KernelTimes
from mindformers.parallel.mesh import mesh
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.callback import Callback
from mindformers.training.run import StepReport, TrainRun

KERNELS_FILE = "kernels.json"
_LEVELS = (ProfilerLevel.Level0, ProfilerLevel.Level1, ProfilerLevel.Level2)
_SHOWN = 8
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "start_profile": (),  # the profiler runs from start_step on
    "profile_communication": (),  # messages of an NPU are part of its operators from level 1 on
    "data_simplification": (),
    "profile_pipeline": (False,),
    "config": (None,),
}


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class ProfileMonitor(Callback):
    """Profile some steps into ``<output_path>/rank_<r>``.

    MindSpore's profiler writes its operators (``trace_view.json`` and tables). On a CPU ``kernels.json``
    stands beside: calls and seconds of each native kernel, and the seconds of the steps. The most expensive
    ones are logged.

    Args:
        start_step: First step, counted from 1 of the whole run.
        stop_step: Last step.
        output_path: Folder; None: ``profile`` in the run's output folder.
        profile_rank_ids: Processes to profile; None: all.
        profile_memory: Ascend: memory of operators too.
        profiler_level: Ascend: 0 to 2, how much is recorded.
        with_stack: Record where in Python operators were called.
        mstx: Ascend: record marks.
        options: Upstream's other arguments; ``profile_pipeline`` at False.

    Raises:
        ConfigError: If an argument is out of range or not implemented.
    """

    is_everywhere = True

    def __init__(
        self,
        start_step: int = 1,
        stop_step: int = 10,
        output_path: str | None = None,
        profile_rank_ids: list[int] | None = None,
        profile_memory: bool = False,
        profiler_level: int = 0,
        with_stack: bool = False,
        mstx: bool = False,
        **options: Any,
    ):
        refuse_options("ProfileMonitor", options, _NEUTRAL)
        if start_step < 1 or stop_step < start_step:
            raise ConfigError(
                f"are {start_step} and {stop_step}", where="ProfileMonitor: start_step, stop_step",
                allowed="the first step, 1 or more, and the last one, not before it",
            )  # fmt: skip
        if profiler_level not in range(len(_LEVELS)):
            raise ConfigError(f"is {profiler_level!r}", where="ProfileMonitor.profiler_level",
                              allowed="0, 1 or 2")  # fmt: skip
        self.start_step, self.stop_step, self.output_path = start_step, stop_step, output_path
        self.ranks, self.with_stack = profile_rank_ids, with_stack
        self.profile_memory, self.profiler_level, self.mstx = profile_memory, profiler_level, mstx
        self._profiler: Any = None
        self._kernels = KernelTimes()
        self._steps, self._began = 0, 0.0

    def folder(self, run: TrainRun) -> Path:
        """Return where this process writes."""
        root = Path(self.output_path) if self.output_path else run.output_dir / "profile"
        return root / f"rank_{mesh().layout.rank}"

    def on_train_begin(self, run: TrainRun) -> None:
        """Begin, when the first step of this run is one to profile."""
        self._begin_before(run.state.global_step + 1, run)

    def on_step_end(self, run: TrainRun, report: StepReport) -> None:
        """Begin before the first step to profile, end after the last."""
        self._steps += self._profiler is not None
        if self._profiler is not None and report.global_step >= self.stop_step:
            self._end(run)
        elif self._profiler is None and report.global_step < report.total_steps:
            self._begin_before(report.global_step + 1, run)

    def on_train_end(self, run: TrainRun) -> None:
        """End, where the run is shorter than what was to be profiled."""
        if self._profiler is not None:
            self._end(run)

    def on_exception(self, run: TrainRun, error: BaseException) -> None:
        """Leave the kernels and the profiler as they were."""
        self._kernels.stop()
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

    def _begin_before(self, step: int, run: TrainRun) -> None:
        is_meant = self.ranks is None or mesh().layout.rank in self.ranks
        if not (is_meant and self.start_step <= step <= self.stop_step) or self._steps:
            return
        folder = self.folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        on_npu = ms.get_context("device_target") == "Ascend"
        more: dict[str, Any] = {}
        if on_npu:
            level = _LEVELS[self.profiler_level]
            more["experimental_config"] = _ExperimentalConfig(profiler_level=level, mstx=self.mstx)
        self._profiler = profiler.profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.NPU] if on_npu else [])],
            with_stack=self.with_stack,
            profile_memory=self.profile_memory and on_npu,
            start_profile=False,
            on_trace_ready=profiler.tensorboard_trace_handler(str(folder)),
            **more,
        )
        self._profiler.start()
        self._kernels.start()
        self._began = time.perf_counter()

    def _end(self, run: TrainRun) -> None:
        seconds = time.perf_counter() - self._began
        self._kernels.stop()
        self._profiler.stop()
        self._profiler = None
        found = sorted(self._kernels.found.items(), key=lambda item: -item[1].seconds)
        inside = sum(each.seconds for _, each in found)
        rows = [
            {"kernel": name, "calls": each.calls, "seconds": round(each.seconds, 6),
             "share": round(each.seconds / seconds, 4)}
            for name, each in found
        ]  # fmt: skip
        content = {"steps": self._steps, "seconds": round(seconds, 6),
                   "outside_kernels": round(max(0.0, seconds - inside), 6), "kernels": rows}  # fmt: skip
        write_text(self.folder(run) / KERNELS_FILE, json.dumps(content, indent=1))
        logger.info("profiled %d steps in %.2f s: %s", self._steps, seconds, self.folder(run))
        for name, each in found[:_SHOWN]:
            logger.info("  %-24s %7d calls  %8.3f s  %5.1f %%", name, each.calls, each.seconds,
                        100 * each.seconds / seconds)  # fmt: skip
