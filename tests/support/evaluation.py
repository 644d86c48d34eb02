"""A tiny model, data to evaluate it on, and settings of runs over both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.config.run_config import RunConfig
from mindformers.dataset.encode import encode_conversation
from mindformers.dataset.mindrecord import mindrecord_writer
from mindformers.models.auto import AutoConfig, AutoTokenizer
from tests.support.model_dir import write_model_dir

CONVERSATIONS = [
    [("user", "Hello"), ("assistant", "Hello world")],
    [("user", "你好"), ("assistant", "你好，世界。")],
    [("user", "one"), ("assistant", "two")],
    [("user", "the model"), ("assistant", "and the tool"), ("user", "you"), ("assistant", "it")],
    [("user", "weather 北京"), ("assistant", "今天天气是在北京。")],
    [("user", "is it"), ("assistant", "it is on")],
    [("user", "three"), ("assistant", "one two three")],
]  # seven, so that batches of two or three leave a rest
SEQ = 48


class EvalParts:
    """A model directory, its tokenizer, conversations as ``.jsonl`` and as MindRecord."""

    def __init__(self, folder: Path, **network: Any):
        from mindformers.parallel.runtime import start_runtime

        start_runtime(device_target="CPU", mode=1)
        self.model = write_model_dir(folder / "model", **network)
        self.tokenizer = AutoTokenizer.from_pretrained(self.model)
        rows = [
            {"messages": [{"role": role, "content": text} for role, text in turns]}
            for turns in CONVERSATIONS
        ]
        self.conversations = folder / "rows.jsonl"
        self.conversations.write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
        samples = [encode_conversation(self.tokenizer, row["messages"], SEQ) for row in rows]
        self.ids = np.stack([each.input_ids for each in samples])
        self.labels = np.stack([each.labels for each in samples])
        self.rows = folder / "rows.mindrecord"
        with mindrecord_writer(self.rows, num_partitions=1) as writer:
            writer.write(self.ids, self.labels)

    def run(self, output: Path, **changes: Any) -> RunConfig:
        """Return the settings of an evaluation; ``changes`` are keys at the top of the file."""
        settings = AutoConfig.from_pretrained(self.model).to_diff_dict()
        return MindFormerConfig(
            {
                "seed": 3,
                "run_mode": "eval",
                "output_dir": str(output),
                "load_checkpoint": str(self.model),
                "context": {"device_target": "CPU", "mode": 1},
                "model": {
                    "model_config": {"type": "ChatGLM2Config", **settings, **changes.pop("network", {})},
                    "arch": {"type": "ChatGLM2ForConditionalGeneration"},
                },
                "processor": {
                    "type": "GLMProcessor",
                    "tokenizer": {
                        "type": "ChatGLM4Tokenizer",
                        "vocab_file": str(self.model / "tokenizer.model"),
                    },
                },
                "train_dataset": {"data_loader": {"type": "MindDataset", "dataset_dir": str(self.rows)}},
                "eval_dataset": {"data_loader": {"type": "MindDataset", "dataset_dir": str(self.rows)}},
                "runner_config": {"epochs": 2, "batch_size": 2},
                "optimizer": {"type": "AdamW", "learning_rate": 1e-3},
                **changes,
            }
        ).bind()  # fmt: skip

    def expected(self, network: Any) -> dict[str, float]:
        """Return loss, perplexity, accuracy and count from the network's logits, in NumPy by token."""
        from mindspore import Tensor

        logits = network(Tensor(self.ids))[0].asnumpy().astype(np.float64)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        losses = [
            -np.log(shares[row, place, self.labels[row, place]])
            for row, place in np.argwhere(self.labels >= 0)
        ]
        hits = (logits.argmax(-1) == self.labels)[self.labels >= 0]
        mean = float(np.mean(losses))
        return {
            "loss": mean,
            "perplexity": float(np.exp(mean)),
            "token_accuracy": float(hits.mean()),
            "trained_tokens": len(losses),
        }
