"""The devices a plan can be made for: published peaks, and what we assume can be had of them.

No figure here was measured on Ascend by us. Sources:

- Memory 64 GB, 1.6 TB/s, 353 TFLOP/s in bf16 and fp16 (Ascend 910B2): CANN, guide to moving operators between
  platforms, gitcode.com/cann/ops-transformer, docs/zh/develop/cross_platform_migration_guide.md; ``npu-smi``
  shows 65536 MB (arthurchiao.art, "GPU notes 2").
- Links within a server: every pair of eight devices is linked by HCCS, 392 GB/s for the seven links of a device
  (the same notes); we take half of it each way, as no source names the direction.
- Between servers: one 200 Gbit/s RoCE port for each device (the same notes).
- CPU: 285 GFLOP/s of OpenBLAS's fp32 matrix product and 29 GB/s on two cores (docs/performance.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mindformers.errors import ConfigError, did_you_mean
from mindformers.machine import installed_memory, usable_cpus

GIB = 2**30  # MindSpore's "64GB" and npu-smi's 65536 MB


@dataclass(frozen=True)
class Device:
    """What a process computes on.

    Attributes:
        name: As ``--device`` takes it.
        title: As people call it.
        memory: Bytes.
        flops: Peak of matrix products, operations a second.
        bandwidth: Of its memory, bytes a second.
        per_server: Devices of a server.
        link: From a device to one other of the server, bytes a second each way.
        network: From a device to other servers, bytes a second each way.
        utilisation: Share of ``flops`` that is assumed to be had.
        efficiency: Share of the bandwidths that is assumed to be had.
        latency: Of a message, seconds; assumed.
    """

    name: str
    title: str
    memory: float
    flops: float
    bandwidth: float
    per_server: int
    link: float
    network: float
    utilisation: float
    efficiency: float = 0.7
    latency: float = 20e-6


_ATLAS = Device(
    name="atlas_800t_a2",
    title="Atlas 800T A2 (Ascend 910B, 8 in a server)",
    memory=64 * GIB,
    flops=353e12,
    bandwidth=1.6e12,
    per_server=8,
    link=28e9,
    network=25e9,
    utilisation=0.4,
)
_CPU = Device(
    name="cpu",
    title="one process on a CPU",
    memory=0.0,
    flops=142e9,
    bandwidth=29e9,
    per_server=1024,
    link=1e9,
    network=1e9,
    utilisation=0.85,
    efficiency=0.9,
    latency=200e-6,
)
# The same devices: what differs is cooling and the way servers are put together.
DEVICES = {
    "atlas_800t_a2": _ATLAS,
    "atlas_900_a2": replace(_ATLAS, name="atlas_900_a2", title="Atlas 900 A2 PoD (Ascend 910B, 8 in a node)"),
    "cpu": _CPU,
}  # fmt: skip


def find_device(name: str | None, device_target: str, processes: int = 1) -> Device:
    """Return the device that is meant.

    Args:
        name: As given, in any case, with blanks or hyphens; None: what the settings' device_target is.
        device_target: ``CPU`` or ``Ascend``.
        processes: Those that share this machine, where the device is its CPU.

    Raises:
        ConfigError: If there is none of this name.
    """
    key = re.sub(r"[^a-z0-9]+", "_", (name or "").strip().lower()).strip("_")
    if not name:
        key = "cpu" if device_target == "CPU" else "atlas_800t_a2"
    if key not in DEVICES:
        raise ConfigError(
            f"no device is called {name!r}", where="command line: --device",
            allowed=", ".join(DEVICES), fix=did_you_mean(key, DEVICES),
        )  # fmt: skip
    return _this_cpu(processes) if key == "cpu" else DEVICES[key]


def _this_cpu(processes: int) -> Device:
    """Return a process's share of this machine."""
    cores = usable_cpus()
    return replace(
        _CPU,
        title=f"this machine's CPU: {cores} cores shared by {processes} process{'es' * (processes > 1)}",
        memory=installed_memory() / processes,
        flops=_CPU.flops * cores / processes,
        bandwidth=_CPU.bandwidth / processes,
    )


def link_speed(device: Device, ranks: int, stride: int = 1) -> float:
    """Return the bytes a second that a rank of a group can send, at the efficiency assumed.

    Args:
        device: The device.
        ranks: Of the group.
        stride: From one rank of the group to the next.
    """
    if ranks * stride <= device.per_server:
        links = ranks - 1 if device.name != "cpu" else 1
        return device.efficiency * device.link * max(1, links)
    return device.efficiency * device.network
