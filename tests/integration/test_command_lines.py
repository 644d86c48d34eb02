"""The command lines of the README, as processes: data, finetune, resume, convert, predict."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support.vocab import write_tiny_vocab

ROOT = Path(__file__).resolve().parents[2]
TOOLS = "mindformers/tools/dataset_preprocess/glm4"
FINETUNE = "configs/glm4/finetune_glm4_tiny_cpu.yaml"
PREDICT = "configs/glm4/predict_glm4_tiny_cpu.yaml"
ROWS = [
    {
        "instruction": f"Say number {i}.",
        "input": "loudly" if i % 3 else "",
        "output": f"Number {i}! 好",
    }
    for i in range(24)
]


def run(*arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a Python script of the repository; the exit code must be ``expect`` and no traceback appear."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        timeout=240,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


class Run:
    """Everything one pass over the commands made."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.vocab = write_tiny_vocab(folder)
        self.data, self.lines = folder / "alpaca.json", folder / "alpaca.jsonl"
        self.records, self.output = folder / "rows.mindrecord", folder / "output"
        self.data.write_text(json.dumps(ROWS, ensure_ascii=False), encoding="utf-8")
        run(f"{TOOLS}/alpaca_converter.py", "--data_path", self.data, "--output_path", self.lines)
        self.preprocess = run(
            f"{TOOLS}/glm4_preprocess.py",
            "--input_glob",
            self.lines,
            "--vocab_file",
            self.vocab,
            "--output_file",
            self.records,
            "--seq_length",
            48,
            "--num_workers",
            1,
        )
        self.finetune = run("run_mindformer.py", *self.settings(), "--output_dir", self.output)
        self.steps = self.output / "checkpoint"
        self.huggingface = folder / "huggingface"
        run(
            "convert_weight.py",
            "--model",
            "glm4",
            "--reversed",
            "--config",
            self.steps / "step_00000008/config.yaml",
            "--input_path",
            self.steps,
            "--output_path",
            self.huggingface,
            "--tokenizer",
            self.vocab,
        )

    def settings(self, epochs: int = 2) -> list[object]:
        """Return the arguments of a run of 4 steps an epoch on a network of two narrow layers."""
        special = 448  # ranks of the tiny vocabulary: the first control token
        return [
            "--config",
            FINETUNE,
            "--run_mode",
            "finetune",
            "--train_dataset",
            self.records,
            "--mode",
            "1",
            "--epochs",
            epochs,
            "--batch_size",
            "6",
            "--callbacks.1.save_checkpoint_steps",
            "2",
            "--callbacks.1.keep_checkpoint_max",
            "3",
            "--callbacks.0.per_print_times=1",
            *self.network(),
            "--model.model_config.pad_token_id",
            special,
        ]

    @staticmethod
    def network() -> list[object]:
        return [
            "--model.model_config.num_layers",
            "2",
            "--model.model_config.hidden_size",
            "32",
            "--model.model_config.ffn_hidden_size",
            "48",
            "--model.model_config.kv_channels",
            "8",
            "--model.model_config.padded_vocab_size",
            "480",
            "--model.model_config.eos_token_id",
            "[448, 455, 457]",
        ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("commands"))


