"""A plan as text: tables on a terminal, the same in plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from mindformers.tasks.plan import Plan
from mindformers.tasks.plan_devices import GIB
from mindformers.tasks.plan_memory import StageMemory, cache_tokens
from mindformers.tasks.plan_search import layout_keys, peak
from mindformers.tasks.plan_time import AnswerTime, bubble_share
from mindformers.tasks.plan_traffic import total_sent

_MEMORY = (
    "stage", "ranks", "layers", "parameters", "weights", "optimizer", "copies", "gradients",
    "activations", "logits", "cache", "process", "total", "fits",
)  # fmt: skip
_SETTINGS = "settings"  # a column of sentences: written from the left


@dataclass(frozen=True)
class Table:
    """Rows under a title.

    Attributes:
        title: What they are.
        header: Names of the columns.
        rows: Texts.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def show(plan: Plan, stream: TextIO) -> None:
    """Write a plan."""
    if not stream.isatty():
        stream.write(as_text(plan))
        return
    from rich.console import Console  # brings much, and only a terminal needs it
    from rich.table import Table as RichTable

    console = Console(file=stream, highlight=False, markup=False)
    for part in parts_of(plan):
        if isinstance(part, str):
            console.print(part)
            continue
        table = RichTable(title=part.title, title_justify="left")
        for index, name in enumerate(part.header):
            is_text = index == 0 or name == _SETTINGS
            table.add_column(name, justify="left" if is_text else "right")
        for row in part.rows:
            table.add_row(*row)
        console.print(table)


def as_text(plan: Plan) -> str:
    """Return a plan in plain lines."""
    return "".join(
        f"{part}\n" if isinstance(part, str) else _lines(part) for part in parts_of(plan)
    )


def _lines(table: Table) -> str:
    rows = [list(table.header), *map(list, table.rows)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(table.header))]
    lines = [
        "  ".join(
            text if name == _SETTINGS else text.rjust(width)
            for name, text, width in zip(table.header, row, widths, strict=True)
        )
        for row in rows
    ]
    return "\n".join(["", table.title, *lines, ""])


def parts_of(plan: Plan) -> Iterator[str | Table]:
    """Yield the lines and tables of a plan, in order."""
    yield from _head(plan)
    yield _memory(plan)
    yield from _traffic(plan)
    yield ""
    yield from _time(plan)
    yield _verdict(plan)
    yield from _layouts(plan)
    yield ""
    yield _assumptions(plan)


def _head(plan: Plan) -> Iterator[str]:
    job = plan.job
    what = "finetune" if job.is_training else "predict"
    if job.adapters is not None:
        what += f" with adapters of rank {job.adapters.lora_rank}"
    if job.prefix is not None:
        what += f" with a prefix of {job.prefix_length} positions"
    count = job.layout.size
    yield f"plan: {what} on {count} device{'s' * (count > 1)} ({job.layout})"
    yield f"device: {plan.device.title}; a process may take {_gib(plan.limit)} GB ({plan.limit_reason})"
    if job.is_training:
        parts = f"{job.micro_batches} micro batch{'es' * (job.micro_batches > 1)}"
        yield (f"step: {parts} of {job.rows} x {job.length} tokens in each copy, "
               f"{job.step_tokens:,} tokens")  # fmt: skip
    else:
        yield (f"answers: {job.rows} at once, prompt and answer of {job.length:,} tokens; "
               f"the cache holds {cache_tokens(job):,}")  # fmt: skip


def _memory(plan: Plan) -> Table:
    rows = [_memory_row(plan, each) for each in plan.memory]
    kept = [index for index, name in enumerate(_MEMORY)
            if name in ("stage", "fits") or any(row[index] not in ("0", "-") for row in rows)]  # fmt: skip
    return Table(
        "memory of a process, GB",
        [_MEMORY[index] for index in kept],
        [[row[index] for index in kept] for row in rows],
    )


