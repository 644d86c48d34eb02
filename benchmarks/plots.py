"""Figures -> one PNG: bars of all contestants with the physical limit drawn in, and the growth curves."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plan import COMPILED, LLAMA, OURS, PEFT, TRANSFORMERS
from benchmarks.summary import Figure, Key, Line, figures, limit_of, machine_limits, read_lines
from benchmarks.table import number

_COLOURS = {
    OURS: "#c8442c",
    TRANSFORMERS: "#4a6fa5",
    COMPILED: "#7fa3d1",
    PEFT: "#4a6fa5",
    LLAMA: "#6a994e",
}
_COLUMNS = 3
_LIMIT = "#222222"
_FARTHEST = 2.5  # a limit farther off than this many longest bars is told, not drawn
Panel = list[tuple[Key, Figure]]


def _panels(found: Mapping[Key, Figure]) -> dict[tuple[str, str, int], Panel]:
    panels: dict[tuple[str, str, int], Panel] = {}
    for key, figure in found.items():
        if key.what != "growth" and figure.values:
            panels.setdefault((key.what, key.config, key.batch), []).append((key, figure))
    order = list(_COLOURS)
    for panel in panels.values():
        panel.sort(key=lambda pair: (order.index(pair[0].who), pair[0].dtype))
    return panels


def _bars(axes: Any, panel: Panel, machine: Mapping[str, float]) -> None:
    longest = max(max(figure.values.values()) for _, figure in panel)
    for row, (key, figure) in enumerate(panel):
        values = figure.values.values()
        middle = figure.median
        spread = [[middle - min(values)], [max(values) - middle]]
        axes.barh(row, middle, color=_COLOURS[key.who], xerr=spread, ecolor="#888888", height=0.7)
        limit, said = limit_of(key, machine), f" {number(middle)}"
        if limit and limit <= _FARTHEST * longest:
            axes.plot([limit, limit], [row - 0.45, row + 0.45], color=_LIMIT, linewidth=1.6)
        elif limit:  # drawn, it would flatten the bars
            said += f"   (limit {number(limit)})"
        axes.annotate(said, (max(values), row), va="center", fontsize=7)
    axes.set_yticks(range(len(panel)), [f"{key.who} {key.dtype}" for key, _ in panel], fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.3)
    key, figure = panel[0]
    lower = ", lower is better" if figure.unit == "s" else ""
    axes.set_title(f"{key.what}, {key.config}, batch {key.batch}", fontsize=9)
    axes.set_xlabel(f"{figure.unit}{lower}", fontsize=7)
    axes.tick_params(axis="x", labelsize=7)


def _curves(
    axes: Any, found: Mapping[Key, Figure], machine: Mapping[str, float], part: str
) -> None:
    lines: dict[tuple[str, str, str], list[tuple[int, float, float | None]]] = {}
    for key, figure in found.items():
        if key.part == part and figure.values:
            limit = limit_of(key, machine)
            lines.setdefault((key.config, key.who, key.dtype), []).append(
                (key.context, figure.median, limit)
            )
    decodes = part == "decode"
    for name, points in lines.items():
        points.sort()
        contexts = [point[0] for point in points]
        shown = [1000 / speed if decodes else speed for _, speed, _ in points]
        (drawn,) = axes.plot(contexts, shown, marker="o", markersize=3, label=" ".join(name))
        if all(limit for _, _, limit in points):
            bound = [1000 / limit if decodes else limit for _, _, limit in points if limit]
            axes.plot(contexts, bound, linestyle="--", linewidth=1, color=drawn.get_color())
    axes.set_title("time per token" if decodes else "prompt", fontsize=9)
    axes.set_ylabel("ms" if decodes else "tokens/s", fontsize=7)
    axes.set_xlabel("context, tokens (dashed: limit)", fontsize=7)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({context for points in lines.values() for context, _, _ in points})
    axes.set_xticks(ticks, [f"{context // 1024}K" for context in ticks])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(which="both", labelsize=6)
    axes.legend(fontsize=7)


def draw(lines: Sequence[Line], target: Path) -> Path:
    """Draw all figures of a run; return the file.

    Args:
        lines: The recorded lines.
        target: A ``.png`` path.

    Raises:
        ModuleNotFoundError: If matplotlib is missing; it comes with the ``viz`` extra.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found, machine = figures(lines), machine_limits(lines)
    panels = _panels(found)
    grows = any(key.what == "growth" and figure.values for key, figure in found.items())
    count = len(panels) + (2 if grows else 0)
    rows = max(1, -(-count // _COLUMNS))
    size = (5.2 * _COLUMNS, 2.9 * rows + 0.5)
    page, grid = pyplot.subplots(rows, _COLUMNS, figsize=size, squeeze=False)
    every = list(grid.flat)
    for axes, panel in zip(every, panels.values(), strict=False):
        _bars(axes, panel, machine)
    if grows:
        _curves(every[len(panels)], found, machine, "decode")
        _curves(every[len(panels) + 1], found, machine, "prefill")
    for axes in every[count:]:
        axes.axis("off")
    units = {line["what"]: line["unit"] for line in lines if line["who"] == "limit"}
    described = ", ".join(
        f"{what} {number(value)} {units[what]}" for what, value in machine.items()
    )
    page.suptitle(f"Black marks: what the machine allows ({described})", fontsize=9)
    page.tight_layout()
    target.parent.mkdir(parents=True, exist_ok=True)
    page.savefig(target, dpi=110)
    pyplot.close(page)
    return target


def main() -> None:
    """Draw a recorded run again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", type=Path, help="the .jsonl file of a run")
    parser.add_argument("target", type=Path, help="the .png file to write")
    arguments = parser.parse_args()
    print(draw(read_lines(arguments.lines), arguments.target))


if __name__ == "__main__":
    main()
