"""Rules across sections. Each names the keys it reads: a rule on wrong values is left out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from mindformers.config.evaluation import OTHER_TASKS
from mindformers.config.report import Problem
from mindformers.config.run_keys import RunKeys
from mindformers.config.yaml_text import KeyPath

FLASH_MULTIPLE = 16  # the Ascend operator's tile along the tokens

Check = Callable[[RunKeys], str | None]


@dataclass(frozen=True)
class Rule:
    """A check that returns what is wrong, or None; ``reads[0]`` is the key a message stands at."""

    reads: tuple[KeyPath, ...]
    check: Check


RULES: list[Rule] = []


def rule(*reads: str) -> Callable[[Check], Check]:
    """Register a check that reads these dotted keys."""

    def register(check: Check) -> Check:
        RULES.append(Rule(tuple(tuple(name.split(".")) for name in reads), check))
        return check

    return register


def broken_rules(config: RunKeys, unclear: Collection[KeyPath] = ()) -> list[Problem]:
    """Return the problem of every rule that is broken.

    Args:
        config: The settings.
        unclear: Key paths whose values were left out because they are wrong themselves.
    """
    problems = []
    for each in RULES:
        if any(_overlap(read, path) for read in each.reads for path in unclear):
            continue
        message = each.check(config)
        if message is not None:
            problems.append(Problem(each.reads[0], message))
    return problems


def _overlap(first: KeyPath, second: KeyPath) -> bool:
    return all(one == other for one, other in zip(first, second, strict=False))


@rule("recompute_config.recompute", "parallel_config.pipeline_stage", "use_parallel")
def _one_recompute_count_per_stage(config: RunKeys) -> str | None:
    return _count_per_stage(config, config.recompute_config.recompute)


@rule("recompute_config.select_recompute", "parallel_config.pipeline_stage", "use_parallel")
def _one_select_recompute_count_per_stage(config: RunKeys) -> str | None:
    return _count_per_stage(config, config.recompute_config.select_recompute)


def _count_per_stage(config: RunKeys, counts: bool | list[int]) -> str | None:
    stages = config.parallel_config.pipeline_stage
    if not config.use_parallel or not isinstance(counts, list) or len(counts) == stages:
        return None
    return f"found a list of {len(counts)}, but parallel_config.pipeline_stage is {stages}"


@rule("model.model_config.offset", "parallel_config.pipeline_stage", "use_parallel",
      "model.model_config.num_layers")  # fmt: skip
def _one_offset_per_stage(config: RunKeys) -> str | None:
    if config.model is None or not config.use_parallel:
        return None
    offset, stages = config.model.network.offset, config.parallel_config.pipeline_stage
    num_layers = config.model.network.num_layers
    if not isinstance(offset, list):
        return None
    if len(offset) != stages:
        return f"found a list of {len(offset)}, but parallel_config.pipeline_stage is {stages}"
    if sum(offset) != num_layers % stages:
        return (
            f"found a sum of {sum(offset)}; allowed: {num_layers % stages}, "
            f"the remainder of {num_layers} layers in {stages} stages"
        )
    return None


@rule("parallel_config.model_parallel", "use_parallel", "model.model_config.num_attention_heads")
def _heads_divide_among_processes(config: RunKeys) -> str | None:
    if config.model is None or not config.use_parallel:
        return None
    heads, degree = config.model.network.num_attention_heads, config.parallel_config.model_parallel
    return f"found {degree}, which does not divide {heads} query heads" if heads % degree else None


@rule("parallel_config.pipeline_stage", "use_parallel", "model.model_config.num_layers",
      "parallel_config.micro_batch_num")  # fmt: skip
def _stages_have_work(config: RunKeys) -> str | None:
    if config.model is None or not config.use_parallel:
        return None
    stages, parts = config.parallel_config.pipeline_stage, config.parallel_config.micro_batch_num
    if stages > config.model.network.num_layers:
        return f"found {stages}, more than num_layers {config.model.network.num_layers}"
    if stages > 1 and parts < stages:
        return f"found {stages}, more than micro_batch_num {parts}"
    return None


@rule("model.model_config.seq_length", "model.model_config.use_flash_attention",
      "context.device_target")  # fmt: skip
def _flash_attention_tiles(config: RunKeys) -> str | None:
    if config.model is None or config.context.device_target != "Ascend":
        return None
    network = config.model.network
    if not network.use_flash_attention or network.seq_length % FLASH_MULTIPLE == 0:
        return None
    return (
        f"found {network.seq_length}; allowed: a multiple of {FLASH_MULTIPLE} "
        "while use_flash_attention is True"
    )


@rule("model.model_config.eos_token_id", "model.model_config.padded_vocab_size")
def _answers_can_end(config: RunKeys) -> str | None:
    if config.model is None:
        return None
    eos, size = config.model.network.eos_token_id, config.model.network.padded_vocab_size
    outside = [token for token in (eos if isinstance(eos, list) else [eos]) if token >= size]
    return f"found {outside[0]}; allowed: ids below padded_vocab_size {size}" if outside else None


@rule("model.model_config.pad_token_id", "model.model_config.padded_vocab_size")
def _padding_is_in_the_vocabulary(config: RunKeys) -> str | None:
    if config.model is None:
        return None
    pad, size = config.model.network.pad_token_id, config.model.network.padded_vocab_size
    return f"found {pad}; allowed: ids below padded_vocab_size {size}" if pad >= size else None


@rule("train_dataset_task.dataset_config", "train_dataset")
def _one_training_set(config: RunKeys) -> str | None:
    return _two_sets(config, "train_dataset")


@rule("eval_dataset_task.dataset_config", "eval_dataset")
def _one_evaluation_set(config: RunKeys) -> str | None:
    return _two_sets(config, "eval_dataset")


def _two_sets(config: RunKeys, name: str) -> str | None:
    section, task = getattr(config, name), getattr(config, f"{name}_task")
    if task is None or task.dataset_config in (None, section):
        return None
    return f"differs from {name}; write '{name}: &{name}' and '*{name}'"


@rule("train_dataset.batch_size", "runner_config.batch_size")
def _one_batch_size(config: RunKeys) -> str | None:
    rows = config.train_dataset.batch_size if config.train_dataset else None
    if rows is None or rows == config.runner_config.batch_size:
        return None
    return f"found {rows}, but runner_config.batch_size is {config.runner_config.batch_size}"


@rule("optimizer.type", "parallel.enable_parallel_optimizer", "parallel_config", "use_parallel")
def _whole_matrices_for_their_optimizer(config: RunKeys) -> str | None:
    degrees, name = config.parallel_config, config.optimizer.type
    if not config.use_parallel or config.optimizer.updates_elements:
        return None
    if degrees.model_parallel > 1:
        return f"{name} needs whole matrices; allowed with it: parallel_config.model_parallel 1"
    if config.parallel.enable_parallel_optimizer and degrees.num_processes > degrees.pipeline_stage:
        return f"{name} needs whole matrices; allowed with it: parallel.enable_parallel_optimizer False"
    return None


@rule("optimizer.relative_step", "lr_schedule")
def _one_source_of_the_rate(config: RunKeys) -> str | None:
    if not getattr(config.optimizer, "relative_step", False) or config.lr_schedule is None:
        return None
    return "True sets the rate by itself; leave lr_schedule out, or set it to False"


@rule("optimizer.freeze_include", "model.model_config.pet_config")
def _adapters_freeze_the_rest(config: RunKeys) -> str | None:
    adapters = config.model is not None and config.model.network.pet_config is not None
    if not adapters or not config.optimizer.freeze_include:
        return None
    return "with pet_config only the adapters are trained; leave one of the two out"


@rule("adapter_id", "run_mode")
def _adapters_answer(config: RunKeys) -> str | None:
    if not config.adapter_id or config.run_mode in (None, "predict"):
        return None
    return "has an effect when predicting only; elsewhere name the adapters with load_checkpoint"


@rule("metric", "run_mode", "do_eval")
def _metrics_of_this_task(config: RunKeys) -> str | None:
    is_evaluated = config.run_mode == "eval" or config.do_eval
    strange = [each.type for each in config.metric if each.type in OTHER_TASKS]
    if not is_evaluated or not strange:
        return None
    return f"{strange[0]} is a metric {OTHER_TASKS[strange[0]]}: not implemented"


@rule("metric")
def _one_metric_of_a_kind(config: RunKeys) -> str | None:
    names = [metric.type for metric in config.metric]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    return f"{twice[0]} is listed twice; keep one of them" if twice else None


@rule("callbacks", "do_eval")
def _evaluations_to_look_at(config: RunKeys) -> str | None:
    if config.do_eval:
        return None
    for callback in config.callbacks:
        if callback.type == "EarlyStopping" or getattr(callback, "keep_best", None):
            name = "EarlyStopping" if callback.type == "EarlyStopping" else "keep_best"
            return f"{name} looks at evaluations, but do_eval is False; add do_eval: True"
    return None


@rule("callbacks")
def _one_callback_of_a_kind(config: RunKeys) -> str | None:
    names = [callback.type for callback in config.callbacks]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    return f"{twice[0]} is listed twice; keep one of them" if twice else None