def _memory_row(plan: Plan, each: StageMemory) -> list[str]:
    width = plan.job.layout.size // plan.job.layout.pipeline
    first = each.stage * width
    ranks = f"{first}-{first + width - 1}" if width > 1 else str(first)
    figures = (
        each.weights, each.optimizer, each.copies, each.summed + each.newest, each.activations,
        each.vocabulary, each.cache, each.process, each.total,
    )  # fmt: skip
    fits = "yes" if each.total <= plan.limit else "NO"
    head = [str(each.stage), ranks, str(each.layers), f"{each.parameters:,}"]
    return [*head, *(_gib(figure) for figure in figures), fits]


def _traffic(plan: Plan) -> Iterator[Table]:
    rows = [
        [str(stage), group, kind, f"{sent / 1e6:,.1f}", f"{messages:,}"]
        for stage, exchanges in enumerate(plan.traffic)
        for (group, kind), (sent, messages) in total_sent(exchanges).items()
    ]
    if rows:
        when = "in a step" if plan.job.is_training else "for the prompts"
        header = ("stage", "group", "kind", "MB", "messages")
        yield Table(f"sent by a process {when}", header, rows)


def _time(plan: Plan) -> Iterator[str]:
    time = plan.time
    if isinstance(time, AnswerTime):
        yield (f"estimate: first token after {_seconds(time.prompt)}, then {_seconds(time.token)} a token, "
               f"{time.tokens_per_second:,.1f} tokens/s")  # fmt: skip
        return
    yield (f"estimate: {_seconds(time.total)} a step, {time.tokens_per_second:,.0f} tokens/s "
           f"({time.tokens_per_second / plan.job.layout.size:,.0f} a device): arithmetic "
           f"{_seconds(time.compute)}, messages {_seconds(time.exchange)}, bubble "
           f"{_seconds(time.bubble)}, update {_seconds(time.update)}")  # fmt: skip
    if plan.job.layout.pipeline > 1:
        yield f"bubble: {100 * bubble_share(plan.job):.1f} % of a stage's slots, (p - 1) / (m + p - 1)"


def _verdict(plan: Plan) -> str:
    if plan.fits:
        left = plan.limit - max(each.total for each in plan.memory)
        return f"fits: yes, {_gib(left)} GB are left on the fullest process"
    over = max(each.total for each in plan.memory) - plan.limit
    text = f"fits: NO, {_gib(over)} GB too much on the fullest process"
    if plan.change is None:
        return f"{text}\nsmallest change: none was found"
    change = plan.change
    return (f"{text}\nsmallest change: {change.kind}: {change.keys}"
            f"\n  then the fullest process takes {_gib(peak(change.job))} GB")  # fmt: skip


def _layouts(plan: Plan) -> Iterator[str | Table]:
    if plan.devices is None:
        return
    if not plan.layouts:
        yield f"layouts for {plan.devices} devices: none fits"
        return
    is_training = plan.job.is_training
    rows = [
        [str(place), f"{each.tokens_per_second:,.0f}", _seconds(each.seconds), _gib(each.memory),
         f"{each.job.step_tokens // each.job.length:,}", layout_keys(each.job)]
        for place, each in enumerate(plan.layouts, 1)
    ]  # fmt: skip
    header = ("", "tokens/s", "a step" if is_training else "a token", "GB", "rows", _SETTINGS)
    title = f"best layouts for {plan.devices} devices, by the estimate"
    yield Table(title + (" (with offset 0)" if plan.job.layout.offset else ""), header, rows)


def _assumptions(plan: Plan) -> str:
    device = plan.device
    return (f"exact: parameters, weights, optimizer, copies, bytes sent. Upper bounds: gradients, activations, "
            f"logits (not all\nof these are there at once: a total has the most that is). Estimates: all times, "
            f"assuming {100 * device.utilisation:.0f} % of\n{device.flops / 1e12:,.3g} TFLOP/s, "
            f"{100 * device.efficiency:.0f} % of the bandwidths and no overlap. GB are 2^30 bytes, "
            "MB 10^6.")  # fmt: skip


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:,.2f}" if num_bytes else "0"


def _seconds(seconds: float) -> str:
    for size, unit in ((86400.0, "days"), (3600.0, "hours")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{seconds * 1e3:,.3g} ms"
