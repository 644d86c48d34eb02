"""``Evaluator``: a model, rows and metrics as one function that can be called again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mindformers.config.evaluation import Turns
from mindformers.errors import ConfigError, DataError
from mindformers.evaluation.answers import Answer, answer_rows
from mindformers.evaluation.metrics import PerplexityMetric, TextMetric
from mindformers.evaluation.rows import TokenRow
from mindformers.evaluation.scoring import open_scorer, score_rows
from mindformers.parallel.mesh import mesh

OnRows = Callable[[int], None]


@dataclass(frozen=True)
class EvalData:
    """Rows to evaluate on.

    Attributes:
        name: Where they come from.
        num_rows: How many there are.
        read: Gives them, from the first on, each time it is called.
    """

    name: str
    num_rows: int
    read: Callable[[], Iterable[TokenRow]]


@dataclass
class Evaluator:
    """Evaluates a model; what it finds is the same in every process of a run.

    Args:
        model: A network, or a model whose weights stay in their files.
        data: The rows.
        metrics: Besides loss, perplexity and token accuracy, which are always found.
        tokenizer: Needed by metrics that read texts.
        batch_size: Rows of a pass, and prompts that are answered at once.
        turns: Which of an assistant's turns in a row metrics of texts look at.
        settings: Of the answers: fields of ``GenerationConfig``; ``seed``.

    Attributes:
        answers: Those of the last evaluation.

    Raises:
        ConfigError: If texts are asked for in a layout that cannot answer, or without a tokenizer.
        MissingExtraError: If a metric needs a package that is not installed.
    """

    model: Any
    data: EvalData
    metrics: Sequence[Any] = ()
    tokenizer: Any = None
    batch_size: int = 8
    turns: Turns = "all"
    settings: dict[str, Any] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.scorer = open_scorer(self.model, self.batch_size)
        self.text_metrics = [each for each in self.metrics if isinstance(each, TextMetric)]
        for metric in self.text_metrics:
            metric.check()
        if self.text_metrics:
            self._check_answering()

    @property
    def num_passes(self) -> int:
        """How often all rows are gone through."""
        return 2 if self.text_metrics else 1

    def __call__(self, on_rows: OnRows = lambda count: None) -> dict[str, float]:
        """Return the results by name.

        ``loss`` (nats of a trained token), ``perplexity``, ``token_accuracy`` (0 to 1), ``trained_tokens``,
        and those of the metrics.

        Args:
            on_rows: Called with a number of rows that are done, ``num_passes`` times over all of them.

        Raises:
            DataError: If no token of the data has a label.
        """
        score = score_rows(self.scorer, self.data.read(), on_rows)
        if not score.tokens:
            raise DataError("no row has a label", where=self.data.name)
        results = {
            "loss": score.mean_loss,
            "perplexity": score.perplexity,
            "token_accuracy": score.accuracy,
            "trained_tokens": score.tokens,
        }
        if any(isinstance(each, PerplexityMetric) for each in self.metrics):
            results["PPL"] = score.perplexity  # upstream's name
        if self.text_metrics:
            results |= self._compare_texts(on_rows)
        return results

    def _compare_texts(self, on_rows: OnRows) -> dict[str, float]:
        self.answers = answer_rows(
            self.model, self.tokenizer, self.data.read(),
            turns=self.turns, batch_size=self.batch_size, on_rows=on_rows, **self.settings,
        )  # fmt: skip
        results: dict[str, float] = {}
        for metric in self.text_metrics:
            metric.clear()
            texts = [(each.answer, each.reference) for each in self.answers]
            if not metric.needs_markup:
                texts = [(a.removeprefix("\n"), b.removeprefix("\n")) for a, b in texts]
            metric.update(*map(list, zip(*texts, strict=True)))
            results |= metric.eval()
        empty = sum(not each.answer.strip() for each in self.answers)
        return {**results, "answers": len(self.answers), "empty_answers": empty}

    def _check_answering(self) -> None:
        layout = mesh().layout
        if layout.pipeline > 1 or layout.context > 1 or layout.is_sequence_parallel:
            raise ConfigError(
                f"metrics of texts need answers, which are not generated in the layout {layout}",
                where="metric", allowed="PerplexityMetric here",
                fix="evaluate the checkpoint afterwards with --run_mode eval",
            )  # fmt: skip
        if self.tokenizer is None:
            raise ConfigError(
                "metrics of texts need a tokenizer", where="processor.tokenizer.vocab_file",
                fix="add --processor.tokenizer.vocab_file with the path of tokenizer.model",
            )  # fmt: skip
