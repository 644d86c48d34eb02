from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from mindformers.cli.start import loading_modules


@pytest.fixture(autouse=True)
def unfrozen():
    yield
    gc.unfreeze()
    gc.enable()


def test_the_collector_pauses_and_works_again_afterwards():
    with loading_modules():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_works_again_after_an_error_and_stays_off_where_it_was_off():
    with pytest.raises(ImportError), loading_modules():
        raise ImportError("x")
    assert gc.isenabled()
    gc.disable()
    with loading_modules():
        pass
    assert not gc.isenabled()


def test_what_was_loaded_is_not_searched_again_but_later_cycles_are():
    code = (
        "import gc, weakref\n"
        "from mindformers.cli.start import loading_modules\n"
        "with loading_modules():\n"
        "    import argparse, json, logging\n"
        "frozen = gc.get_freeze_count()\n"
        "class Node: pass\n"
        "node = Node(); node.me = node; ref = weakref.ref(node); del node; gc.collect()\n"
        "print(frozen > 1000, ref() is None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
