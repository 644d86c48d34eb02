"""How often the kernels are called and how long they take; MindSpore's profiler does not see them."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from mindformers.ops.native import library


@dataclass
class KernelTime:
    """Calls of one kernel.

    Attributes:
        calls: How many.
        seconds: How long all of them took.
    """

    calls: int = 0
    seconds: float = 0.0


class KernelTimes:
    """Measures the kernels between ``start`` and ``stop``; nothing where there are none.

    Attributes:
        found: Kernel -> its calls.
    """

    def __init__(self) -> None:
        self.found: dict[str, KernelTime] = {}
        self._kernels: Any = None

    def start(self) -> None:
        """Measure from now on."""
        self._kernels = library.kernels()
        if self._kernels is not None:
            library._opened[0] = cast(ctypes.CDLL, _Measured(self._kernels, self.found))

    def stop(self) -> None:
        """Measure no longer."""
        if self._kernels is not None:
            library._opened[0] = self._kernels
            self._kernels = None


class _Measured:
    """The kernels' library, with a clock at every function."""

    def __init__(self, kernels: Any, found: dict[str, KernelTime]):
        self._kernels, self._found = kernels, found

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._kernels, name)

        def measured(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                kernel = self._found.setdefault(name.removeprefix("mf_"), KernelTime())
                kernel.calls += 1
                kernel.seconds += time.perf_counter() - began

        return measured
