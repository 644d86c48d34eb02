#!/usr/bin/env python
"""Answer the three published prompts, one call each, and print ids as text with their control tokens."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from mindformers.guard import run_guarded  # noqa: E402

PROMPTS = ("晚上睡不着应该怎么办", "使用python编写快速排序代码", "你好呀！")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config_path",
        default=str(ROOT / "configs/glm4/predict_glm4_9b_chat.yaml"),
        help="predict YAML",
    )
    parser.add_argument(
        "--load_checkpoint", default="", help="weights: a Hugging Face directory, ours, or one file"
    )
    parser.add_argument("--vocab_file", default="", help="tokenizer.model; default: the YAML's")
    parser.add_argument("--device_target", choices=("CPU", "Ascend"), help="default: the YAML's")
    parser.add_argument(
        "--use_parallel",
        action="store_true",
        help="started as several processes that share the network",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args(argv)

    from mindformers.config.mindformer_config import MindFormerConfig
    from mindformers.logger import setup_console_logging
    from mindformers.parallel import heartbeat
    from mindformers.parallel.runtime import launched_processes, launched_rank
    from mindformers.tasks import build

    setup_console_logging()
    heartbeat.start()
    config = MindFormerConfig(arguments.config_path)
    config.set_value("use_parallel", arguments.use_parallel)
    config.set_value("run_mode", "predict")
    degrees = ("data_parallel", "pipeline_stage", "context_parallel")
    for name in degrees if arguments.use_parallel else ():
        config.set_value(f"parallel_config.{name}", 1)
    if arguments.use_parallel:
        config.set_value("parallel_config.model_parallel", launched_processes())
    if arguments.load_checkpoint:
        config.set_value("load_checkpoint", arguments.load_checkpoint)
    if arguments.vocab_file:
        config.set_value("processor.tokenizer.vocab_file", arguments.vocab_file)
    if arguments.device_target:
        config.set_value("context.device_target", arguments.device_target)
    run = config.bind()
    build.start(run)
    weights, tokenizer = build.named_weights(run), build.build_tokenizer(run)
    build.check_tokenizer(tokenizer, build.network_settings(run))
    network = build.build_network(run, weights)
    network.load_checkpoint(weights)
    for prompt in PROMPTS:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True
        )
        output = network.generate([ids], max_length=network.config.max_decode_length, seed=run.seed)
        if launched_rank() == 0:
            print(tokenizer.decode(output), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(main))
