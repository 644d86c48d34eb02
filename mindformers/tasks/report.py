"""The report of a run: written at its end, or later from what it left in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from mindformers.checkpoint.atomic import write_text
from mindformers.checkpoint.json_file import write_json
from mindformers.config.run_config import RunConfig
from mindformers.errors import ConfigError, MindFormersError
from mindformers.logger import logger
from mindformers.parallel.mesh import mesh
from mindformers.tasks import build
from mindformers.tasks.pipeline import TextGenerationPipeline
from mindformers.tasks.report_pages import html_page, markdown_page
from mindformers.tasks.report_record import FACTS_FILE, environment, read_run
from mindformers.training.callback import Callback
from mindformers.training.run import TrainRun
from mindformers.training.state import undisturbed


def write_report(folder: str | Path) -> Path:
    """Write ``report.md`` and ``report.html`` into a run's folder, from its files; return the page's path.

    Raises:
        ConfigError: If the folder is not that of a run.
        CheckpointError: If a file of it cannot be read, or the folder not be written.
    """
    record = read_run(folder)
    write_text(record.folder / "report.md", markdown_page(record))
    return write_text(record.folder / "report.html", html_page(record))


class RunReport(Callback):
    """Notes what a run consists of when it begins, and writes its report when it ends.

    Args:
        prompts: What to ask before the first step and after the last; each is what a user says.
        tokenizer: Needed for prompts.
        sample_length: Most tokens of an answer.

    Raises:
        ConfigError: If there are prompts, and several processes that share the network.
    """

    is_everywhere: ClassVar[bool] = False

    def __init__(
        self, prompts: list[str] | None = None, tokenizer: Any = None, sample_length: int = 64
    ):
        self.prompts, self.tokenizer, self.sample_length = prompts or [], tokenizer, sample_length
        if self.prompts and not mesh().layout.is_single:
            raise ConfigError(
                "answers before and after are given by one process alone", where="report.samples",
                allowed="empty with use_parallel True",
            )  # fmt: skip
        self.facts: dict[str, Any] = {}

    def on_train_begin(self, run: TrainRun) -> None:
        """Write ``run.json``; of a resumed run the answers before its first step are kept."""
        path, before = run.output_dir / FACTS_FILE, {}
        if run.state.global_step and path.is_file():
            samples = read_run(run.output_dir).facts.get("samples", ())
            before = {each["prompt"]: each["before"] for each in samples if "before" in each}
        answers = before or dict(zip(self.prompts, self._answers(run), strict=True))
        parameters = list(run.step.network.get_parameters())
        trained = run.step.optimizer.parameters
        self.facts = {
            "state": "under way",
            "data": {
                "rows": f"{run.dataset.num_rows:,}",
                "tokens of a row": run.dataset.seq_length,
                "rows of a step": run.samples_per_step,
                "steps of an epoch": run.state.steps_per_epoch,
                "files": ", ".join(str(each) for each in getattr(run.dataset, "files", ())),
                "fingerprint": str(run.dataset.fingerprint)[:16],
            },
            "model": {
                "parameters here": f"{sum(each.size for each in parameters):,}",
                "trained here": f"{sum(each.size for each in trained):,}",
                "layout": str(mesh().layout),
            },
            "environment": environment(),
            "samples": [
                {"prompt": prompt, **({"before": answers[prompt]} if prompt in answers else {})}
                for prompt in self.prompts
            ],
        }
        write_json(path, self.facts)

    def on_train_end(self, run: TrainRun) -> None:
        """Ask again, and write the report."""
        for sample, answer in zip(self.facts["samples"], self._answers(run), strict=True):
            sample["after"] = answer
        state = "finished"
        if run.stop_signal is not None:
            state = f"ended by signal {run.stop_signal}"
        elif run.stop_reason:
            state = f"stopped early: {run.stop_reason}"
        self._write(run, state)

    def on_exception(self, run: TrainRun, error: BaseException) -> None:
        """Write what there is."""
        if self.facts:
            self._write(run, f"ended by an error: {error or type(error).__name__}")

    def _write(self, run: TrainRun, state: str) -> None:
        self.facts["state"] = state
        try:
            write_json(run.output_dir / FACTS_FILE, self.facts)
            logger.info("report: %s", write_report(run.output_dir))
        except (MindFormersError, OSError) as error:  # the run itself is done, and saved
            logger.warning("no report was written: %s", error)

    def _answers(self, run: TrainRun) -> list[str]:
        if not self.prompts:
            return []
        with undisturbed():
            found = TextGenerationPipeline(run.step.network, self.tokenizer)(
                self.prompts, apply_chat_template=True, max_new_tokens=self.sample_length, do_sample=False
            )  # fmt: skip
        return [each["text_generation_text"][0] for each in found]


def run_report(config: RunConfig, tokenizer: Any = None) -> list[Callback]:
    """Return what writes a run's report, as the settings say; nothing where they want none.

    Raises:
        ConfigError: If samples are asked for without a tokenizer, or of several processes.
    """
    section = config.report
    if not section.enabled:
        return []
    if section.samples and tokenizer is None:
        tokenizer = build.build_tokenizer(config)
    return [RunReport(section.samples, tokenizer, section.sample_length)]
