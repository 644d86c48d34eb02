"""Plan: what a run will need, said before it starts. Needs no device and no MindSpore."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mindformers.config.run_config import RunConfig
from mindformers.errors import ConfigError
from mindformers.parallel.layout import check_layout
from mindformers.tasks.patterns import check_patterns
from mindformers.tasks.plan_change import Change, smallest_change
from mindformers.tasks.plan_devices import GIB, Device, find_device
from mindformers.tasks.plan_job import Job, job_of
from mindformers.tasks.plan_memory import StageMemory, memory_of
from mindformers.tasks.plan_search import Candidate, best_layouts, is_possible
from mindformers.tasks.plan_time import AnswerTime, StepTime, answer_time, step_time
from mindformers.tasks.plan_traffic import Exchange, traffic_of


@dataclass(frozen=True)
class Plan:
    """What a run needs.

    Attributes:
        job: The run.
        device: What its processes compute on.
        limit: Bytes a process may take.
        limit_reason: Where the limit comes from.
        memory: Of each process, by pipeline stage.
        traffic: What each process sends, by pipeline stage.
        time: Of a step, or of an answer.
        change: What makes it fit; None where it does, or nothing would.
        devices: Devices that were asked about; None: none.
        layouts: The fastest layouts for them.
    """

    job: Job
    device: Device
    limit: float
    limit_reason: str
    memory: list[StageMemory]
    traffic: list[list[Exchange]]
    time: StepTime | AnswerTime
    change: Change | None
    devices: int | None
    layouts: list[Candidate]

    @property
    def fits(self) -> bool:
        """Whether every process stays within the limit."""
        return max(each.total for each in self.memory) <= self.limit


def plan(
    config: RunConfig,
    *,
    devices: int | None = None,
    device_memory: float | None = None,
    device: str | None = None,
) -> Plan:
    """Return what a run needs.

    Args:
        config: Its settings; ``run_mode`` says whether it trains or predicts.
        devices: Find the best layouts for so many devices too.
        device_memory: Bytes a process may take; None: what the settings and the device allow.
        device: Name of the device; None: the one the settings are for.

    Raises:
        ConfigError: If the layout does not fit the network, or there is no such device.
    """
    _refuse_unknown(config)
    job = job_of(config)
    check_layout(job.layout, job.sizes())
    _require_possible(job)
    if job.is_training:
        check_patterns(config, job.network)
    chosen = find_device(device, config.context.device_target, job.layout.size)
    job = replace(job, on_cpu=chosen.name == "cpu")
    limit, reason = _limit(config, chosen, device_memory)
    memory = memory_of(job)
    return Plan(
        job=job,
        device=chosen,
        limit=limit,
        limit_reason=reason,
        memory=memory,
        traffic=[traffic_of(job, stage) for stage in range(job.layout.pipeline)],
        time=step_time(job, chosen) if job.is_training else answer_time(job, chosen),
        change=None if max(m.total for m in memory) <= limit else smallest_change(job, limit),
        devices=devices,
        layouts=_layouts(job, devices, config, device_memory, device) if devices else [],
    )


def _layouts(
    job: Job, devices: int, config: RunConfig, given: float | None, name: str | None
) -> list[Candidate]:
    """Return the best layouts for so many devices; processes on a CPU share its cores and memory."""
    each = find_device(name, config.context.device_target, devices)
    limit, _ = _limit(config, each, given)
    return best_layouts(job, devices, limit, each)


def _refuse_unknown(config: RunConfig) -> None:
    """Refuse what a run refuses too, some of it only after its network is built."""
    if config.run_mode == "predict" or config.model is None:
        return
    if config.model.network.quantization:
        raise ConfigError("rounded weights cannot be trained",
                          where="model.model_config.quantization",
                          fix="leave it out, and give it when predicting")  # fmt: skip


def _require_possible(job: Job) -> None:
    if not is_possible(job, job.layout):
        raise ConfigError(
            f"answering is shared by {job.layout}", where="parallel_config",
            allowed="model_parallel alone", fix="set the other degrees to 1",
        )  # fmt: skip


def _limit(config: RunConfig, device: Device, given: float | None) -> tuple[float, str]:
    """Return the bytes a process may take, and why."""
    if given is not None:
        return given, "--device_memory"
    found = re.fullmatch(r"([\d.]+)GB", config.context.max_device_memory)
    allowed = float(found.group(1)) * GIB if found else device.memory
    if device.name != "cpu" and allowed < device.memory:
        return allowed, "context.max_device_memory"
    return device.memory, "the device's memory"
