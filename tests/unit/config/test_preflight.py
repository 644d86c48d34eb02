import pytest

from mindformers.config.loader import Document
from mindformers.config.preflight import check_run
from mindformers.errors import ConfigError
from tests.support.config_files import bind

MODEL = {"model_config": {"num_layers": 1}}


def reasons(document=None, **data):
    with pytest.raises(ConfigError) as caught:
        check_run(bind(**data), document)
    return str(caught.value)


def data_at(path):
    return {"data_loader": {"dataset_dir": path}}


def test_a_run_whose_paths_are_there_may_start(tmp_path):
    (tmp_path / "data.mindrecord").touch()
    vocabulary = tmp_path / "tokenizer.model"
    vocabulary.touch()
    output = str(tmp_path / "output")
    check_run(bind(run_mode="finetune", model=MODEL, output_dir=output,
                   train_dataset=data_at(str(tmp_path / "data.mindrecord"))))  # fmt: skip
    check_run(bind(run_mode="predict", model=MODEL, output_dir=output, load_checkpoint=str(tmp_path),
                   processor={"tokenizer": {"vocab_file": str(vocabulary)}}))  # fmt: skip


def test_all_wrong_paths_stand_in_one_report(tmp_path):
    (tmp_path / "output").touch()
    text = reasons(
        run_mode="finetune", model=MODEL, output_dir=str(tmp_path / "output"),
        load_checkpoint="/no/weights", train_dataset=data_at(["/no/a", "/no/b"]),
    )  # fmt: skip
    assert text.splitlines() == [
        "4 problems in the configuration:",
        "  load_checkpoint: /no/weights does not exist; allowed: a folder or a file of weights; "
        "give the real path",
        "  train_dataset.data_loader.dataset_dir: /no/a does not exist; "
        "allowed: a data file or a folder of them; give the real path",
        "  train_dataset.data_loader.dataset_dir: /no/b does not exist; "
        "allowed: a data file or a folder of them; give the real path",
        f"  output_dir: {tmp_path / 'output'} is a file; allowed: a folder, which may be missing",
    ]


def test_a_training_run_needs_data_and_a_model():
    text = reasons(run_mode="train")
    assert "model: the section is missing; take a file of configs/glm4" in text
    assert "dataset_dir: no training data is named; add --train_dataset with its path" in text


def test_a_folder_is_no_vocabulary(tmp_path):
    processor = {"tokenizer": {"vocab_file": str(tmp_path)}}
    text = reasons(run_mode="predict", model=MODEL, processor=processor)
    assert text == (
        f"processor.tokenizer.vocab_file: {tmp_path} is a folder; allowed: tokenizer.model"
    )


def test_the_models_own_path_is_checked_when_no_other_is_given():
    model = {"model_config": {"checkpoint_name_or_path": "/no/own"}}
    text = reasons(run_mode="predict", model=model)
    assert text.startswith("model.model_config.checkpoint_name_or_path: /no/own does not exist")


def test_an_unreadable_or_impossible_path_is_refused(tmp_path, monkeypatch):
    for path in ("a\0b", "x" * 5000):
        text = reasons(run_mode="predict", model=MODEL, load_checkpoint=path)
        assert text.startswith("load_checkpoint: ")
        assert len(text) < 6000
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "cannot be read; allowed: a folder or a file of weights; check its permissions" in (
        reasons(run_mode="predict", model=MODEL, load_checkpoint=str(tmp_path))
    )


def test_the_report_names_the_flag_a_path_came_from():
    document = Document(positions={("load_checkpoint",): ("command line: --load_checkpoint", 0)})
    text = reasons(document, run_mode="predict", model=MODEL, load_checkpoint="/no")
    assert text.startswith("command line: --load_checkpoint: /no does not exist")
