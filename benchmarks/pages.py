"""Put the tables and the plot of a recorded run into docs/performance.md and its Chinese page.

    python -m benchmarks.pages .bench/results/RUN.jsonl

Only what stands between the two marks of each page is replaced.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.plots import draw
from benchmarks.summary import Line, read_lines
from benchmarks.table import document

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PLOT = "images/performance.png"
_CHINESE = {
    "The machine": "机器",
    "Ours beside the rivals": "与对照的比较",
    "Growth with the context": "随上下文的增长",
    "Work on files": "文件处理",
    "Every figure": "全部数字",
    "Decode, tokens/s": "解码，词元/秒",
    "Prompt of 1024 tokens, tokens/s": "1024 个词元的提示，词元/秒",
    "Training step, tokens/s": "训练步，词元/秒",
    "LoRA step, tokens/s": "LoRA 步，词元/秒",
    "Start of the process to the first token, seconds": "从进程启动到第一个词元，秒",
    "limit": "极限",
    "median of the rounds' best": "各轮最好值的中位数",
    "size": "规模",
    "size, batch": "规模，批次",
    "form": "数值形式",
    "ours": "本项目",
    "lowest-highest": "最低-最高",
    "of the limit": "占极限",
    "speed over": "速度之比",
    "memory over": "内存之比",
    "work": "工作",
    "who": "谁",
    "median": "中位数",
    "rounds": "轮数",
    "peak MiB": "峰值 MiB",
    "load": "负载",
    "context": "上下文",
    "ms per token": "每词元毫秒",
    "limit, ms": "极限，毫秒",
    "prompt, tokens/s": "提示，词元/秒",
    "limit, tokens/s": "极限，词元/秒",
    "figure": "项目",
    "found": "结果",
}


def in_chinese(text: str) -> str:
    """Translate the titles and the column names of a document; the figures stay."""
    lines = text.split("\n")
    for i, line in enumerate(lines):
        title = re.fullmatch(r"(#+) (.*)", line)
        if title:
            lines[i] = f"{title[1]} {_CHINESE[title[2]]}"
        elif line.startswith("|---"):
            cells = lines[i - 1].strip("| ").split(" | ")
            lines[i - 1] = f"| {' | '.join(_CHINESE[cell] for cell in cells)} |"
    return "\n".join(lines)


def insert(page: str, tables: str, caption: str) -> str:
    """Return a page with its measured part replaced.

    Raises:
        ValueError: If the page lacks the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    body = re.sub(r"^#", "##", tables.strip(), flags=re.M)
    return f"{before}{BEGIN}\n\n![{caption}]({PLOT})\n\n{body}\n\n{END}{after}"


def write(lines: Sequence[Line], docs: Path = DOCS) -> list[Path]:
    """Write both pages and the plot; return what was written."""
    tables = document(lines)
    texts = {
        docs / "performance.md": (tables, "speed, with the limits"),
        docs / "performance_CN.md": (in_chinese(tables), "速度与极限"),
    }
    for path, (text, caption) in texts.items():
        path.write_text(insert(path.read_text("utf-8"), text, caption), "utf-8")
    return [*texts, draw(lines, docs / PLOT)]


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lines", type=Path, help="the .jsonl file of a run")
    for path in write(read_lines(parser.parse_args().lines)):
        print(path)


if __name__ == "__main__":
    main()
