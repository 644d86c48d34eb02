"""The flags of ``run_mindformer.py``: names, value types, and the key each one sets."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mindformers.guard import DEBUG_FLAG, FlagParser, truth

_LOADER = "data_loader.dataset_dir"
MOST_DEVICES = 65536  # of a plan


def truth_or_text(text: str) -> bool | str:
    """Return a bool for ``true`` and ``false``, else the text."""
    return text.lower() == "true" if text.lower() in ("true", "false") else text


def whole_number(text: str) -> int:
    """Return the int a text stands for.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a whole number") from None


def gigabytes(text: str) -> float:
    """Return the bytes a text as ``64GB`` stands for; a GB has 2^30, as in max_device_memory.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:GB|GiB)", text.strip(), re.IGNORECASE)
    if found is None or float(found.group(1)) == 0:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a number of GB, as 64GB")
    return float(found.group(1)) * 2**30


def device_count(text: str) -> int:
    """Return the number of devices a text stands for.

    Raises:
        argparse.ArgumentTypeError: If it is none.
    """
    count = whole_number(text)
    if not 1 <= count <= MOST_DEVICES:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: 1 to {MOST_DEVICES}")
    return count


@dataclass(frozen=True)
class Flag:
    """One flag.

    Args:
        name: Without the dashes.
        key: Dotted key it sets.
        read: Text to value.
        help: One line for ``--help``.
        aliases: Other spellings.
        is_list: Takes one or more values.
    """

    name: str
    key: str
    read: Callable[[str], Any]
    help: str
    aliases: tuple[str, ...] = ()
    is_list: bool = False


def _flag(name: str, read: Callable[[str], Any], text: str, key: str = "", **more: Any) -> Flag:
    return Flag(name, key or name, read, text, **more)


FLAGS = (
    _flag("mode", whole_number, "0 graph, 1 PyNative", "context.mode"),
    _flag("device_id", whole_number, "number of the NPU", "context.device_id"),
    _flag("device_target", str, "CPU or Ascend", "context.device_target"),
    _flag("run_mode", str, "train, finetune, eval, predict or plan"),
    _flag("do_eval", truth, "evaluate on eval_dataset while training"),
    _flag("train_dataset_dir", str, "MindRecord, JSON, JSON Lines or Parquet file, or a folder, to train on",
          f"train_dataset.{_LOADER}", aliases=("train_dataset",)),
    _flag("eval_dataset_dir", str, "what to evaluate on: MindRecord, or .jsonl conversations",
          f"eval_dataset.{_LOADER}", aliases=("eval_dataset",)),
    _flag("predict_data", str, "prompts, or files of one prompt per line", "input_data",
          is_list=True),
    _flag("modal_type", str, "kind of each input (not implemented)", is_list=True),
    _flag("predict_batch_size", whole_number, "prompts answered at once"),
    _flag("adapter_id", str, "folder of LoRA adapters to answer with, or none; one, or one for each prompt",
          is_list=True),
    _flag("load_checkpoint", str, "weights: a folder or a file"),
    _flag("src_strategy_path_or_dir", str, "read for compatibility: a step says itself what its layout is"),
    _flag("auto_trans_ckpt", truth, "read for compatibility: weights of any layout load into any"),
    _flag("transform_process_num", whole_number, "read for compatibility"),
    _flag("only_save_strategy", truth, "write the layout and stop (not implemented)"),
    _flag("resume_training", truth_or_text, "true, or the name of a checkpoint"),
    _flag("allow_data_change", truth, "resume although the training data is another one"),
    _flag("strategy_load_checkpoint", str, "read for compatibility"),
    _flag("remote_save_url", str, "address to copy results to (not implemented)"),
    _flag("seed", whole_number, "seed of weights, order and sampling"),
    _flag("use_parallel", truth, "run as one of the processes a launcher started"),
    _flag("profile", truth, "profile steps of a training"),
    _flag("epochs", whole_number, "passes over the training data", "runner_config.epochs"),
    _flag("batch_size", whole_number, "rows of a micro batch", "runner_config.batch_size"),
    _flag("gradient_accumulation_steps", whole_number, "micro batches of one step",
          "runner_config.gradient_accumulation_steps"),
    _flag("sink_mode", truth, "Ascend: feed data on the device", "runner_config.sink_mode"),
    _flag("num_samples", whole_number, "rows of the training data to use",
          "train_dataset.data_loader.num_samples"),
    _flag("output_dir", str, "folder for all a run writes"),
    _flag("quantization", str, "predict on a CPU with weights of int8 or int4",
          "model.model_config.quantization"),
    _flag("prompt_lookup", whole_number, "tokens guessed at a time from the text so far",
          "model.model_config.prompt_lookup_num_tokens"),
    _flag("assistant_model", str, "folder of a smaller model that guesses tokens"),
    _flag("do_sample", truth, "draw tokens instead of taking the likeliest",
          "model.model_config.do_sample"),
    _flag("trust_remote_code", truth, "run code of a model folder (refused)",
          "processor.tokenizer.trust_remote_code"),
)  # fmt: skip

# Read by ``--run_mode plan`` alone; they set no key.
PLAN_FLAGS: tuple[tuple[str, Callable[[str], Any], str], ...] = (
    ("devices", device_count, "plan: find the best layouts for so many devices"),
    ("device_memory", gigabytes, "plan: memory of a device, as 64GB"),
    ("device", str, "plan: atlas_800t_a2, atlas_900_a2 or cpu"),
)

CONFIG, OPTIONS, REGISTER_PATH = "config", "options", "register_path"


def build_parser(prog: str = "run_mindformer.py") -> FlagParser:
    """Return the parser; every flag is None unless it is given. Its help shows ``prog``."""
    parser = FlagParser(
        prog=prog,
        description="Finetune GLM-4, evaluate it, predict with it, or plan a run, from a YAML file.",
        epilog="Any other --a.b.c VALUE sets that key of the file; list items have numbers: "
        "--callbacks.1.save_checkpoint_steps 50.",
        allow_abbrev=False,
    )
    parser.add_argument(f"--{CONFIG}", metavar="FILE", help="the YAML file (required)")
    for flag in FLAGS:
        spellings = [f"--{name}" for name in (flag.name, *flag.aliases)]
        parser.add_argument(
            *spellings,
            dest=flag.name,
            type=flag.read,
            nargs="+" if flag.is_list else None,
            metavar="VALUE",
            help=flag.help,
        )
    for name, read, text in PLAN_FLAGS:
        parser.add_argument(f"--{name}", type=read, metavar="VALUE", help=text)
    parser.add_argument(
        f"--{OPTIONS}", nargs="+", default=[], metavar="KEY=VALUE", help="set keys: a.b=1 c=True"
    )
    parser.add_argument(f"--{REGISTER_PATH}", metavar="DIR", help="load code (refused)")
    parser.add_argument(DEBUG_FLAG, action="store_true", help="show tracebacks")
    return parser


def all_spellings() -> list[str]:
    """Return every flag with its dashes."""
    return sorted(
        {option for action in build_parser()._actions for option in action.option_strings}
    )
