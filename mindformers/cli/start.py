"""Loading modules quickly: Python's search for garbage pauses while there can be hardly any."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading_modules() -> Iterator[None]:
    """Pause the collector of reference cycles; afterwards what was loaded is never searched again.

    Modules stay until the end of the process, and going through the objects of hundreds of them again
    and again takes a tenth of the time until a run begins. Only a process that is ours from its start
    may do this, so it belongs to the command lines.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
