"""Converting to few bits with text to round for and to measure on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindformers.cli.convert import main
from mindformers.errors import ConfigError, DataError
from mindformers.evaluation.rows import TokenRow
from mindformers.evaluation.scoring import open_scorer, score_rows
from mindformers.models.auto import AutoConfig, AutoModel, AutoTokenizer
from mindformers.models.glm2.convert_quantized import QuantizeOptions, convert_quantized
from mindformers.tasks.quantize import QuantizeData, open_to_measure, quantize
from mindformers.tasks.token_rows import token_rows
from tests.support.model_dir import write_model_dir

SIZES = {"hidden_size": 64, "ffn_hidden_size": 96, "kv_channels": 16}
TEXT = "Hello world, the model and the tool: one two three. " * 20


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_dir(tmp_path_factory.mktemp("model") / "float", **SIZES, num_blocks=2048)


def opened(folder: Path) -> Any:
    return open_to_measure(AutoConfig.from_pretrained(folder), folder)


def perplexity(model: Any, rows: Any) -> float:
    return score_rows(open_scorer(model), rows).perplexity


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_perplexity_is_that_of_the_whole_rows_likelihood(model_dir: Path) -> None:
    model = opened(model_dir)
    ids = np.random.default_rng(0).integers(0, 200, 20).astype(np.int32)
    labels = np.append(ids[1:], np.int32(-100))
    labels[3] = -100
    total, count = 0.0, 0
    for end in range(1, len(ids)):
        if labels[end - 1] >= 0:
            logits = model.build_runner(True).prefill([ids[:end].tolist()])[0].astype(np.float64)
            total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[end]]
            count += 1
    found = perplexity(model, [TokenRow(ids, labels)])
    assert count == 18
    assert found == pytest.approx(np.exp(total / count), rel=1e-5)


def test_rounding_for_calibration_rows_keeps_the_perplexity_better_than_rounding_to_nearest(
    model_dir: Path, tmp_path: Path
) -> None:
    model = opened(model_dir)
    # What the model itself says, it finds likely, as a trained one finds real text.
    said = model.generate(
        [[id_] for id_ in range(40)], max_new_tokens=80, do_sample=True, temperature=0.5,
        top_k=0, top_p=1.0, seed=5, eos_token_id=[],
    )  # fmt: skip
    rows = [TokenRow(row, np.append(row[1:], np.int32(-100))) for row in said]
    rest = tuple(row.ids for row in rows[20:])
    found = {"exact": perplexity(model, rows[:20])}
    for name, calibration in (("nearest", ()), ("aware", rest)):
        wanted = QuantizeOptions("int4", rows=calibration)
        rounded = opened(convert_quantized(model_dir, tmp_path / name, wanted))
        found[name] = perplexity(rounded, rows[:20])
    assert found["exact"] < found["aware"] < found["nearest"]


def test_text_is_cut_into_rows_that_begin_as_the_family_begins(model_dir: Path, text: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    rows = token_rows(text, tokenizer, 30)
    prefix = tokenizer("")["input_ids"]
    assert len(prefix) == 2
    assert all(row.ids[:2].tolist() == prefix for row in rows)
    assert {len(row.ids) for row in rows[:-1]} == {30}
    together = [int(id_) for row in rows for id_ in row.ids[2:]]
    assert tokenizer.decode(together) == TEXT
    assert (rows[0].labels[:-1] == rows[0].ids[1:]).all()
    assert rows[0].labels[-1] == -100
    assert len(token_rows(text, tokenizer, 30, most=2)) == 2


def test_of_conversations_the_answers_count(model_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"instruction": "Hello", "output": "world"}] * 3))
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    rows = token_rows(path, tokenizer, 64)
    assert len(rows) == 3
    counted = rows[0].labels[rows[0].labels >= 0]
    assert "world" in tokenizer.decode(counted.tolist())
    assert "Hello" not in tokenizer.decode(counted.tolist())


def test_a_file_without_text_is_refused(model_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.write_text("")
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    with pytest.raises(DataError, match="holds no text"):
        token_rows(path, tokenizer, 64)
    with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
        token_rows(tmp_path / "missing.txt", tokenizer, 64)


def test_the_command_writes_a_directory_that_answers_and_says_both_perplexities(
    model_dir: Path, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "int4"
    argv = ["--model", "glm4", "--input_path", str(model_dir), "--output_path", str(target)]
    argv += ["--quantization", "int4", "--asymmetric", "--group_size", "32"]
    argv += ["--calibration", str(text), "--eval_data", str(text)]
    assert main(argv) == 0
    assert " before, " in capsys.readouterr().out
    assert (target / "tokenizer.model").is_file()
    assert len(AutoModel.from_pretrained(target).generate([[1, 2, 3]], max_new_tokens=4)[0]) <= 7


def test_perplexities_are_returned(model_dir: Path, tmp_path: Path, text: Path) -> None:
    found = quantize(
        model_dir, tmp_path / "int8", QuantizeOptions("int8"), QuantizeData(evaluation=text)
    )
    assert found["after"] == pytest.approx(found["before"], rel=0.05)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--calibration", "x.txt"], "--calibration: given without --quantization"),
        (["--group_size", "32"], "--group_size: given without --quantization"),
        (["--quantization", "int8", "--dtype", "bf16"], "--dtype: given with --quantization int8"),
        (["--quantization", "int8", "--reversed"], "--reversed: given with --quantization int8"),
        (
            ["--quantization", "int8", "--asymmetric"],
            "--asymmetric: given with --quantization int8",
        ),
        (["--quantization", "int4", "--eval_data", "x.txt"], "--eval_data: no such file: x.txt"),
        (["--quantization", "int4", "--group_size", "40"], "allowed: a multiple of 32"),
        (["--quantization", "int4", "--output_format", "ckpt"], r"quantized weights as \.ckpt"),
    ],
)
def test_flags_that_cannot_go_together_are_named(
    model_dir: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    argv = ["--model", "glm4", "--input_path", str(model_dir)]
    with pytest.raises(ConfigError, match=message):
        main([*argv, "--output_path", str(tmp_path / "out"), *flags])
    assert not (tmp_path / "out").exists()
