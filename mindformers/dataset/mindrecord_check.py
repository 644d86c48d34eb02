"""Find MindRecord files, and check that they fit one another and the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mindformers.checkpoint.atomic import TEMP_PREFIX
from mindformers.checkpoint.step_format import file_sha256
from mindformers.dataset.mindrecord_file import REWRITE, MindRecordFile, read_file, read_header
from mindformers.dataset.mindrecord_pages import INDEX_SUFFIX
from mindformers.errors import DataError, did_you_mean
from mindformers.logger import warn_once

_NAME = re.compile(r"mindrecord\d*$")


def find_files(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the data files that ``dataset_dir`` means, sorted within a folder.

    Args:
        source: A file (then its sibling partitions too), a folder that is searched for names ending
            in ``mindrecord`` and digits, with its sub-folders, or a list of files.

    Raises:
        DataError: If there is none.
    """
    if not isinstance(source, str | Path):
        if not source:
            raise DataError("the list of data files is empty", where="dataset_dir")
        return list(dict.fromkeys(file for item in source for file in _one_file(Path(item))))
    if not str(source):
        raise DataError(
            "no training data is given",
            where="train_dataset.data_loader.dataset_dir",
            fix="add --train_dataset FILE_OR_FOLDER",
        )
    path = Path(source)
    if not path.is_dir():
        files = _one_file(path)
        siblings = read_header(files[0]).partitions if len(files) == 1 else ()
        return [path.with_name(name) for name in siblings] or files
    found = sorted(file for file in path.rglob("*") if _is_data_file(file, path))
    if not found:
        raise DataError(
            "the folder holds no MindRecord file",
            where=str(path),
            allowed="files whose names end in 'mindrecord' and digits",
            fix="make one with glm4_preprocess.py, give the file itself, or read files of text with "
            "data_loader.type JsonDataLoader",
        )
    return found


def _is_data_file(file: Path, root: Path) -> bool:
    is_finished = not any(part.startswith(TEMP_PREFIX) for part in file.relative_to(root).parts)
    return is_finished and bool(_NAME.search(file.name)) and file.is_file()


def _one_file(path: Path) -> list[Path]:
    if path.is_file():
        if path.name.endswith(INDEX_SUFFIX):
            raise DataError(
                "this is an index file",
                where=str(path),
                fix=f"give the data file beside it: {path.name.removesuffix(INDEX_SUFFIX)}",
            )
        return [path]
    partitions = re.compile(re.escape(path.name) + r"\d+")
    names = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    if found := [path.with_name(name) for name in names if partitions.fullmatch(name)]:
        return found
    kind = "it is a folder" if path.is_dir() else "there is no such file"
    raise DataError(f"{kind}", where=str(path), fix=did_you_mean(path.name, names))


def check_files(
    files: Sequence[Path], *, seq_length: int | None = None, vocab_size: int | None = None
) -> list[MindRecordFile]:
    """Check files against one another, the model and their own checksums; return what they hold.

    Args:
        files: Data files. Every partition of a data set must exist; one that is not among them is
            warned about.
        seq_length: The model's row length (tokens); None: whatever the files have.
        vocab_size: Rows of the model's embedding; None: not checked.

    Raises:
        DataError: If a file is truncated, changed since it was written, of another schema or
            length, holds ids beyond the vocabulary, or if an index or a partition is missing.
    """
    checked = [read_file(path) for path in files]
    given = {path.resolve() for path in files}
    for file in checked:
        _check_partitions(file, given)
        _check_facts(file, seq_length, vocab_size)
    return checked


def _check_partitions(file: MindRecordFile, given: set[Path]) -> None:
    for sibling in map(file.path.with_name, file.partitions):
        if not sibling.exists():
            raise DataError(
                f"belongs to a data set of {len(file.partitions)} files, "
                f"of which {sibling.name} is missing",
                where=str(file.path),
                fix=f"copy it here too, or {REWRITE}",
            )
        if sibling.resolve() not in given:
            warn_once("%s is not read: the list of data files leaves it out", sibling)


def _check_facts(file: MindRecordFile, seq_length: int | None, vocab_size: int | None) -> None:
    facts = file.facts
    if "sha256" in facts and facts["sha256"] != file_sha256(file.path):
        raise DataError(
            "the content has changed since the file was written (its sha256 differs)",
            where=str(file.path),
            fix=f"copy it again, or {REWRITE}",
        )
    found = facts.get("seq_length", "")
    if found.isdigit() and seq_length is not None:
        check_length(int(found), seq_length, file.path)
    largest = facts.get("max_token_id", "")
    if largest.isdigit() and vocab_size is not None:
        check_vocabulary(int(largest), vocab_size, file.path)


def check_length(found: int, seq_length: int, path: Path) -> None:
    """Raise a DataError when rows of ``found`` tokens go to a model of ``seq_length``."""
    if found != seq_length:
        raise DataError(
            f"rows have {found} tokens, the model's seq_length is {seq_length}",
            where=str(path),
            fix=f"set model.model_config.seq_length to {found}, "
            f"or make the data set again with --seq_length {seq_length}",
        )


def check_vocabulary(largest: int, vocab_size: int, path: Path) -> None:
    """Raise a DataError when an id is beyond the model's embedding."""
    if largest >= vocab_size:
        raise DataError(
            f"token id {largest} is beyond the model's vocabulary",
            where=str(path),
            allowed=f"0 to {vocab_size - 1} (padded_vocab_size {vocab_size})",
            fix="use the vocabulary and the configuration of one model",
        )