def losses(output: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def test_preprocessing_says_what_it_did(made: Run) -> None:
    assert "Transformed 24 records." in made.preprocess.stdout
    assert f"Transform finished, output files refer: {made.records}" in made.preprocess.stdout


def test_finetuning_prints_upstreams_lines_and_writes_curves_and_settings(made: Run) -> None:
    line = r"\{ Epoch:\[  2/  2\], step:\[    4/    4\], loss: \d\.\d{6}, per_step_time: \d+ms, lr: .*global_norm: \["
    assert re.search(line, made.finetune.stderr), made.finetune.stderr
    assert (
        "\x1b[" not in made.finetune.stderr + made.finetune.stdout
    )  # no terminal, no escape codes
    assert [step for step, _ in losses(made.output)] == list(range(1, 9))
    assert losses(made.output)[-1][1] < losses(made.output)[0][1]
    assert (made.output / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((made.output / "tensorboard").iterdir())
    assert "hidden_size: 32" in (made.output / "config.yaml").read_text(encoding="utf-8")
    assert (made.output / "log/rank_0/info.log").is_file()


def test_the_last_three_steps_are_kept(made: Run) -> None:
    assert sorted(p.name for p in made.steps.iterdir() if p.is_dir()) == [
        "step_00000004",
        "step_00000006",
        "step_00000008",
    ]
    assert (made.steps / "step_00000008/rank_0/glm4_rank_0-2_4.safetensors").is_file()


def test_a_resumed_run_repeats_the_unbroken_one_bit_for_bit(made: Run, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run("run_mindformer.py", *made.settings(), "--output_dir", whole)
    run(
        "run_mindformer.py",
        *made.settings(),
        "--output_dir",
        broken,
        "--runner_config.stop_step",
        "3",
    )
    run("run_mindformer.py", *made.settings(), "--output_dir", broken, "--resume_training", "true")
    assert losses(broken) == losses(whole) == losses(made.output)
    name = "checkpoint/step_00000008/rank_0/optimizer.safetensors"
    assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_killed_at_any_moment_resumes_to_the_same_curve(made: Run, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "run_mindformer.py",
        *map(str, made.settings(epochs=3)),
        "--output_dir",
        str(tmp_path),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("checkpoint/step_*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob("checkpoint/step_*"))
    run(
        "run_mindformer.py",
        *made.settings(epochs=3),
        "--output_dir",
        tmp_path,
        "--resume_training",
        "true",
    )
    whole = tmp_path / "whole"
    run("run_mindformer.py", *made.settings(epochs=3), "--output_dir", whole)
    assert losses(tmp_path) == losses(whole)
    assert len(losses(whole)) == 12


def test_other_data_is_refused_when_resuming_unless_allowed(made: Run, tmp_path: Path) -> None:
    other = tmp_path / "other.mindrecord"
    lines = made.lines.read_text(encoding="utf-8").replace("Say", "Tell")
    (tmp_path / "other.jsonl").write_text(lines, encoding="utf-8")
    run(
        f"{TOOLS}/glm4_preprocess.py",
        "--input_glob",
        tmp_path / "other.jsonl",
        "--vocab_file",
        made.vocab,
        "--output_file",
        other,
        "--seq_length",
        48,
        "--num_workers",
        1,
    )
    arguments = [
        *made.settings(epochs=3),
        "--train_dataset_dir",
        other,
        "--load_checkpoint",
        made.steps,
        "--resume_training",
        "true",
        "--output_dir",
        tmp_path / "run",
    ]
    refused = run("run_mindformer.py", *arguments, expect=2)
    assert refused.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "--allow_data_change true" in refused.stderr
    run("run_mindformer.py", *arguments, "--allow_data_change", "true")


def test_a_converted_directory_is_complete_and_goes_back_bit_for_bit(
    made: Run, tmp_path: Path
) -> None:
    names = {p.name for p in made.huggingface.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.model",
        "tokenizer_config.json",
    } <= names
    config = json.loads((made.huggingface / "generation_config.json").read_text())
    assert config["eos_token_id"] == [448, 455, 457]
    back = tmp_path / "back.safetensors"
    run(
        "convert_weight.py",
        "--model",
        "glm4",
        "--input_path",
        made.huggingface,
        "--output_path",
        back,
    )
    trained = load_file(made.steps / "step_00000008/rank_0/glm4_rank_0-2_4.safetensors")
    found = load_file(back)
    assert set(found) <= set(trained)
    for name, tensor in found.items():
        assert np.array_equal(tensor, trained[name]), name


def test_predict_answers_with_the_chat_template(made: Run, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Say number 3.\nSay number 6.\n", encoding="utf-8")
    saved = tmp_path / "answers.txt"
    arguments = [
        "--config",
        PREDICT,
        "--run_mode",
        "predict",
        "--load_checkpoint",
        made.huggingface,
        "--mode",
        "1",
        "--processor.tokenizer.vocab_file",
        made.vocab,
        "--predict_data",
        prompts,
        "Say number 9.",
        "--predict_batch_size",
        "2",
        "--save_file",
        saved,
        "--output_dir",
        tmp_path / "output",
        "--model.model_config.pad_token_id",
        "448",
        *made.network(),
    ]
    done = run("run_mindformer.py", *arguments)
    assert "output result is saved at:" in done.stderr
    answers = json.loads(saved.read_text(encoding="utf-8"))
    assert [list(answer) for answer in answers] == [["text_generation_text"]] * 3
    assert not any("Say number" in answer["text_generation_text"][0] for answer in answers)
    chat = subprocess.run(
        [sys.executable, "-m", "mindformers", "chat", str(made.huggingface), "--no_history"],
        input="Say number 3.\n",
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert chat.stdout.strip() == answers[0]["text_generation_text"][0].strip()


def test_a_vocabulary_of_another_network_is_refused(made: Run, tmp_path: Path) -> None:
    network = [*made.network()[:-1], "[5, 6]", "--model.model_config.pad_token_id", "448"]
    done = run(
        "run_mindformer.py",
        "--config",
        PREDICT,
        "--load_checkpoint",
        made.huggingface,
        "--mode",
        "1",
        "--processor.tokenizer.vocab_file",
        made.vocab,
        "--predict_data",
        "hi",
        "--output_dir",
        tmp_path,
        *network,
        expect=2,
    )
    assert "eos_token_id [5, 6] is no control token of this vocabulary" in done.stderr
    assert "[448, 455, 457]" in done.stderr


def test_the_published_prompts_print_in_the_published_form(made: Run, tmp_path: Path) -> None:
    settings = (ROOT / PREDICT).read_text(encoding="utf-8")
    for old, new in (
        ("num_layers: 4", "num_layers: 2"),
        ("hidden_size: 128", "hidden_size: 32"),
        ("ffn_hidden_size: 352", "ffn_hidden_size: 48"),
        ("kv_channels: 32", "kv_channels: 8"),
        ("padded_vocab_size: 2048", "padded_vocab_size: 480"),
        ("mode: 0", "mode: 1"),
        ("[2034, 2041, 2043]", "[448, 455, 457]"),
        ("pad_token_id: 2034", "pad_token_id: 448"),
        ("./output", str(tmp_path / "output")),
    ):
        assert old in settings
        settings = settings.replace(old, new)
    config = tmp_path / "predict.yaml"
    config.write_text(settings, encoding="utf-8")
    done = subprocess.run(
        [
            "bash",
            "scripts/examples/glm4/run_glm4_predict.sh",
            "single",
            str(config),
            str(made.huggingface),
            str(made.vocab),
            "1",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stderr
    answers = [
        line for line in done.stdout.splitlines() if line.startswith("['[gMASK] <sop> <|user|> ")
    ]
    assert len(answers) == 3
    assert "晚上睡不着应该怎么办" in answers[0]
    assert all("<|assistant|>" in answer for answer in answers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [
                "--config",
                "configs/glm4/finetune_glm4_9b.yaml",
                "--run_mode",
                "finetune",
                "--train_dataset",
                ROWS_PATH := ".",
            ],
            "use_parallel is True, but this is a process on its own",
        ),
        (
            [
                "--config",
                "configs/glm4/finetune_glm4_9b.yaml",
                "--use_parallel",
                "False",
                "--run_mode",
                "finetune",
                "--recompute_config.recompute",
                "False",
                "--train_dataset",
                ROWS_PATH,
            ],
            "no NPU found on this machine",
        ),
        (["--config", FINETUNE, "--run_mode", "finetune"], "train_dataset"),
        (["--config", PREDICT, "--run_mode", "predict"], "nothing to answer"),
        (["--config", "configs/glm4/finetune_glm4.yaml"], "finetune_glm4_9b.yaml"),
    ],
)
def test_what_cannot_run_is_said_in_one_line(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = run("run_mindformer.py", *arguments, "--output_dir", tmp_path, expect=2)
    assert message in done.stderr
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .lstrip()
        .startswith(("error: ", "command line", "configs"))
    )
