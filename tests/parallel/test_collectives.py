"""The exchanges between processes: values, gradients, large messages, both ways at once."""

from __future__ import annotations

from tests.support.shared_runs import ROOT, launch


def test_every_exchange_and_region_agrees_with_numpy(tmp_path):
    said = launch([str(ROOT / "tests/support/collective_check.py")], 4, tmp_path / "logs")
    assert said.count("all well") >= 4
