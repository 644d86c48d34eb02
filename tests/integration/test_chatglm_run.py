"""ChatGLM2 and ChatGLM3 from a vocabulary to an answer: data, the published YAML files, finetune, predict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindformers.cli.run import main as run
from mindformers.tools.dataset_preprocess.glm4.glm4_preprocess import main as preprocess
from tests.support.sentence_pieces import write_tiny_model

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = {"你好": "今天天气很好", "How are you?": "I am fine", "What is two?": "one two three"}
TINY = {
    "num_layers": 2, "padded_vocab_size": 416, "hidden_size": 64, "ffn_hidden_size": 96,
    "kv_channels": 16, "num_attention_heads": 4, "seq_length": 64,
    "param_init_type": "float32", "compute_dtype": "float32",
}  # fmt: skip
FILES = {
    "2": ("glm2/finetune_glm2_6b_fp16.yaml", "glm2/predict_glm2_6b.yaml"),
    "3": ("glm3/finetune_glm3_6b_bf16.yaml", "glm3/predict_glm3_6b.yaml"),
}


@pytest.fixture
def _portless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_portless")
@pytest.mark.parametrize("family", FILES)
def test_a_tiny_model_learns_its_data_and_says_it(tmp_path: Path, family: str) -> None:
    finetune, predict = (ROOT / "configs" / name for name in FILES[family])
    vocab = write_tiny_model(tmp_path)
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in ANSWERS.items()
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows * 8)
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    preprocess(["--input_glob", "rows.jsonl", "--vocab_file", str(vocab), "--seq_length", "48",
                "--tokenizer_type", f"ChatGLM{family}Tokenizer", "--output_file", "rows.mindrecord"])  # fmt: skip
    model = [f"--model.model_config.{key}={value}" for key, value in TINY.items()]
    common = [*model, "--device_target", "CPU", "--use_parallel", "False"]
    assert not run(["--config", str(finetune), "--run_mode", "finetune", *common,
                    "--train_dataset_dir", "rows.mindrecord", "--runner_config.batch_size=12",
                    "--epochs", "30", "--context.mode=1", "--lr_schedule.learning_rate=6e-3",
                    "--optimizer.betas=[0.9, 0.98]", "--recompute_config.recompute=False"])  # fmt: skip
    assert not run(["--config", str(predict), "--run_mode", "predict", *common,
                    "--load_checkpoint", "output/checkpoint", "--processor.tokenizer.vocab_file", str(vocab),
                    "--model.model_config.max_length=64", "--save_file", "answers.txt",
                    "--predict_data", *ANSWERS])  # fmt: skip
    found = json.loads(Path("answers.txt").read_text(encoding="utf-8"))
    assert [each["text_generation_text"][0] for each in found] == list(ANSWERS.values())
