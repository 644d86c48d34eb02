from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from mindformers.checkpoint.manifest import (
    clean_leftovers,
    committed_steps,
    keep_latest,
    latest_step,
    read_step_folder,
    write_step_folder,
)
from mindformers.errors import CheckpointError


def save(root: Path, name: str, step: int | None = None, text: str = "w") -> Path:
    info = {} if step is None else {"step": step, "lr": 0.5}
    return write_step_folder(root, name, {"a.bin": lambda p: p.write_text(text)}, info)


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_step_gives_back_its_info_and_files(tmp_path):
    folder = save(tmp_path / "new" / "root", "step_5", 5)
    assert read_step_folder(folder) == {"step": 5, "lr": 0.5}
    assert (folder / "a.bin").read_text() == "w"
    manifest = json.loads((folder / "manifest.json").read_text())
    # sha256 of the single byte "w"
    assert manifest["files"]["a.bin"] == [
        1,
        "50e721e49c013f00c62cf59f2163542a9d8df02464efeb615d31051b0fddc326",
    ]


def test_steps_are_ordered_by_number_not_by_name(tmp_path):
    for step in (10, 9, 100):
        save(tmp_path, f"step_{step}", step)
    assert names(committed_steps(tmp_path)) == ["step_9", "step_10", "step_100"]


def test_without_a_step_in_the_info_the_last_number_of_the_name_counts(tmp_path):
    for name in ("glm_rank_0-1_20", "glm_rank_0-1_3"):
        save(tmp_path, name)
    assert names(committed_steps(tmp_path)) == ["glm_rank_0-1_3", "glm_rank_0-1_20"]


def test_of_two_steps_of_one_number_the_later_written_is_the_newest(tmp_path):
    save(tmp_path, "b", 5)
    save(tmp_path, "a", 5)
    assert latest_step(tmp_path).name == "a"


def test_writing_a_name_again_replaces_the_step(tmp_path):
    save(tmp_path, "step_5", 5, "old")
    folder = save(tmp_path, "step_5", 5, "new")
    assert (folder / "a.bin").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["step_5"]


def test_pointer_files_and_foreign_folders_do_not_matter(tmp_path, caplog):
    save(tmp_path, "step_1", 1)
    save(tmp_path, "step_2", 2)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("\0garbage")
    (tmp_path / "meta.json").write_text("")
    (tmp_path / "step_3").mkdir()
    with caplog.at_level(logging.INFO, "mindformers"):
        assert latest_step(tmp_path).name == "step_2"
    assert "chosen: step_2, the highest valid of 2 steps" in caplog.text


def test_a_damaged_newest_step_is_named_and_the_one_before_is_taken(tmp_path, caplog):
    save(tmp_path, "step_1", 1)
    newest = save(tmp_path, "step_2", 2)
    (newest / "a.bin").write_text("x")
    assert latest_step(tmp_path).name == "step_1"
    assert "step step_2 is skipped" in caplog.text
    assert "sha256 mismatch" in caplog.text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "a.bin").unlink(), r"a\.bin: missing \(No such file"),
        (lambda f: (f / "a.bin").write_text("longer"), r"a\.bin: has 6 bytes, the manifest says 1"),
        (lambda f: (f / "a.bin").write_text("x"), "sha256 mismatch"),
        (lambda f: (f / "manifest.json").write_text(""), r"manifest\.json: damaged: "),
        (lambda f: (f / "manifest.json").write_text("[" * 100_000), r"manifest\.json: damaged: "),
        (lambda f: (f / "manifest.json").unlink(), "is not a committed step"),
        (
            lambda f: (f / "manifest.json").write_text(
                (f / "manifest.json").read_text().replace('"step": 1', '"step": 7')
            ),
            "its digest does not match",
        ),
    ],
)
def test_each_damage_is_named(tmp_path, damage, message):
    folder = save(tmp_path, "step_1", 1)
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        read_step_folder(folder)


def test_without_verify_only_sizes_are_compared(tmp_path):
    folder = save(tmp_path, "step_1", 1)
    (folder / "a.bin").write_text("x")
    assert read_step_folder(folder, verify=False)["step"] == 1


def test_a_failing_writer_leaves_nothing(tmp_path):
    def fail(path: Path) -> None:
        path.write_text("half")
        Path("/dev/full").write_text("x")

    save(tmp_path, "step_1", 1)
    with pytest.raises(CheckpointError, match="step_2: cannot write: No space left on device"):
        write_step_folder(tmp_path, "step_2", {"a": fail}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step_1"]


def test_retention_keeps_the_newest_steps(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, f"step_{step}", step)
    assert names(keep_latest(tmp_path, 2)) == ["step_1"]
    assert names(committed_steps(tmp_path)) == ["step_2", "step_3"]
    assert keep_latest(tmp_path, 0) == []


def test_retention_keeps_the_step_written_last_even_if_it_is_not_the_highest(tmp_path):
    save(tmp_path, "step_9", 9)
    save(tmp_path, "step_3", 3)
    save(tmp_path, "step_4", 4)  # the run went back to step 3 and on
    keep_latest(tmp_path, 1)
    assert names(committed_steps(tmp_path)) == ["step_4", "step_9"]


def test_a_spared_step_stays_and_is_not_counted(tmp_path):
    for number in (1, 2, 3, 4):
        save(tmp_path, f"step_{number}", number)
    assert names(keep_latest(tmp_path, 1, ["step_2"])) == ["step_1", "step_3"]
    assert names(committed_steps(tmp_path)) == ["step_2", "step_4"]
    assert keep_latest(tmp_path, 1, ["step_4"]) == []


def test_leftovers_of_dead_processes_are_removed(tmp_path):
    save(tmp_path, "step_1", 1)
    (tmp_path / ".tmp-999999999-abababab").mkdir()
    (tmp_path / ".tmp-999999999-abababab" / "a.bin").write_text("half")
    (tmp_path / ".tmp-999999999-cdcdcdcd.txt").write_text("half")
    assert len(clean_leftovers(tmp_path)) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["step_1"]
    assert clean_leftovers(tmp_path / "absent") == []


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "x.replaced", ""])
def test_a_name_that_is_no_plain_folder_name_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="cannot name a step"):
        save(tmp_path, name, 1)


@pytest.mark.parametrize("name", ["/etc/x", "../x", "manifest.json"])
def test_a_file_name_that_leaves_the_folder_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="cannot name a file of a step"):
        write_step_folder(tmp_path, "step_1", {name: lambda p: p.write_text("x")}, {})


def test_a_folder_that_is_no_step_is_not_replaced(tmp_path):
    (tmp_path / "step_1").mkdir()
    (tmp_path / "step_1" / "thesis.txt").write_text("x")
    with pytest.raises(CheckpointError, match="exists and is not a step"):
        save(tmp_path, "step_1", 1)
