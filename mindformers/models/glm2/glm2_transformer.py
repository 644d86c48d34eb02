"""The transformer of GLM-2, GLM-3 and GLM-4: attention, block, stack of blocks.

Letters: B batch, S tokens, T = B * S, N query heads, G key/value heads, D head size, H hidden, L cached tokens.
Tensors between layers are rows of tokens (T, H), so that every product is a plain matrix product.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_modules import build_linear, build_mlp, residual_dtype
from mindformers.modules.norm import RMSNorm
from mindformers.ops.attention import build_rotated_attention
from mindformers.ops.backend import compute_dtype, storage_dtype
from mindformers.ops.cast import Keep, build_cast
from mindformers.ops.paged_attention import build_paged_attention
from mindformers.ops.regions import build_enter, build_leave
from mindformers.ops.rotary import Rotary, RotateHeads
from mindformers.parallel.mesh import mesh


class ChatGLM2SelfAttention(nn.Cell):
    """Grouped-query attention with partial rotary embedding.

    The projections are attributes of this cell, so weights keep upstream's names
    (``self_attention.query_key_value`` or ``self_attention.wq`` ...).
    """

    def __init__(self, config: ChatGLM2Config):
        super().__init__()
        self.config = config
        tensor = mesh().layout.tensor
        heads, groups = config.num_heads // tensor, max(1, config.n_kv_heads // tensor)
        size = config.kv_channels
        self.enter, self.leave = build_enter(), build_leave()
        self.num_heads, self.num_groups, self.head_dim = heads, groups, size
        self.build_projections(config)
        rotary = Rotary(config.rotary_dim, size, compute_dtype(config.compute_dtype))
        self.rotate = RotateHeads(heads, groups, rotary)
        self.attention = build_rotated_attention(
            self.rotate, config.rotary_dim, size, config.use_flash_attention
        )
        self.cached_attention: nn.Cell | None = None
        self.dense = build_linear(
            config, heads * size, config.hidden_size, columns=config.num_heads * size
        )

    def build_projections(self, config: ChatGLM2Config) -> None:
        """Make one weight for query, key and value, rows in that order."""
        rows = (self.num_heads + 2 * self.num_groups) * self.head_dim
        self.query_key_value = build_linear(config, config.hidden_size, rows, config.add_qkv_bias)

    def project(self, x: Tensor) -> Tensor:
        """Return query, key and value side by side, (T, (N + 2G) * D)."""
        return self.query_key_value(x)

    def allocate_cache(self, num_blocks: int) -> None:
        """Give this layer an empty key/value cache of ``num_blocks`` blocks."""
        self.cached_attention = build_paged_attention(
            self.num_heads,
            self.num_groups,
            self.head_dim,
            num_blocks,
            self.config.block_size,
            compute_dtype(self.config.compute_dtype),
        )

    def construct(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        cache: tuple | None = None,
        past: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: (T, H), normalized.
            cos: (B, S, 1, D).
            sin: (B, S, 1, D).
            mask: For attention without cache, from the cell ``build_mask`` gives.
            cache: ``CacheInputs`` of this call, or None.
            past: A trained prefix, from ``PrefixEncoder``, for attention without cache; or None.

        Returns:
            (T, H).
        """
        tokens = cos.shape[1]
        qkv = self.project(self.enter(x)).reshape(
            (-1, tokens, self.num_heads + 2 * self.num_groups, self.head_dim)
        )  # (B, S, N+2G, D)
        if past is not None:
            mixed = self.attention(qkv, cos, sin, mask, past)
        elif cache is None:
            mixed = self.attention(qkv, cos, sin, mask)
        else:
            assert self.cached_attention is not None
            query, key, value = self.rotate(qkv, cos, sin)
            mixed = self.cached_attention(query, key, value, cache)
        return self.leave(self.dense(mixed.reshape((-1, self.num_heads * self.head_dim))))


class ChatGLM2SplitSelfAttention(ChatGLM2SelfAttention):
    """The same attention with query, key and value weights apart (``qkv_concat: False``)."""

    def build_projections(self, config: ChatGLM2Config) -> None:
        """Make the weights ``wq``, ``wk`` and ``wv``."""
        groups = self.num_groups * self.head_dim
        self.wq = build_linear(
            config, config.hidden_size, self.num_heads * self.head_dim, config.add_qkv_bias
        )
        self.wk = build_linear(config, config.hidden_size, groups, config.add_qkv_bias)
        self.wv = build_linear(config, config.hidden_size, groups, config.add_qkv_bias)
        self.join = ops.Concat(-1)

    def project(self, x: Tensor) -> Tensor:
        """Return query, key and value side by side, (T, (N + 2G) * D)."""
        return self.join((self.wq(x), self.wk(x), self.wv(x)))


def build_self_attention(config: ChatGLM2Config) -> ChatGLM2SelfAttention:
    """Return the attention in the weight layout the configuration asks for."""
    return (ChatGLM2SelfAttention if config.qkv_concat else ChatGLM2SplitSelfAttention)(config)


def build_norm(config: ChatGLM2Config) -> RMSNorm:
    """Return a norm that takes the residual stream."""
    return RMSNorm(
        config.hidden_size,
        config.layernorm_epsilon,
        input_dtype=residual_dtype(config),
        norm_dtype=storage_dtype(config.layernorm_compute_type),
    )


class ChatGLM2Block(nn.Cell):
    """x + attention(norm(x)), then y + mlp(norm(y)); GLM-4-0414 also norms what each branch returns."""

    def __init__(self, config: ChatGLM2Config):
        super().__init__()
        stream, compute = residual_dtype(config), compute_dtype(config.compute_dtype)
        self.input_layernorm = build_norm(config)
        self.self_attention = build_self_attention(config)
        self.post_self_attn_layernorm = (
            build_norm(config) if config.post_self_attn_layernorm else Keep()
        )
        self.post_attention_layernorm = build_norm(config)
        self.mlp = build_mlp(config)
        self.post_mlp_layernorm = build_norm(config) if config.post_mlp_layernorm else Keep()
        self.to_compute = build_cast(stream, compute)
        self.to_stream = build_cast(compute, stream)

    def construct(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        cache: tuple | None = None,
        past: Tensor | None = None,
    ) -> Tensor:
        """Return (T, H) in the residual type; arguments as in ``ChatGLM2SelfAttention.construct``."""
        attended = self.self_attention(
            self.to_compute(self.input_layernorm(x)), cos, sin, mask, cache, past
        )
        x = x + self.post_self_attn_layernorm(self.to_stream(attended))
        transformed = self.mlp(self.to_compute(self.post_attention_layernorm(x)))
        return x + self.post_mlp_layernorm(self.to_stream(transformed))


class ChatGLM2Transformer(nn.Cell):
    """The blocks of this process in order and, on the last pipeline stage, the final norm."""

    def __init__(self, config: ChatGLM2Config):
        super().__init__()
        layout = mesh().layout
        self.held = tuple(layout.layers(config.num_layers))
        # A cell for the blocks of other stages too, so that every weight's name has its block's number.
        self.layers = nn.CellList(
            [
                ChatGLM2Block(config) if index in self.held else Keep()
                for index in range(config.num_layers)
            ]
        )
        self.final_layernorm = build_norm(config) if layout.is_last_stage else Keep()

    def construct(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        cache: tuple | None = None,
        past: Tensor | None = None,
    ) -> Tensor:
        """Return (T, H) after the final norm; arguments as in ``ChatGLM2SelfAttention.construct``."""
        for index in self.held:
            x = self.layers[index](x, cos, sin, mask, cache, past)
        return self.final_layernorm(x)
