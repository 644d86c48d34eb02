"""Before a run starts: what it will take, beside what this machine has free. Needs no MindSpore."""

from __future__ import annotations

from mindformers.config.run_config import RunConfig
from mindformers.errors import MindFormersError
from mindformers.logger import logger
from mindformers.machine import free_memory
from mindformers.parallel.runtime import launched_here, launched_rank
from mindformers.tasks.plan import Plan, plan
from mindformers.tasks.plan_devices import GIB


def announce_memory(config: RunConfig) -> None:
    """Say what each process will take at most, and warn where there is less; the first process of a machine does.

    It is an estimate, so nothing is refused here. Settings that have no plan are refused by the run itself.
    """
    here = launched_here()
    on_cpu = config.context.device_target == "CPU"
    free = free_memory() if on_cpu else None
    if launched_rank() % here or config.model is None or (on_cpu and free is None):
        return
    try:
        found = plan(config, device_memory=None if free is None else free / here)
    except MindFormersError:
        return
    logger.info("%s", _text(found, here, free))
    if not found.fits:
        logger.warning("%s", _warning(found))


def _text(found: Plan, here: int, free: int | None) -> str:
    most = max(each.total for each in found.memory)
    text = f"memory: up to {most / GIB:.1f} GB a process"
    if free is None:
        return f"{text}, of {found.limit / GIB:.1f} GB ({found.limit_reason})"
    return f"{text}, {here} here; {free / GIB:.1f} GB are free on this machine"


def _warning(found: Plan) -> str:
    text = "the run may need more memory than there is and be ended by the system"
    if found.change is None:
        return text
    return (
        f"{text}; the smallest change that makes it fit: {found.change.keys} ({found.change.kind})"
    )
