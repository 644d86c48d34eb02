from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers.checkpoint.loading import open_weights
from mindformers.cli.convert import build_parser, main
from mindformers.errors import ConfigError
from tests.support.glm_files import (
    glm_arrays,
    our_arrays,
    same_bytes,
    tiny_config,
    write_file,
    write_hf_directory,
)

ROOT = Path(__file__).resolve().parents[3]
CONFIG = tiny_config()
ARRAYS = glm_arrays(CONFIG)


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    return write_hf_directory(tmp_path / "hf", CONFIG, ARRAYS)


def read(path: Path):
    with open_weights(path) as source:
        return {name: source.read(name) for name in source.tensors}


def run_script(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "convert_weight.py", *map(str, args)], cwd=ROOT, capture_output=True,
        text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_the_script_converts_and_says_where_to(hf, tmp_path):
    done = run_script("--model", "glm4", "--input_path", hf, "--output_path", tmp_path / "a.ckpt")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Convert finished, the output is saved to {tmp_path / 'a.ckpt'}.\n"
    assert "\x1b" not in done.stderr  # no progress bar where there is no terminal
    assert same_bytes(read(tmp_path / "a.ckpt"), our_arrays(ARRAYS))


def test_an_error_is_one_line_and_exit_code_2(hf, tmp_path):
    done = run_script("--model", "glm4", "--input_path", hf, "--output_path", hf)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"{hf}: exists already" in done.stderr


def test_help_answers_without_mindspore():
    code = (
        "import sys; from mindformers.cli.convert import build_parser; build_parser().format_help();"
        "print([m for m in ('mindspore', 'numpy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "--reversed" in run_script("--help").stdout


def test_a_conversion_does_not_load_mindspore(hf, tmp_path):
    code = (
        "import sys; from mindformers.cli.convert import main;"
        f"main(['--model', 'glm4', '--input_path', {str(hf)!r}, '--output_path', {str(tmp_path / 'o')!r}]);"
        f"main(['--model', 'glm4', '--reversed', '--input_path', {str(tmp_path / 'o')!r},"
        f" '--output_path', {str(tmp_path / 'b')!r}]);"
        "assert 'mindspore' not in sys.modules and 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_there_and_back_through_the_flags(hf, tmp_path):
    base = ["--model", "glm4", "--max_shard_size", "3KB"]
    main([*base, "--input_path", str(hf), "--output_path", str(tmp_path / "ms")])
    assert len(list((tmp_path / "ms").glob("model-*.safetensors"))) > 3
    back = [
        "--reversed",
        "--input_path",
        str(tmp_path / "ms"),
        "--output_path",
        str(tmp_path / "b"),
    ]
    main([*base, *back])
    assert same_bytes(read(tmp_path / "b"), ARRAYS)
    main([*base, *back, "--overwrite", "--layout", "chatglm"])
    assert "transformer.output_layer.weight" in read(tmp_path / "b")


@pytest.mark.parametrize("spelling", [["--concat"], ["--concat", "True"], ["--concat=true"]])
def test_concat_is_true_in_every_spelling(tmp_path, spelling):
    split = write_file(tmp_path / "in" / "a.safetensors", our_arrays(ARRAYS, concat=False))
    out = tmp_path / "out.safetensors"
    main(["--model", "glm4", *spelling, "--input_path", str(split), "--output_path", str(out)])
    assert same_bytes(read(out), our_arrays(ARRAYS))


def test_concat_false_is_false_and_anything_else_is_refused():
    parser = build_parser()
    assert parser.parse_args(["--model", "glm4", "--concat", "False"]).concat is False
    with pytest.raises(
        ConfigError, match="--concat: found 'maybe'; allowed: true or false"
    ) as caught:
        parser.parse_args(["--model", "glm4", "--concat", "maybe"])
    assert caught.value.exit_code == 2


def test_the_older_names_of_the_paths_still_work(hf, tmp_path):
    main(
        [
            "--model",
            "glm4",
            "--torch_ckpt_path",
            str(hf),
            "--mindspore_ckpt_path",
            str(tmp_path / "m"),
        ]
    )
    main(
        ["--model", "glm4", "--reversed", "--mindspore_ckpt_path", str(tmp_path / "m"),
         "--torch_ckpt_path", str(tmp_path / "b")]
    )  # fmt: skip
    assert same_bytes(read(tmp_path / "b"), ARRAYS)
    split = write_file(tmp_path / "in" / "a.safetensors", our_arrays(ARRAYS, concat=False))
    main(
        ["--model", "glm4", "--concat", "True", "--ms_not_concat_ckpt_path", str(split),
         "--mindspore_ckpt_path", str(tmp_path / "f.safetensors")]
    )  # fmt: skip
    assert same_bytes(read(tmp_path / "f.safetensors"), our_arrays(ARRAYS))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "glm5"], "--model: unknown model 'glm5'; allowed: glm4.*did you mean 'glm4'"),
        (["--model", "llama"], "--model: unknown model 'llama'; allowed: glm4"),
        (["--model", "glm4"], "--input_path: missing"),
        (["--model", "glm4", "--input_path", "x"], "--output_path: missing"),
        (["--dtype", "fp8"], "--dtype: unknown type 'fp8'; allowed: fp32, fp16, bf16"),
        (["--config", "no.yaml"], "--config: no such file: no.yaml"),
        (["--concat", "--reversed"], "--concat: given with --reversed"),
        (["--concat", "--dtype", "bf16"], "--dtype: given with --concat, which keeps types"),
    ],
)
def test_flags_that_make_no_sense_are_named(flags, message):
    if "--model" not in flags:
        flags = ["--model", "glm4", "--input_path", "x", "--output_path", "y", *flags]
    with pytest.raises(ConfigError, match=message):
        main(flags)
