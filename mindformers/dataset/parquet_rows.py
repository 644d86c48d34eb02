"""The rows of a Parquet file one at a time, as those of a JSON file. Needs the ``parquet`` extra."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mindformers.errors import DataError, MissingExtraError

PIP_LINE = "pip install 'mindformers[parquet]'"
_ROWS_AT_ONCE = 256  # bounds the memory, however large a file's row groups are


def parquet_rows(path: Path, report: Callable[[int], None]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``file:row`` and the content of each row; a column without a value is null.

    Args:
        path: The file.
        report: Called with the number of bytes read since the last call.

    Raises:
        MissingExtraError: If pyarrow is not installed.
        DataError: If the file is damaged.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            f"{path} is a Parquet file, which needs pyarrow", fix=f"run: {PIP_LINE}"
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            size, count = path.stat().st_size, max(1, file.metadata.num_rows)
            number = 0
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                report(size * batch.num_rows // count)
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"cannot be read as Parquet: {reason}", where=str(path), fix="copy the file again"
        ) from error
