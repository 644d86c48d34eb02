"""What a plan is about: a network, a layout and a batch. All else is arithmetic on these. Needs no MindSpore.

Letters: T tokens of a micro batch in one process, H hidden, V vocabulary, t tensor group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mindformers.checkpoint.keymap import Stored
from mindformers.checkpoint.quantized import BITS, GROUPS
from mindformers.config.optimizer import AdamWSection, OptimizerSection
from mindformers.config.pet import DEFAULT_TARGETS, LoraSection, Ptuning2Section, matches, pet_of
from mindformers.config.preflight import TRAINING_MODES
from mindformers.config.run_config import RunConfig
from mindformers.errors import ConfigError
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_shares import prefix_parts, share_of
from mindformers.models.glm2.glm2_weights import layout_named, stored_tensors
from mindformers.parallel.layout import Layout, Sizes, stage_counts
from mindformers.tasks.layout import layout_of, rounded_columns
from mindformers.tasks.plan_held import Held

_TYPE_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
_ROUNDED_BYTES = {"int8": 1.0, "int4": 0.5}
_SCALE_BYTES = 2


@dataclass(frozen=True)
class Job:
    """A run, as far as its memory, messages and arithmetic depend on it.

    Attributes:
        network: Sizes and types.
        tensors: The network's tensors outside the layers and those of the first layer.
        layout: Degrees; its rank does not matter.
        rows: Rows of a micro batch in one process; of a batch when predicting.
        micro_batches: Of a step, in one process.
        recompute: True: all layers; else how many of each stage, () for none.
        selected: The same for ``select_recompute``, counted with those of ``recompute``.
        adapters: LoRA; None: no adapters.
        prefix: P-tuning v2; without it and adapters every weight is trained that ``optimizer`` does not freeze.
        optimizer: Its settings.
        is_training: Else predicting.
        on_cpu: A CPU computes in float32, by kernels of its own.
    """

    network: ChatGLM2Config
    tensors: tuple[Stored, ...]
    layout: Layout
    rows: int
    micro_batches: int = 1
    recompute: bool | tuple[int, ...] = ()
    selected: bool | tuple[int, ...] = ()
    adapters: LoraSection | None = None
    prefix: Ptuning2Section | None = None
    optimizer: OptimizerSection = field(default_factory=AdamWSection)
    is_training: bool = True
    on_cpu: bool = False
    _held: dict[Any, list[Held]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_frozen(self) -> bool:
        """Whether the network's own weights are not trained."""
        return self.adapters is not None or self.prefix is not None

    @property
    def prefix_length(self) -> int:
        """Positions before the first token."""
        return self.prefix.pre_seq_len if self.prefix else 0

    @property
    def length(self) -> int:
        """Tokens of a row; of prompt and answer when predicting."""
        network = self.network
        if self.is_training:
            return int(network.seq_length)
        asked = network.max_length or network.max_decode_length or network.seq_length
        return min(int(asked), int(network.seq_length))

    @property
    def tokens(self) -> int:
        """T."""
        return self.rows * self.length // self.layout.context

    @property
    def stream_tokens(self) -> int:
        """Tokens of the residual stream in this process."""
        return self.tokens // (self.layout.tensor if self.layout.is_sequence_parallel else 1)

    @property
    def step_tokens(self) -> int:
        """Tokens of a step, over all processes."""
        return self.rows * self.length * self.micro_batches * self.layout.data

    @property
    def compute_bytes(self) -> int:
        """Bytes of an element of a matrix product."""
        return 4 if self.on_cpu else int(_TYPE_BYTES[self.network.compute_dtype])

    @property
    def stream_bytes(self) -> int:
        """Bytes of an element of the residual stream."""
        if self.on_cpu or self.network.fp32_residual_connection:
            return 4
        return int(_TYPE_BYTES[self.network.residual_dtype])

    @property
    def norm_bytes(self) -> int:
        """Bytes of an element of what a norm keeps for its way back."""
        return 4 if self.on_cpu else int(_TYPE_BYTES[self.network.layernorm_compute_type])

    @property
    def heads(self) -> int:
        """Query heads of this process."""
        return self.network.num_heads // self.layout.tensor

    @property
    def groups(self) -> int:
        """Key/value heads of this process."""
        return max(1, self.network.n_kv_heads // self.layout.tensor)

    @property
    def is_composed(self) -> bool:
        """Whether attention is made of two products, with a matrix of scores between them."""
        if self.on_cpu:
            return self.layout.context > 1 or (self.prefix is not None and self.is_training)
        return not self.network.use_flash_attention

    def at_stage(self, stage: int) -> Layout:
        """Return the layout seen from the first rank of a pipeline stage."""
        return self.layout.at(stage * self.layout.size // self.layout.pipeline)

    def layers(self, stage: int) -> int:
        """Return the number of layers of a stage."""
        layout = self.layout
        return stage_counts(self.network.num_layers, layout.pipeline, layout.offset)[stage]

    def recomputed(self, stage: int) -> int:
        """Return how many layers of a stage keep no activations."""
        return self._counted(self.recompute, stage)

    def partly_recomputed(self, stage: int) -> int:
        """Return how many layers of a stage keep no scores of attention and no product of gate and up."""
        return max(0, self._counted(self.selected, stage) - self.recomputed(stage))

    def _counted(self, value: bool | tuple[int, ...], stage: int) -> int:
        layers = self.layers(stage)
        if value is True:
            return layers
        return min(value[stage], layers) if value and len(value) == self.layout.pipeline else 0

    def sizes(self) -> Sizes:
        """Return what has to divide among processes."""
        network = self.network
        return Sizes(
            heads=network.num_heads,
            groups=network.n_kv_heads,
            ffn=network.ffn_hidden_size,
            vocab=network.vocab_size,
            layers=network.num_layers,
            seq_length=network.seq_length,
            rows=self.rows,
            rounded=rounded_columns(network),
        )

    def held(self, stage: int) -> list[Held]:
        """Return every tensor a process of this stage holds, adapters included."""
        layout = self.layout
        # A search asks the same of hundreds of jobs that differ in what does not matter here.
        key = (stage, layout.pipeline, layout.offset, layout.tensor, layout.is_vocab_parallel)
        if key not in self._held:
            seen = self.at_stage(stage)
            numbers = seen.layers(self.network.num_layers)
            self._held[key] = list(self._find_held(seen, numbers))
        return self._held[key]

    def _find_held(self, layout: Layout, numbers: range) -> Iterator[Held]:
        for stored in self.tensors:
            kind = stored.pieces[0].name
            is_layer = kind[0].isdigit()
            is_here = layout.is_first_stage if kind == "embedding" else layout.is_last_stage
            if not (is_layer or is_here):
                continue
            shapes = [share_of(each, self.network, layout).shape(each.shape)
                      for each in stored.pieces]  # fmt: skip
            shape = (sum(rows for rows, *_ in shapes), *shapes[0][1:])
            names = [stored.name]
            if is_layer:
                names = [stored.name.replace(".layers.0.", f".layers.{each}.") for each in numbers]
            is_free = self.is_training and not self.is_frozen
            trained = sum(is_free and not self.optimizer.freezes(name) for name in names)
            for count, is_trained in ((trained, True), (len(names) - trained, False)):
                if count:
                    yield Held(stored.name, shape, count, self._type_bytes(kind), is_trained)
            if self.adapters is not None and is_layer:
                is_cut = shape[1:] != stored.shape[1:]
                yield from self._adapters(stored.name, shape, numbers, is_cut)
        if self.prefix is not None:
            for name, part in prefix_parts(self.prefix, self.network, layout).items():
                yield Held(name, part.own_shape, 1, 4.0, self.is_training)

    def _type_bytes(self, kind: str) -> float:
        network = self.network
        if kind.endswith("_norm"):
            return _TYPE_BYTES[network.layernorm_compute_type]
        rounding = network.quantization or (
            self.adapters.base_quantization
            if self.adapters is not None and kind not in ("embedding", "head")
            else None
        )
        if rounding and kind in ("embedding", "head"):
            chosen = getattr(network, f"quantization_{kind}")
            rounding = None if chosen == "none" else chosen
        if rounding is None or kind.endswith(".bias"):
            return _TYPE_BYTES[network.param_init_type]
        group = network.quantization_group or GROUPS[BITS[rounding]]
        return _ROUNDED_BYTES[rounding] + _SCALE_BYTES / group

    def _adapters(
        self, name: str, shape: tuple[int, ...], numbers: range, is_cut: bool
    ) -> Iterator[Held]:
        """Yield A and B of the layers of this stage whose matrix has an adapter; ``is_cut``: along its columns."""
        assert self.adapters is not None
        layer, _, ending = name.rpartition(".")
        if ending != "weight" or len(shape) != 2:
            return
        targets = self.adapters.target_modules or DEFAULT_TARGETS
        excluded = self.adapters.exclude_layers
        ranks: Counter[int] = Counter()
        for number in numbers:
            full = layer.replace(".layers.0.", f".layers.{number}.")
            if matches(targets, full) and not (excluded and matches(excluded, full)):
                ranks[self.adapters.for_layer(full).lora_rank] += 1
        shared = self.layout.tensor > 1
        for rank, count in ranks.items():
            for end, form in (("a", (rank, shape[1])), ("b", (shape[0], rank))):
                is_partial = shared and is_cut == (end == "b")
                yield Held(f"{layer}.lora_{end}", form, count, 4.0, self.is_training, is_partial)


def job_of(config: RunConfig) -> Job:
    """Return what a plan needs of the settings. A file without run_mode is planned as a finetuning.

    Raises:
        ConfigError: If the file has no model section.
    """
    if config.model is None:
        raise ConfigError("the section is missing", where="model",
                          fix="take a file of configs/glm4")  # fmt: skip
    section = config.model.network
    if config.run_mode is None:
        config = config.model_copy(update={"run_mode": "finetune"})
    pet = pet_of(section)
    names = {"type", "checkpoint_name_or_path", "parallel_config"}
    network = ChatGLM2Config(**section.model_dump(exclude=names))
    is_training = config.run_mode in TRAINING_MODES
    again = config.recompute_config
    return Job(
        network=network,
        tensors=first_tensors(network),
        layout=layout_of(config),
        rows=config.runner_config.batch_size if is_training else _answers_at_once(config),
        micro_batches=config.micro_batches if is_training else 1,
        recompute=_counts(again.recompute),
        selected=_counts(again.select_recompute),
        adapters=pet if isinstance(pet, LoraSection) else None,
        prefix=pet if isinstance(pet, Ptuning2Section) else None,
        optimizer=config.optimizer,
        is_training=is_training,
        on_cpu=config.context.device_target == "CPU",
    )


def _counts(value: bool | list[int]) -> bool | tuple[int, ...]:
    return tuple(value) if isinstance(value, list) else value


def _answers_at_once(config: RunConfig) -> int:
    assert config.model is not None
    return config.predict_batch_size or config.model.network.batch_size


def first_tensors(network: ChatGLM2Config) -> tuple[Stored, ...]:
    """Return the tensors outside the layers and those of the first layer; the others are as these."""
    whole = stored_tensors(network, layout_named("mindformers", network))
    return tuple(each for each in whole if each.pieces[0].name.split(".")[0] in
                 ("0", "embedding", "final_norm", "head"))  # fmt: skip


def with_changes(job: Job, network: dict[str, Any] | None = None, **fields: Any) -> Job:
    """Return a job with other fields, and settings of its network."""
    if network:
        fields["network"] = type(job.network)(**{**job.network.to_dict(), **network})
    return replace(job, **fields, _held={})
