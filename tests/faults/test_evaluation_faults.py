"""Evaluations that must not start, or must stop: data, settings and folders that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindformers.cli.run import main
from mindformers.dataset.mindrecord import mindrecord_writer
from mindformers.errors import ConfigError, DataError, MindFormersError
from mindformers.evaluation.evaluator import EvalData, Evaluator
from mindformers.evaluation.metrics import EmF1Metric
from mindformers.models.auto import AutoModel
from mindformers.parallel import mesh as mesh_module
from mindformers.parallel.layout import Layout
from mindformers.tasks.evaluate import evaluate
from mindformers.tasks.finetune import finetune
from tests.support.evaluation import SEQ, EvalParts

pytestmark = pytest.mark.usefixtures("pynative")
TINY = "configs/glm4/predict_glm4_tiny_cpu.yaml"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> EvalParts:
    return EvalParts(tmp_path_factory.mktemp("parts"))


def dataset(path: Path | str) -> dict[str, Any]:
    return {"eval_dataset": {"data_loader": {"type": "MindDataset", "dataset_dir": str(path)}}}


def written(folder: Path, ids: np.ndarray, labels: np.ndarray) -> Path:
    path = folder / "rows.mindrecord"
    with mindrecord_writer(path, num_partitions=1) as writer:
        writer.write(ids.astype(np.int32), labels.astype(np.int32))
    return path


def refused(kind: type[MindFormersError], parts: EvalParts, folder: Path, **changes: Any) -> str:
    with pytest.raises(kind) as caught:
        evaluate(parts.run(folder / "out", **changes))
    return str(caught.value)


def test_no_data_and_no_weights_are_one_sentence_each(parts: EvalParts, tmp_path: Path) -> None:
    text = refused(ConfigError, parts, tmp_path, eval_dataset=None)
    assert (
        "eval_dataset.data_loader.dataset_dir: no evaluation data is named; add --eval_dataset_dir"
        in text
    )
    text = refused(ConfigError, parts, tmp_path, load_checkpoint="")
    assert "load_checkpoint: no weights are named; add --load_checkpoint" in text


def test_rows_that_do_not_fit_the_network_are_refused(parts: EvalParts, tmp_path: Path) -> None:
    text = refused(DataError, parts, tmp_path, network={"seq_length": SEQ - 8})
    assert f"rows of {SEQ} tokens for a network of seq_length {SEQ - 8}" in text
    ids = np.full((2, 8), 10_000)
    text = refused(DataError, parts, tmp_path, **dataset(written(tmp_path, ids, ids)))
    assert "10000" in text


def test_data_without_a_label_has_no_loss(parts: EvalParts, tmp_path: Path) -> None:
    path = written(tmp_path, np.ones((3, 8)), np.full((3, 8), -100))
    assert refused(DataError, parts, tmp_path, **dataset(path)) == f"{path}: no row has a label"


def test_data_that_is_no_data_is_refused(parts: EvalParts, tmp_path: Path) -> None:
    broken = tmp_path / "rows.jsonl"
    broken.write_text('{"messages": [\n')
    assert f"{broken}:1: the line is no JSON" in refused(
        DataError, parts, tmp_path, **dataset(broken)
    )
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert "holds no text" in refused(DataError, parts, tmp_path, **dataset(empty))


def test_texts_need_a_tokenizer(parts: EvalParts, tmp_path: Path) -> None:
    pytest.importorskip("jieba")
    model = AutoModel.from_pretrained(parts.model)
    with pytest.raises(
        ConfigError, match=r"metrics of texts need a tokenizer; add --processor\.tokenizer"
    ):
        Evaluator(model, EvalData("x", 0, list), [EmF1Metric()])


def test_texts_are_not_answered_where_layers_are_shared(
    parts: EvalParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jieba")
    model = AutoModel.from_pretrained(parts.model)
    stand_in = type("Mesh", (), {"layout": Layout(pipeline=2), "line": None})()
    monkeypatch.setattr(mesh_module, "_ACTIVE", [stand_in])
    with pytest.raises(
        ConfigError, match=r"metric: metrics of texts need answers.*pipeline 2.*--run_mode eval"
    ):
        Evaluator(model, EvalData("x", 0, list), [EmF1Metric()], parts.tokenizer)


def test_a_results_file_that_cannot_be_written_is_refused_before_the_work(
    parts: EvalParts, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    text = refused(MindFormersError, parts, tmp_path, save_file=str(tmp_path / "taken"))
    assert "taken" in text


def test_a_wrong_monitor_ends_the_run_at_the_first_evaluation(
    parts: EvalParts, tmp_path: Path
) -> None:
    callbacks = [{"type": "CheckpointMonitor", "keep_best": "eval_acuracy"}]
    config = parts.run(
        tmp_path, run_mode="finetune", do_eval=True, eval_step_interval=1, callbacks=callbacks
    )
    with pytest.raises(
        ConfigError, match=r"no result of the evaluation is called eval_acuracy; allowed: eval_loss"
    ):
        finetune(config)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run_mode", "eval"], "no evaluation data is named; add --eval_dataset"),
        (["--run_mode", "eval", "--eval_dataset_dir", "/no/such"], "/no/such does not exist"),
        (["--run_mode", "finetune", "--do_eval", "True"], "no evaluation data is named"),
        (
            ["--run_mode", "eval", "--metric.type", "PromptAccMetric"],
            "PromptAccMetric is a metric of data",
        ),
    ],
)
def test_the_command_line_refuses_before_anything_is_loaded(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        main(["--config", TINY, *flags])
    assert message in str(caught.value)
