from __future__ import annotations

import sys

import numpy as np
import pytest

from mindformers.dataset.tally import Tally
from mindformers.errors import DataError
from mindformers.tools.dataset_preprocess.preview import print_sample, printable, trained_runs
from mindformers.tools.dataset_preprocess.report import counts, print_table, progress_bar


class Letters:
    """Decodes id 1 to a, 2 to b, ..."""

    def decode(self, ids, skip_special_tokens=False, spaces_between_special_tokens=True):
        assert (skip_special_tokens, spaces_between_special_tokens) == (False, False)
        return "".join(chr(96 + token) for token in ids)


def test_tallies_add_up_and_keep_the_first_messages() -> None:
    first, second = (
        Tally(rows_read=3, tokens=10, trained_tokens=4),
        Tally(rows_read=5, tokens=30, truncated=1, cut_tokens=7),
    )
    for tally, name in ((first, "a"), (second, "b")):
        for number in range(2):
            tally.drop("malformed", DataError(f"{name}{number}"))
    second.drop("too long", DataError("c"))
    first.add(second)
    assert (
        first.rows_read,
        first.tokens,
        first.trained_tokens,
        first.truncated,
        first.cut_tokens,
    ) == (8, 40, 4, 1, 7)
    assert first.dropped == {"malformed": 4, "too long": 1}
    assert first.examples == {"malformed": ["a0", "a1", "b0"], "too long": ["c"]}
    assert first.advice() == "the first one: a0"
    assert counts(first, 2.0) == {
        "rows read": "8", "rows written": "0", "tokens": "40", "trained tokens": "4 (10.0 %)",
        "truncated rows": "1 (7 tokens cut)", "dropped rows": "5", "  malformed": "4", "  too long": "1", "rows/s": "4",
    }  # fmt: skip


def test_runs_follow_the_shifted_labels() -> None:
    # The conversation a b c d e, of which c and d are learnt; two positions are filled up.
    ids, labels = np.array([1, 2, 3, 4, 5, 9, 9]), np.array([-100, 3, 4, -100, -100, -100, -100])
    assert trained_runs(Letters(), ids[:5], labels[:5]) == [
        ("ab", False),
        ("cd", True),
        ("e", False),
    ]
    # A full row whose last label is the token beyond it.
    assert trained_runs(Letters(), np.array([1, 2]), np.array([-100, 3])) == [
        ("ab", False),
        ("c", True),
    ]


def test_control_characters_are_written_out() -> None:
    assert printable("a\x1b[31m\r\n\t\x07你\u202e") == "a\\x1b[31m\\r\n\t\\x07你\\u202e"


def test_a_terminal_gets_colour_and_a_frame(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    print_sample(1, [("[bold]given", False), ("learnt", True)], "2 of 4 tokens")
    print_table("title", {"rows": "3"})
    with progress_bar("data", 100) as bar:
        bar.add_bytes(50)
        bar.show_rows(3)
    shown = capsys.readouterr()
    assert "\x1b[2m[bold]given" in shown.out  # text of the data is no markup
    assert "\x1b[1;32mlearnt" in shown.out
    assert "│ rows │ 3 │" in shown.out
    assert "data" in shown.err


def test_no_terminal_gets_plain_text(capsys: pytest.CaptureFixture) -> None:
    print_table("title", {"rows": "3", "rows/s": "10"})
    with progress_bar("data", 100) as bar:
        bar.add_bytes(50)
        bar.show_rows(3)
    assert capsys.readouterr() == ("title\n  rows    3\n  rows/s  10\n", "")
