"""The recipe of an evaluation: the numbers, the files, and evaluations while training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindformers.checkpoint.loading import open_weights
from mindformers.cli.run import _evaluate
from mindformers.models.auto import AutoModel
from mindformers.tasks.evaluate import ANSWERS_FILE, RESULTS_FILE, evaluate
from mindformers.tasks.finetune import finetune
from mindformers.training.metrics import METRICS_NAME, read_evaluations, read_metrics
from tests.support.evaluation import EvalParts

pytestmark = pytest.mark.usefixtures("pynative")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> EvalParts:
    return EvalParts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def expected(parts: EvalParts) -> dict[str, float]:
    return parts.expected(AutoModel.from_pretrained(parts.model))


@pytest.mark.parametrize(
    ("kernels", "batch_size"), [("auto", 3), ("portable", 3), ("portable", 16)]
)
def test_an_evaluation_counts_every_token_of_every_row_once(
    kernels: str, batch_size: int, parts: EvalParts, expected: dict[str, float], tmp_path: Path
) -> None:
    """Seven rows: batches of three leave one, which ``drop_remainder: True`` must not drop."""
    config = parts.run(tmp_path, ops={"backend": kernels}, runner_config={"batch_size": batch_size})
    found = evaluate(config)
    assert found == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}
    content = json.loads((tmp_path / RESULTS_FILE).read_text())
    assert content["results"] == found
    assert content["rows"] == 7
    assert content["checkpoint"] == str(parts.model)
    assert not (tmp_path / ANSWERS_FILE).exists()


def test_conversations_give_what_their_rows_give(
    parts: EvalParts, expected: dict[str, float], tmp_path: Path
) -> None:
    data = {"data_loader": {"type": "MindDataset", "dataset_dir": str(parts.conversations)}}
    found = evaluate(parts.run(tmp_path, eval_dataset=data))
    assert found == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}


def test_some_rows_can_be_asked_for(parts: EvalParts, tmp_path: Path) -> None:
    for path in (parts.rows, parts.conversations):
        loader = {"type": "MindDataset", "dataset_dir": str(path), "num_samples": 2}
        found = evaluate(parts.run(tmp_path, eval_dataset={"data_loader": loader}))
        assert found["trained_tokens"] == int((parts.labels[:2] >= 0).sum())


def test_metrics_of_texts_compare_the_answers_predicting_gives(
    parts: EvalParts, tmp_path: Path
) -> None:
    pytest.importorskip("jieba")
    metrics = [{"type": "EmF1Metric"}, {"type": "ToolCallMetric"}, {"type": "PerplexityMetric"}]
    found = evaluate(parts.run(tmp_path, metric=metrics))
    assert found["answers"] == 8  # one of seven conversations has two turns
    assert found["PPL"] == found["perplexity"]
    assert found["tool_calls"] == 0
    lines = [json.loads(line) for line in (tmp_path / ANSWERS_FILE).read_text().splitlines()]
    assert lines[0]["prompt"].endswith("<|assistant|>")
    assert [line["reference"] for line in lines[:5]] == [
        "\nHello world", "\n你好，世界。", "\ntwo", "\nand the tool", "\nit",
    ]  # fmt: skip
    assert [(line["row"], line["turn"]) for line in lines[3:6]] == [(4, 1), (4, 2), (5, 1)]
    history = lines[4]["prompt"].removeprefix(lines[3]["prompt"]).split()
    assert history == ["and", "the", "tool", "<|user|>", "you", "<|assistant|>"]
    model = AutoModel.from_pretrained(parts.model)
    for index, line in enumerate(lines[:3]):
        prompt = parts.ids[index][: int(np.argmax(parts.labels[index] >= 0)) + 1].tolist()
        whole = model.generate([prompt], allowed_vocab_size=len(parts.tokenizer))[0]
        text = parts.tokenizer.decode(whole[len(prompt) :], skip_special_tokens=True)
        assert line["answer"] == text


def test_the_command_prints_the_results(
    parts: EvalParts, expected: dict[str, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _evaluate(parts.run(tmp_path)) == 0
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(lines) == ["loss", "perplexity", "token_accuracy", "trained_tokens"]
    assert float(lines["loss"]) == pytest.approx(expected["loss"], abs=1e-4)
    assert float(lines["perplexity"]) == pytest.approx(expected["perplexity"], rel=1e-4)


def weights_of(output: Path) -> dict[str, np.ndarray]:
    with open_weights(output / "checkpoint") as weights:
        return {name: weights.read(name) for name in weights.tensors}


def curve(output: Path) -> list[tuple[Any, ...]]:
    rows = read_metrics(output / METRICS_NAME)
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows if "loss" in row]


LORA = {"pet_config": {"pet_type": "lora", "lora_rank": 2, "lora_dropout": 0.5,
                       "target_modules": ".*query_key_value.*"}}  # fmt: skip


@pytest.mark.parametrize(
    ("kernels", "network", "metric"),
    [
        ("auto", {}, "EmF1Metric"),
        ("auto", LORA, "PerplexityMetric"),
        ("portable", {}, "PerplexityMetric"),
    ],
    ids=["texts", "lora", "portable"],
)
def test_evaluating_while_training_changes_no_bit_of_it(
    kernels: str, network: dict[str, Any], metric: str, parts: EvalParts, tmp_path: Path
) -> None:
    if metric == "EmF1Metric":
        pytest.importorskip("jieba")
    monitor = {"type": "CheckpointMonitor", "save_checkpoint_steps": 100,
               "checkpoint_format": "safetensors"}  # fmt: skip
    common = {"run_mode": "finetune", "runner_config": {"epochs": 1, "batch_size": 2},
              "ops": {"backend": kernels}, "network": network, "callbacks": [monitor]}  # fmt: skip
    finetune(parts.run(tmp_path / "plain", **common))
    watched = tmp_path / "watched"
    finetune(
        parts.run(watched, do_eval=True, eval_step_interval=2, metric={"type": metric}, **common)
    )
    assert len(curve(watched)) == 3
    assert curve(watched) == curve(tmp_path / "plain")
    for name, value in weights_of(tmp_path / "plain").items():
        assert np.array_equal(value, weights_of(watched)[name]), name
    found = read_evaluations(watched / METRICS_NAME)
    assert [step for step, _ in found] == [2, 3]
    # Dropout is off: what was found after the last step is what its checkpoint gives.
    last = evaluate(
        parts.run(
            tmp_path / "again", load_checkpoint=str(watched / "checkpoint"), network=network,
            ops={"backend": kernels},
        )
    )  # fmt: skip
    assert found[-1][1]["loss"] == pytest.approx(last["loss"], rel=1e-6)
    assert found[0][1]["loss"] > found[-1][1]["loss"]


def test_a_trainer_evaluates_what_it_trained(parts: EvalParts, tmp_path: Path) -> None:
    import mindformers
    from mindformers import Trainer
    from mindformers.tasks import build

    keys = ("seed", "run_mode", "output_dir", "load_checkpoint", "context", "model", "processor",
            "train_dataset", "runner_config", "optimizer")  # fmt: skip
    content = parts.run(tmp_path, run_mode="finetune").to_dict()
    settings = mindformers.MindFormerConfig({key: content[key] for key in keys})
    trainer = Trainer(settings, compute_metrics={"PerplexityMetric"}, eval_dataset=str(parts.rows))
    before = trainer.evaluate(eval_checkpoint=str(parts.model))
    trainer.train()
    after = trainer.evaluate()
    assert before["PPL"] > after["PPL"]
    assert after == {
        **{name: pytest.approx(value, rel=1e-5) for name, value in parts.expected(trainer.model).items()},
        "PPL": after["perplexity"],
    }  # fmt: skip
    dataset = build.build_train_dataset(parts.run(tmp_path), trainer.model)
    again = trainer.evaluate(dataset)
    assert again["trained_tokens"] < after["trained_tokens"], (
        "this object drops its last batch itself"
    )
