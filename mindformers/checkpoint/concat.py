"""Fusing split weights by name alone: whole files, or those of ranks with their share of rows.

Per-rank files give rank r ``[q_r | k_r | v_r]`` and ``[gate_r | up_r]``, the interleaving that a
tensor-parallel run with fused weights reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from mindformers.checkpoint.export import (
    ExportOptions,
    carry_files,
    check_output_path,
    export,
    is_folder,
)
from mindformers.checkpoint.json_file import read_json, write_json
from mindformers.checkpoint.keymap import Piece, Stored, locate_pieces
from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.naming import Layout
from mindformers.checkpoint.saving import staged_folder, write_weights
from mindformers.checkpoint.tensor_io import TensorToWrite
from mindformers.checkpoint.transfer import tensors_in_layout
from mindformers.checkpoint.weight_source import WeightSource
from mindformers.errors import CheckpointError

Fusions = Mapping[tuple[str, ...], str]  # ending of each part -> ending of the fused name


def rank_folders(path: Path) -> list[Path]:
    """Return the ``rank_X`` folders of a directory in the order of X; empty when there are none."""
    found = [p for p in path.glob("rank_*") if p.is_dir() and re.fullmatch(r"rank_\d+", p.name)]
    return sorted(found, key=lambda p: int(p.name[5:]))


def fused_tensors(shapes: Mapping[str, tuple[int, ...]], fusions: Fusions) -> list[Stored]:
    """Return the tensors of a file after fusing, in the order of their first parts.

    Args:
        shapes: Name -> axes of what the file holds.
        fusions: The endings to fuse.

    Raises:
        CheckpointError: If only some parts of a fused tensor are there, or none at all.
    """
    by_ending = {part: parts for parts in fusions for part in parts}
    result: dict[str, Stored] = {}
    fused = 0
    for name, shape in shapes.items():
        ending = next((part for part in by_ending if name.endswith(part)), None)
        if ending is None:
            result[name] = Stored(name, (Piece(name, shape or (1,)),))
            continue
        parts = by_ending[ending]
        stem = name[: -len(ending)]
        members = [stem + part for part in parts]
        missing = [member for member in members if member not in shapes]
        if missing:
            raise CheckpointError(f"{missing[0]} is missing beside {name}")
        target = stem + fusions[parts]
        if target not in result:
            fused += 1
            result[target] = Stored(target, tuple(Piece(m, shapes[m]) for m in members))
    if not fused:
        raise CheckpointError(
            "nothing to fuse: no wq, wk, wv, dense_left or dense_right among its "
            f"{len(shapes)} tensors",
            fix="give weights converted with qkv_concat: False, mlp_concat: False",
        )
    return list(result.values())


def _plan(source: WeightSource, fusions: Fusions) -> list[TensorToWrite]:
    try:
        target = fused_tensors(source.shapes, fusions)
    except CheckpointError as error:
        raise CheckpointError(error.found, where=str(source.path), fix=error.fix) from error
    whole = [Stored(name, (Piece(name, s or (1,)),)) for name, s in source.shapes.items()]
    tensors = tensors_in_layout(
        target,
        locate_pieces(whole),
        source.blocks,
        dtype_of=lambda name: source.tensors[name].dtype,
    )
    scalars = {name for name, shape in source.shapes.items() if not shape}
    return [
        TensorToWrite(t.name, t.dtype, (), t.produce) if t.name in scalars else t for t in tensors
    ]


def concat_files(
    input_path: Path,
    output: str | Path,
    fusions: Fusions,
    options: ExportOptions,
    known: Callable[[Iterable[str], str], Layout],
) -> Path:
    """Fuse the tensors of one file, or of every rank's file, and write them.

    Args:
        input_path: A file, a folder with one, or a folder of ``rank_X`` folders.
        output: A file; for rank folders a folder, which gets ``rank_X/checkpoint_X.*``.
        fusions: The endings to fuse.
        options: How to write.
        known: Finds out which layout names are in; only our own can be fused.

    Raises:
        CheckpointError: If there is nothing to fuse, parts are missing or the output may not be
            written.
    """
    target = check_output_path(output, options)
    ranks = rank_folders(input_path)
    if ranks and not is_folder(target):
        raise CheckpointError(
            f"is one file for {len(ranks)} rank folders", where=str(target), allowed="a folder"
        )
    with ExitStack() as stack:
        sources = [
            stack.enter_context(open_weights(path, options.verify))
            for path in ranks or [input_path]
        ]
        for source in sources:
            _require_ours(known(source.tensors, str(source.path)), source.path)
        plans = [_plan(source, fusions) for source in sources]
        if not ranks:
            add = partial(_add_files, sources[0].folder)
            return export(target, plans[0], options, {"format": "ms"}, add)
        options.start(sum(tensor.bytes for plan in plans for tensor in plan))
        folder = stack.enter_context(staged_folder(target))
        for rank, source, plan in zip(ranks, sources, plans, strict=True):
            suffix = f".{options.output_format}" if options.output_format else _suffix(source)
            path = folder / rank.name / f"checkpoint_{rank.name[5:]}{suffix}"
            write_weights(path, plan, metadata={"format": "ms"}, progress=options.progress)
    return target


def _add_files(source: Path, folder: Path) -> None:
    """Carry a folder's configuration, now of fused weights, and its tokenizer along."""
    if (source / "config.json").is_file():
        content = read_json(source / "config.json")
        content |= {key: True for key in ("qkv_concat", "mlp_concat") if key in content}
        write_json(folder / "config.json", content)
        carry_files(source, folder, {})


def _require_ours(layout: Layout, path: Path) -> None:
    if layout.style != "mindformers":
        raise CheckpointError(
            f"has Hugging Face names ({layout.style} layout)",
            where=str(path),
            allowed="weights of MindFormers with wq, wk, wv",
            fix="convert it first without --concat, with qkv_concat: False, mlp_concat: False",
        )


def _suffix(source: WeightSource) -> str:
    return ".ckpt" if any(file.path.suffix == ".ckpt" for file in source.files) else ".safetensors"
