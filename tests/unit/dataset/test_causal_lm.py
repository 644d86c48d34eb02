from __future__ import annotations

from pathlib import Path

import pytest

from mindformers.config.data import DatasetSection
from mindformers.dataset.causal_lm import CausalLanguageModelDataset
from mindformers.errors import ConfigError, DataError
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from tests.support.mindrecords import write_numbered


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("data") / "a.mindrecord", 20)


def published(path: Path) -> dict:
    """The ``train_dataset`` section of the published finetuning YAML."""
    return {
        "data_loader": {"type": "MindDataset", "dataset_dir": str(path), "shuffle": False},
        "input_columns": ["input_ids", "labels"],
        "num_parallel_workers": 8,
        "python_multiprocessing": False,
        "drop_remainder": True,
        "numa_enable": False,
        "prefetch_size": 1,
    }


def test_the_published_section_builds_a_data_set(path: Path) -> None:
    for config in (published(path), DatasetSection(**published(path))):
        dataset = CausalLanguageModelDataset(config, seq_length=8, vocab_size=100)
        assert (dataset.batch_size, len(dataset), dataset.seq_length) == (8, 2, 8)
    assert CausalLanguageModelDataset(published(path), batch_size=1).batch_size == 1


def test_the_registry_builds_it(path: Path) -> None:
    dataset = MindFormerRegister.get_instance(
        MindFormerModuleType.DATASET,
        "CausalLanguageModelDataset",
        dataset_config=published(path),
        batch_size=2,
    )
    assert isinstance(dataset, CausalLanguageModelDataset)
    assert len(dataset) == 10


def test_keyword_arguments_alone_are_enough_and_win(path: Path) -> None:
    loader = {"type": "MindDataset", "dataset_dir": str(path), "shuffle": True}
    dataset = CausalLanguageModelDataset(
        data_loader=loader, batch_size=6, drop_remainder=False, seed=3
    )
    assert len(dataset) == 4
    plain = CausalLanguageModelDataset(published(path), batch_size=6, drop_remainder=False)
    assert next(plain.batches(0))["input_ids"][:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert next(dataset.batches(0))["input_ids"][:, 0].tolist() != [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("change", "message"), [
    ({"drop_remaindr": True}, "unknown key 'drop_remaindr'; did you mean 'drop_remainder'"),
    ({"drop_remainder": "yes"}, "drop_remainder: .*found 'yes'"),
    ({"batch_size": 0}, "batch_size: .*found 0"),
    ({"token_monitor": True}, "token_monitor: found true: .* is not implemented; allowed: False"),
    ({"eod_reset": True}, "eod_reset is True, but eod_token_id names no token"),
    ({"eod_reset": True, "eod_token_id": 2, "packing": True}, "eod_reset is for MindRecord files"),
    ({"dynamic_batch": True, "packing": True}, "dynamic_batch and packing are both True"),
    ({"group_by_length": True}, "group_by_length has no effect unless dynamic_batch is True"),
    ({"data_loader": {"sources": [{"dataset_dir": "a"}], "dataset_dir": "b"}}, "sources and dataset_dir are both"),
    ({"data_loader": {"sources": [{"dataset_dir": "a", "weight": 0}]}}, "sources.0.weight"),
    ({"data_loader": {"type": "TFRecordDataset"}}, "data_loader.type"),
])  # fmt: skip
def test_a_wrong_setting_is_named(path: Path, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=f"train_dataset: .*{message}"):
        CausalLanguageModelDataset({**published(path), **change})


def test_no_data_is_an_error_that_names_the_flag() -> None:
    with pytest.raises(DataError, match="no training data is given; add --train_dataset"):
        CausalLanguageModelDataset(published(Path()) | {"data_loader": {"dataset_dir": ""}})
