"""Start MindSpore for a run: versions, device, mode, seed. The one place that decides about processes.

``check_machine`` needs no MindSpore, so a wrong installation is reported before anything is loaded.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from mindformers.errors import DeviceError
from mindformers.logger import logger, warn_once
from mindformers.parallel.heartbeat import beat
from mindformers.parallel.layout import Layout
from mindformers.parallel.mesh import activate

GRAPH_MODE, PYNATIVE_MODE = 0, 1
TESTED_MINDSPORE = "2.10.0"
_WORLD_SIZE = "MS_WORKER_NUM"  # set by msrun and by our launcher
LOCAL_SIZE = "MINDFORMERS_LOCAL_PROCESSES"  # of the run's processes those on this machine; set by our launcher
TESTED_PYTHON = ((3, 10), (3, 12))


def check_versions() -> None:
    """Refuse what is known not to work and warn about what was not tried.

    Raises:
        DeviceError: If MindSpore is missing, or NumPy or Python is of a release it cannot run with.
    """
    lowest, highest = TESTED_PYTHON
    if not lowest <= sys.version_info[:2] <= highest:
        raise DeviceError(
            f"Python {sys.version.split()[0]}",
            allowed="Python 3.10 to 3.12",
            fix="make a virtual environment with one of those",
        )
    found = _release("mindspore")
    if found is None:
        raise DeviceError(
            "MindSpore is not installed",
            allowed=f"mindspore {TESTED_MINDSPORE}",
            fix=f"run: pip install mindspore=={TESTED_MINDSPORE}",
        )
    if found != TESTED_MINDSPORE:
        warn_once(
            "MindSpore %s is installed; this release was tested with %s", found, TESTED_MINDSPORE
        )
    numpy = _release("numpy")
    if numpy is None or int(numpy.split(".")[0]) >= 2:
        raise DeviceError(
            f"NumPy {numpy} with MindSpore {found}" if numpy else "NumPy is not installed",
            allowed="numpy>=1.25,<2",
            fix="run: pip install 'numpy>=1.25,<2'",
        )


def _release(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _load_mindspore() -> Any:
    try:
        return importlib.import_module("mindspore")
    except ImportError as error:
        raise DeviceError(
            f"MindSpore cannot be loaded: {' '.join(str(error).split())}",
            fix=f"run: pip install --force-reinstall mindspore=={TESTED_MINDSPORE}",
        ) from error


def check_machine(device_target: str, use_parallel: bool = False) -> None:
    """Refuse a run this machine cannot start, before MindSpore is loaded.

    Args:
        device_target: ``CPU`` or ``Ascend``.
        use_parallel: As in ``start_runtime``.

    Raises:
        DeviceError: If the installation does not do, the device is not there, or this process was not
            started as ``use_parallel`` says.
    """
    _check_processes(use_parallel)
    check_versions()
    if device_target == "Ascend" and not _has_npu():
        raise DeviceError(
            "no NPU found on this machine (device_target Ascend)",
            allowed="CPU here",
            fix="add --device_target CPU",
        )


def launched_processes() -> int:
    """Return how many processes a launcher has started for this run; 1 without a launcher."""
    return int(os.environ.get(_WORLD_SIZE, "1") or 1)


def launched_here() -> int:
    """Return how many of them run on this machine; all, where the launcher does not say."""
    return int(os.environ.get(LOCAL_SIZE) or launched_processes())


def launched_rank() -> int:
    """Return this process's rank as the launcher has it; 0 without a launcher."""
    if launched_processes() == 1:
        return 0
    return int(os.environ.get("RANK_ID") or os.environ.get("MS_NODE_ID") or 0)


def _check_processes(use_parallel: bool) -> None:
    count = launched_processes()
    if use_parallel and _WORLD_SIZE not in os.environ:
        raise DeviceError(
            "use_parallel is True, but this is a process on its own",
            allowed="processes started by a launcher",
            fix='start with: bash scripts/msrun_launcher.sh "run_mindformer.py ..." NUMBER, '
            "or add --use_parallel False",
        )
    if not use_parallel and count > 1:
        raise DeviceError(
            f"{count} processes were started, but use_parallel is False: each would do the whole run",
            allowed="use_parallel True",
            fix="add --use_parallel True, or start one process",
        )


def _has_npu() -> bool:
    return any(Path("/dev").glob("davinci*"))


