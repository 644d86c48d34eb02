"""``ChatGLM2Model`` and ``ChatGLM2ForConditionalGeneration``: GLM-2, GLM-3 and GLM-4 as networks.

Letters: B batch, S tokens, H hidden, V vocabulary, D head size, L cached tokens.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindformers.config.data import IGNORED_LABEL
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_modules import build_linear, residual_dtype
from mindformers.models.glm2.glm2_native import JOINED_LAYERS, native_network, with_merged
from mindformers.models.glm2.glm2_shared import SharedGLM2Model
from mindformers.models.glm2.glm2_transformer import ChatGLM2Transformer
from mindformers.modules.embedding import build_embedding_table
from mindformers.modules.loss import build_head_loss
from mindformers.modules.prefix import NoPrefix
from mindformers.ops.attention import build_mask, causal_mask
from mindformers.ops.backend import active_backend, compute_dtype, storage_dtype
from mindformers.ops.cast import build_cast
from mindformers.ops.native.arrays import Buffer
from mindformers.ops.native.network import NativeNetwork
from mindformers.ops.native.tensors import of_parameter
from mindformers.ops.native.weights import Vectors
from mindformers.ops.regions import build_enter, build_join_channels
from mindformers.ops.rotary import RotaryAngles
from mindformers.parallel.mesh import mesh
from mindformers.pet.lora import get_pet_model
from mindformers.pet.merged import MergedWeights
from mindformers.registry import MindFormerModuleType, MindFormerRegister


class ChatGLM2Model(nn.Cell):
    """Embedding, transformer and output layer."""

    def __init__(self, config: ChatGLM2Config):
        super().__init__()
        compute, stream = compute_dtype(config.compute_dtype), residual_dtype(config)
        self.block_size = config.block_size
        layout = mesh().layout
        self.part = layout.context_rank
        if layout.is_first_stage:
            self.embedding, self.to_rows = build_embedding_table(
                config.vocab_size,
                config.hidden_size,
                param_dtype=storage_dtype(config.param_init_type),
                out_dtype=compute,
            )
        self.rotary_angles = RotaryAngles(
            config.rotary_table(config.seq_length), config.kv_channels, compute
        )
        self.mask = build_mask()
        self.prefix_encoder: nn.Cell = NoPrefix()  # P-tuning puts a trained one here
        self.prefix_length = 0
        self.encoder = ChatGLM2Transformer(config)
        self.enter_head = build_enter()
        if layout.is_last_stage:
            rows = config.vocab_size // layout.tensor
            self.output_layer = build_linear(config, config.hidden_size, rows, may_round=False)
        self.join_logits = build_join_channels()
        self.to_stream = build_cast(compute, stream)
        self.to_compute = build_cast(stream, compute)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return the first residual stream, (B * S, H), for ``input_ids`` (B, S)."""
        hidden = self.to_stream(self.embedding(input_ids))  # (B, S, H)
        return self.to_rows(hidden.reshape((-1, hidden.shape[-1])))

    def construct(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        stream: Tensor | None = None,
        document_starts: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states after the final norm, (B * S, H), without a cache.

        On a pipeline stage: what the next one takes, or after the final norm on the last.

        Args:
            input_ids: (B, S) int32.
            position_ids: (B or 1, S) int32; None: 0..S-1.
            attention_mask: None (causal), or (B, S) with 1 for a real token and 0 for a pad, or
                (B, S, S) with 1 where a key is hidden (upstream's convention).
            stream: (T, H), what the pipeline stage before gave; None on the first.
            document_starts: (B, S) int32, where in its row the document of each token begins: documents do
                not see one another, and each counts its positions from 0. None: a row is one document.
        """
        tokens = input_ids.shape[1]
        first = self.part * tokens  # where this rank's part of the sequence begins
        steps = ops.arange(first, first + tokens).astype(ms.int32).expand_dims(0)  # (1, S)
        if document_starts is not None:
            position_ids = steps - document_starts
        cos, sin = self.rotary_angles(steps if position_ids is None else position_ids)
        mask = self.mask(steps, attention_mask, document_starts)
        hidden = self.embed(input_ids) if stream is None else stream
        return self.encoder(hidden, cos, sin, mask, None, self.prefix_encoder())

    def with_cache(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        slot_mapping: Tensor,
        block_tables: Tensor,
        batch_valid_length: Tensor,
    ) -> Tensor:
        """Return the hidden states after the final norm, (B * S, H), writing to and reading the cache.

        Args:
            input_ids: (B, S) int32, the next S tokens of every row.
            position_ids: (B, S) int32, their positions.
            slot_mapping: (B * S,) int32, the slot each one's key and value go to.
            block_tables: (B, W) int32, the blocks of every row in order.
            batch_valid_length: (B,) int32, tokens of every row once these are written.
        """
        offsets = ops.arange(self.block_size).astype(ms.int32)
        slots = block_tables.expand_dims(2) * self.block_size + offsets  # (B, W, block_size)
        slots = slots.reshape((block_tables.shape[0], -1))  # (B, L)
        # A prefix stands before position 0.
        cached = ops.arange(slots.shape[1]).astype(ms.int32).expand_dims(0) - self.prefix_length
        mask = causal_mask(position_ids, cached)  # (B, 1, S, L)
        cos, sin = self.rotary_angles(position_ids)
        cache = (mask, slot_mapping, slots, block_tables, batch_valid_length)
        return self.encoder(self.embed(input_ids), cos, sin, mask, cache)

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits (T, V) in the compute type for ``hidden`` (T, H)."""
        return self.head_logits(self.head_input(hidden))

    def head_input(self, hidden: Tensor) -> Tensor:
        """Return what the output layer takes, (T, H), for ``hidden``; all tokens, also where they are shared."""
        return self.enter_head(self.to_compute(hidden))

    def head_logits(self, rows: Tensor) -> Tensor:
        """Return logits (R, V) in the compute type for some rows of ``head_input``, (R, H)."""
        return self.join_logits(self.output_layer(rows))


@MindFormerRegister.register(MindFormerModuleType.MODELS)
class ChatGLM2ForConditionalGeneration(SharedGLM2Model):
    """A GLM that gives a loss for labels, logits without, and text through ``generate``.

    Args:
        config: Settings; ``config.checkpoint_name_or_path`` is loaded when given.
    """

    def __init__(self, config: ChatGLM2Config):
        super().__init__(config)
        self.transformer = ChatGLM2Model(config)
        self.head_loss = build_head_loss(
            storage_dtype(config.param_init_type), compute_dtype(config.compute_dtype)
        )
        self.cast = ops.Cast()
        self._native_buffers: dict[str, Buffer] = {}
        self._native: NativeNetwork | None = None
        self._vectors = Vectors()
        self._merged = MergedWeights()
        if config.pet:
            get_pet_model(self, config.pet)
        if config.checkpoint_name_or_path:
            self.load_checkpoint(config.checkpoint_name_or_path)

    def construct(  # noqa: PLR0913 -- upstream's inputs, in upstream's order
        self,
        input_ids=None,
        labels=None,
        input_position=None,
        position_ids=None,
        attention_mask=None,
        input_embeds=None,
        init_reset=None,
        batch_valid_length=None,
        prefix_key_values=None,
        block_tables=None,
        slot_mapping=None,
        batch_index=None,
        zactivate_len=None,
        input_mask=None,
        document_starts=None,
    ):
        """Run the network; the order of the inputs is upstream's.

        Args:
            input_ids: (B, S) int32.
            labels: (B, S) int32, shifted by the data set; -100 does not count. None: no loss.
            input_position: Not used.
            position_ids: (B or 1, S) int32; None: 0..S-1.
            attention_mask: As in ``ChatGLM2Model.construct``.
            input_embeds: Not used.
            init_reset: Not used.
            batch_valid_length: (B,) int32, with ``block_tables`` and ``slot_mapping``: use the cache.
            prefix_key_values: Not used.
            block_tables: (B, W) int32.
            slot_mapping: (B * S,) int32.
            batch_index: Not used.
            zactivate_len: Not used.
            input_mask: (B, S), 1 where a label counts; None: where the label is not -100.
            document_starts: As in ``ChatGLM2Model.construct``; instead of a mask and positions.

        Returns:
            With labels: the loss, shape (1,) float32 when training, else
            ``(logits (B, S+1, V) float32, labels (B, S+1), input_mask (B, S+1))``, logits with a zero step
            at the end, labels and mask with a zero column at the start, so that position t of one meets
            position t of the others after the usual shift. With a cache: ``(logits (B * S, V) float32,)``.
            Without either: ``(logits (B, S, V),)``.
        """
        if block_tables is not None:
            hidden = self.transformer.with_cache(
                input_ids, position_ids, slot_mapping, block_tables, batch_valid_length
            )
            return (self.cast(self.transformer.head(hidden), ms.float32),)
        hidden = self.transformer(
            input_ids, position_ids, attention_mask, document_starts=document_starts
        )  # (B*S, H)
        shape = (input_ids.shape[0], input_ids.shape[1], -1)
        if labels is None:
            return (self.transformer.head(hidden).reshape(shape),)
        if input_mask is None:
            input_mask = labels != IGNORED_LABEL
        input_mask = self.cast(input_mask, ms.float32)
        if self.training:
            return self.labelled_loss(hidden, labels, input_mask)
        logits = self.cast(self.transformer.head(hidden), ms.float32).reshape(shape)
        start = ops.zeros_like(labels[:, :1])  # (B, 1)
        return (
            ops.cat((logits, ops.zeros_like(logits[:, :1])), 1),
            ops.cat((start, labels), 1),
            ops.cat((self.cast(start, ms.float32), input_mask), 1),
        )

    def allocate_cache(self, num_blocks: int) -> None:
        """Give every layer an empty key/value cache of ``num_blocks`` blocks of ``config.block_size`` tokens."""
        self.cache_serial += 1
        for layer in self.transformer.encoder.layers:
            layer.self_attention.allocate_cache(num_blocks)
        # The new parameters need names of their own before they meet in one graph.
        self.update_parameters_name()

    def cached_hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        slot_mapping: Tensor,
        block_tables: Tensor,
        batch_valid_length: Tensor,
        picked_rows: Tensor,
    ) -> Tensor:
        """Return the hidden states (R, H) after the final norm of the tokens ``picked_rows`` (R,) points at.

        Args:
            input_ids: (B, S) int32; these and the following as in ``ChatGLM2Model.with_cache``.
            position_ids: (B, S) int32.
            slot_mapping: (B * S,) int32.
            block_tables: (B, W) int32.
            batch_valid_length: (B,) int32.
            picked_rows: (R,) int32, which of the B * S tokens.
        """
        hidden = self.transformer.with_cache(
            input_ids, position_ids, slot_mapping, block_tables, batch_valid_length
        )
        return ops.gather(hidden, picked_rows, 0)

    def cached_logits(self, *step: Tensor) -> Tensor:
        """Return the logits (R, V) float32 of some tokens, using the cache; takes what ``cached_hidden`` takes."""
        return self.cast(self.transformer.head(self.cached_hidden(*step)), ms.float32)

    def native_network(self) -> NativeNetwork | None:
        """Return this network for the native kernels; it computes with the parameters' own memory.

        Of a weight with an adapter it reads a copy with both in one, made anew when either changed.
        """
        if active_backend() != "native" or not mesh().tensor.is_alone:
            return None
        buffers = {name: of_parameter(each) for name, each in self.weight_parameters().items()}
        buffers = with_merged(buffers, self._merged.buffers(self, JOINED_LAYERS))
        if buffers != self._native_buffers:  # a parameter was given other memory since
            self._native_buffers = buffers
            self._vectors = Vectors()
            weights = {name: (buffer,) for name, buffer in buffers.items()}
            self._native = native_network(self.config, weights, self._vectors)
        self._vectors.refresh()
        return self._native

    def full_logits(self, input_ids: Tensor, last_rows: Tensor) -> Tensor:
        """Return the logits (B, V) float32 of the tokens ``last_rows`` (B,) points at, without a cache."""
        return self.cast(
            self.transformer.head(ops.gather(self.transformer(input_ids), last_rows, 0)), ms.float32
        )

    def add_flags_custom(self, is_first_iteration: bool) -> None:
        """Tell attention forms that need to know (an NPU's) whether a prompt or one token comes next."""
        for layer in self.transformer.encoder.layers:
            attention = layer.self_attention.cached_attention
            if attention is not None:  # nothing has been generated yet
                attention.add_flags(is_first_iteration=is_first_iteration)
