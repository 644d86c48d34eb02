"""``SharedGLM2Model``: what a GLM network does as one rank's share of a network, and what it holds of one.

Letters: B batch, S tokens, T = B * S, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindformers.checkpoint.dtypes import plain_array
from mindformers.checkpoint.keymap import Stored
from mindformers.checkpoint.parts import Parted
from mindformers.checkpoint.quantized import held_scales
from mindformers.config.data import IGNORED_LABEL
from mindformers.models.glm2.glm2_modules import recompute_activation, residual_dtype
from mindformers.models.glm2.glm2_prefix import PrefixedGLM2
from mindformers.models.glm2.glm2_shares import (
    Copied,
    adapter_copies,
    adapter_parts,
    copied_rows,
    is_held,
    share_of,
    weight_parts,
)
from mindformers.modules.start import INIT_SIGMA
from mindformers.ops.attention import RotatedAttention
from mindformers.ops.backend import active_backend
from mindformers.parallel.mesh import mesh
from mindformers.pet.lora import adapter_ranks


class SharedGLM2Model(PrefixedGLM2):
    """Base of the GLM networks that can be one rank's share; alone the share is the whole.

    The network has ``transformer`` and ``head_loss``.
    """

    def copied_rows(self) -> dict[str, list[Copied]]:
        """Return, by parameter name, the rows that other ranks of this copy of the network hold as well."""
        layout = mesh().layout
        copied = copied_rows(self.layout_tensors(), self.config, layout)
        ranks = adapter_ranks(self)
        if ranks:
            copied |= adapter_copies(ranks, self.weight_parts(), copied, layout)
        return copied | self.prefix_copies()

    def weight_parts(self) -> dict[str, Parted]:
        """Return, by parameter name, what this process's weights are of the whole ones, adapters and prefix too."""
        parts = weight_parts(self.layout_tensors(), self.config, mesh().layout)
        return parts | adapter_parts(adapter_ranks(self), parts) | self.prefix_parts()

    @property
    def joins_rows(self) -> bool:
        """Whether a batch costs less as one row of documents: no graph for its length, no mask of S x S."""
        layout = mesh().layout
        has_own_tokens = layout.pipeline == layout.context == 1 and not layout.is_sequence_parallel
        is_native = active_backend() == "native" and ms.get_context("mode") == ms.PYNATIVE_MODE
        return has_own_tokens and is_native and not self.transformer.prefix_length

    def stream_form(self, shape: Sequence[int]) -> tuple[tuple[int, int], Any]:
        """Return shape and type of what pipeline stages hand on for ids of ``shape`` (B, S)."""
        layout = mesh().layout
        tokens = math.prod(shape) // (layout.tensor if layout.is_sequence_parallel else 1)
        return (tokens, self.config.hidden_size), residual_dtype(self.config)

    def labelled_loss(self, hidden: Tensor, labels: Tensor, input_mask: Tensor) -> Tensor:
        """Return the mean loss (1,) of ``hidden`` (T, H) for ``labels`` (B, S), counted where the mask is 1."""
        model = self.transformer
        hidden = model.enter_head(model.to_compute(hidden))
        weight = model.output_layer.weight
        return self.head_loss(hidden, weight, labels.reshape((-1,)), input_mask.reshape((-1,)))

    def run_stage(
        self,
        input_ids: Tensor,
        labels: Tensor,
        stream: Tensor | None = None,
        document_starts: Tensor | None = None,
    ) -> Tensor:
        """Return what this pipeline stage gives: (T, H) for the next one, or the mean loss (1,) on the last.

        Args:
            input_ids: (B, S) int32.
            labels: (B, S) int32, -100 does not count.
            stream: What the stage before gave; None on the first.
            document_starts: (B, S) int32, where the document of each token begins; None: a row is one.
        """
        hidden = self.transformer(input_ids, stream=stream, document_starts=document_starts)
        if not mesh().layout.is_last_stage:
            return hidden
        return self.labelled_loss(hidden, labels, ops.cast(labels != IGNORED_LABEL, ms.float32))

    def recompute_layers(self, count: int) -> None:
        """Keep no activations of this process's first ``count`` layers in training; they are computed again.

        Must be called before the network first runs. Gradients do not change.
        """
        encoder = self.transformer.encoder
        for index in encoder.held[:count]:
            encoder.layers[index].recompute()

    def recompute_parts(self, first: int, stop: int) -> None:
        """Compute again the scores of attention and the product of gate and up of this process's layers.

        The layers are those from ``first`` to ``stop`` in this process, the last not included. Must be
        called before the network first runs, after adapters are put in. Gradients do not change.
        """
        encoder = self.transformer.encoder
        for index in encoder.held[first:stop]:
            layer = encoder.layers[index]
            if isinstance(
                layer.self_attention.attention, RotatedAttention
            ):  # others keep no scores
                layer.self_attention.attention.attention.recompute()
            recompute_activation(layer.mlp)

    def draw_start(self, seed: int) -> None:
        """Give the weights of this share a random start that depends on the seed only, not on the layout.

        Biases stay 0 and norms 1.
        """
        layout, parameters = mesh().layout, self.weight_parameters()
        for stored in self.layout_tensors():
            if not is_held(stored.pieces[0].name, self.config, layout):
                continue
            if held_scales(stored.name) in parameters:
                continue  # weights in few bits are 0 until they are loaded, as in one process
            parts = [part for part in self._drawn(stored, seed) if part is not None]
            if parts:
                parameter = parameters[stored.name]
                whole = plain_array(np.concatenate(parts).astype(np.float32))
                parameter.set_data(Tensor(whole).astype(parameter.dtype))

    def _drawn(self, stored: Stored, seed: int) -> list[np.ndarray | None]:
        """Return this rank's part of every piece; None where nothing is drawn."""
        found: list[np.ndarray | None] = []
        for piece in stored.pieces:
            if len(piece.shape) < 2:
                return [None]
            generator = np.random.default_rng([seed, crc32(piece.name.encode())])
            share = share_of(piece, self.config, mesh().layout)
            rows, columns = slice(*share.rows), slice(*(share.columns or (None, None)))
            whole = generator.normal(0.0, INIT_SIGMA, piece.shape)
            found.append(whole[rows, columns].astype(np.float32))
        return found