def default_device() -> str:
    """Return where a network computes that nobody chose a device for; MindSpore is not loaded for it."""
    loaded = sys.modules.get("mindspore")
    if loaded is not None:
        return str(loaded.get_context("device_target"))
    return "Ascend" if _has_npu() else "CPU"


def start_runtime(
    *,
    device_target: str = "CPU",
    mode: int = GRAPH_MODE,
    device_id: int = 0,
    seed: int | None = None,
    layout: Layout | None = None,
    has_native_cells: bool = False,
    **options: Any,
) -> None:
    """Set MindSpore up for this process and, with others, the groups they exchange tensors in.

    Args:
        device_target: ``CPU`` or ``Ascend``.
        mode: 0 graph, 1 PyNative.
        device_id: Which NPU.
        seed: Seed of MindSpore's and NumPy's global generators; None leaves them alone.
        layout: How the processes share the run, seen from this one; None: it runs alone.
        has_native_cells: Networks will be made of our own kernels for a CPU, which a graph cannot hold:
            they run in PyNative mode, whatever ``mode`` says.
        **options: ``max_call_depth``, ``save_graphs``, ``save_graphs_path``, ``max_device_memory``.

    Raises:
        DeviceError: If the device is not there, or the other processes are not.
    """
    is_shared = layout is not None and not layout.is_single
    check_machine(device_target, use_parallel=layout is not None)
    ms = _load_mindspore()
    _set_device(ms, device_target, device_id)
    if device_target == "CPU" and has_native_cells:
        mode = _without_graphs(mode, "native kernels")
    elif is_shared:
        mode = _without_graphs(mode, "several processes")
    ms.set_context(mode=mode)
    _set_options(ms, device_target, options)
    if mode == PYNATIVE_MODE and device_target == "CPU":
        # Without it the launch threads starve one another on a small machine: 10 to 40 times slower.
        ms.runtime.launch_blocking()
    if layout is not None and is_shared:
        _join(ms, layout, device_target)
    if seed is not None:
        ms.set_seed(seed)
    name = "graph" if mode == GRAPH_MODE else "PyNative"
    logger.info("MindSpore %s on %s, %s mode", ms.__version__, device_target, name)


def _set_device(ms: Any, device_target: str, device_id: int) -> None:
    try:
        ms.set_device(device_target, device_id if device_target == "Ascend" else None)
    except (RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, RuntimeError) and _is_device(ms, device_target, device_id):
            return  # a network ran before, on the device that is asked for
        raise DeviceError(
            f"device_target {device_target}: {(str(error) or type(error).__name__).splitlines()[0]}",
            allowed="CPU or Ascend",
            fix="check the MindSpore installation",
        ) from error


def _without_graphs(mode: int, reason: str) -> int:
    """Return PyNative mode, and say why where graphs were asked for."""
    if mode == GRAPH_MODE:
        logger.info("%s: networks run in PyNative mode, no graph is compiled", reason)
    return PYNATIVE_MODE


def _is_device(ms: Any, device_target: str, device_id: int) -> bool:
    """Return whether MindSpore works on a device already."""
    if ms.get_context("device_target") != device_target:
        return False
    return device_target != "Ascend" or ms.get_context("device_id") == device_id


def _set_options(ms: Any, device_target: str, options: dict[str, Any]) -> None:
    """Set those options of ``start_runtime`` that are given."""
    if options.get("max_call_depth"):
        ms.set_recursion_limit(options["max_call_depth"])
    if options.get("save_graphs"):
        ms.set_context(
            save_graphs=True, save_graphs_path=options.get("save_graphs_path", "./graph")
        )
    if device_target == "Ascend" and options.get("max_device_memory"):
        ms.runtime.set_memory(max_size=options["max_device_memory"])


def _join(ms: Any, layout: Layout, device_target: str) -> None:
    """Meet the other processes and make the groups of the layout."""
    began = time.monotonic()
    beat("waiting for the other processes")
    try:
        ms.communication.init("mccl" if device_target == "CPU" else "hccl")
        rank = ms.communication.get_rank()
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"the processes did not meet: {(str(error) or type(error).__name__).splitlines()[0]}",
            fix="look at the logs of the other processes and of the scheduler",
        ) from error
    if rank != layout.rank:
        raise DeviceError(f"MindSpore made rank {rank} of this process", allowed=f"{layout.rank}")
    activate(layout, device_target)
    logger.info(
        "rank %d of %d (%s), met after %.1f s",
        rank, layout.size, layout, time.monotonic() - began,
    )  # fmt: skip
