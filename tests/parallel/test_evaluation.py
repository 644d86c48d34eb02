"""An evaluation of several processes gives what one gives, by the published command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindformers.training.metrics import METRICS_NAME, read_evaluations
from tests.support.shared_runs import arguments, launch, run, write_rows, write_start

NETWORK = {"num_layers": 2}
SETTINGS = {
    "do_eval": True, "eval_step_interval": 1, "network": NETWORK,
    "parallel__enable_parallel_optimizer": False, "callbacks__1__keep_best": "eval_loss",
}  # fmt: skip


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    write_rows(folder / "train.mindrecord", 16)
    write_rows(folder / "eval.mindrecord", 7)  # neither divides among processes nor fills a batch
    write_start(folder / "start", **NETWORK)
    return folder


def evaluated(
    material: Path, name: str, rows: int, **parallel: int
) -> list[tuple[int, dict[str, Any]]]:
    """Return the evaluations of a finetuning run of two steps."""
    processes = 2 if parallel else 1
    line = arguments(
        material / "train.mindrecord", material / name, 2, parallel=parallel,
        load_checkpoint=str(material / "start"), runner_config__batch_size=rows, **SETTINGS,
    )  # fmt: skip
    line += ["--eval_dataset_dir", str(material / "eval.mindrecord")]
    run(line, processes, material / name / "msrun")
    return read_evaluations(material / name / METRICS_NAME)


@pytest.fixture(scope="module")
def alone(material: Path) -> list[tuple[int, dict[str, Any]]]:
    found = evaluated(material, "alone", 2)
    assert [step for step, _ in found] == [1, 2]
    return found


@pytest.mark.parametrize(
    ("name", "rows", "parallel"),
    [
        ("data", 1, {"data_parallel": 2}),
        pytest.param("stages", 1, {"pipeline_stage": 2, "micro_batch_num": 2}, marks=pytest.mark.large),
        pytest.param("matrices", 2, {"model_parallel": 2, "use_seq_parallel": True}, marks=pytest.mark.large),
        pytest.param("sequences", 2, {"context_parallel": 2}, marks=pytest.mark.large),
    ],
)  # fmt: skip
def test_evaluations_while_training_are_those_of_one_process(
    name: str, rows: int, parallel: dict[str, int], material: Path, alone: Any
) -> None:
    found = evaluated(material, name, rows, **parallel)
    for (step, values), (other_step, others) in zip(found, alone, strict=True):
        assert step == other_step
        for key in ("loss", "perplexity", "token_accuracy", "trained_tokens"):
            assert values[key] == pytest.approx(others[key], rel=1e-5), key
    best = json.loads((material / name / "checkpoint" / "best.json").read_text())
    assert best["step"] == f"step_{min(alone, key=lambda each: each[1]['loss'])[0]:08d}"


def test_an_evaluation_of_two_copies_counts_every_row_once(material: Path) -> None:
    output = material / "eval_2"
    line = arguments(
        material / "train.mindrecord", output, 1, parallel={"data_parallel": 2}, network=NETWORK,
        load_checkpoint=str(material / "start"), runner_config__batch_size=2,
    )  # fmt: skip
    line[line.index("finetune")] = "eval"
    line += ["--eval_dataset_dir", str(material / "eval.mindrecord")]
    launch(line, 2, output / "msrun")
    found = json.loads((output / "eval_results.json").read_text())["results"]
    loss, count = by_hand(material)
    assert found["trained_tokens"] == count
    assert found["loss"] == pytest.approx(loss, rel=1e-5)


def by_hand(material: Path) -> tuple[float, int]:
    """Return the mean loss of the trained tokens and their number, from the network's logits in NumPy."""
    from mindspore import Tensor

    from mindformers.dataset.causal_lm import CausalLanguageModelDataset
    from mindformers.models.auto import AutoModel
    from mindformers.parallel.runtime import start_runtime

    start_runtime(device_target="CPU", mode=1)
    loader = {"dataset_dir": str(material / "eval.mindrecord")}
    (batch,) = CausalLanguageModelDataset(data_loader=loader, batch_size=7).batches(0)
    logits = AutoModel.from_pretrained(material / "start")(Tensor(batch["input_ids"]))[0].asnumpy()
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(-1, keepdims=True)
    places = np.argwhere(batch["labels"] >= 0)
    losses = [-np.log(shares[row, i, batch["labels"][row, i]]) for row, i in places]
    return float(np.mean(losses)), len(losses)
