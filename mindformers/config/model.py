"""The typed settings of ``model``: one field per upstream key, each with its unit.

``ChatGLM2Config`` is filled through ``Glm2ModelSection``, so a key has one name, type and default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mindformers.config.fields import Count, PositiveRate
from mindformers.config.generation import GenerationKeys
from mindformers.config.pet import PetSection
from mindformers.config.rope import RopeScalingSection
from mindformers.config.section import Section, only

DTYPES = ("float32", "bfloat16", "float16")
Dtype = Literal["float32", "bfloat16", "float16"]
_DTYPE_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_DTYPE_FIELDS = (
    "param_init_type",
    "compute_dtype",
    "layernorm_compute_type",
    "residual_dtype",
    "rotary_dtype",
)
TokenId = Annotated[int, Field(ge=0)]


class Glm2ModelSection(GenerationKeys):
    """``model.model_config``: settings of GLM-2, GLM-3 and GLM-4 networks."""

    type: Literal["ChatGLM2Config"] = Field(
        default="ChatGLM2Config", description="The family whose settings follow."
    )
    batch_size: Count = Field(
        default=1, description="Rows of a prediction batch; a hint, any batch runs."
    )
    num_layers: Count = Field(default=28, description="Transformer blocks; 40 in GLM-4-9B.")
    padded_vocab_size: Count = Field(
        default=65024, description="Rows of embedding and head (ids); 151552 in GLM-4."
    )
    hidden_size: Count = Field(default=4096, description="Width of the residual stream (channels).")
    ffn_hidden_size: Count = Field(default=13696, description="Width inside the MLP (channels).")
    kv_channels: int = Field(default=128, ge=4, multiple_of=4, description="Channels of one head.")
    num_attention_heads: Count = Field(default=32, description="Query heads.")
    seq_length: Count = Field(default=2048, description="Longest sequence (tokens).")
    hidden_dropout: Annotated[float, only(0.0, feature="dropout")] = Field(
        default=0.0, description="Dropout rate; not implemented above 0."
    )
    attention_dropout: Annotated[float, only(0.0, feature="dropout")] = Field(
        default=0.0, description="Dropout rate; not implemented above 0."
    )
    layernorm_epsilon: PositiveRate = Field(
        default=1e-5, description="Added to the mean square; 1.5625e-07 in GLM-4."
    )
    rope_ratio: PositiveRate = Field(
        default=1, description="Rotary base = 10000 x this; 500 in glm-4-9b-chat."
    )
    rope_scaling: RopeScalingSection | None = Field(
        default=None, description="Positions beyond the trained length; null: within it."
    )
    rmsnorm: Annotated[bool, only(True, feature="LayerNorm instead of RMSNorm")] = Field(
        default=True, description="RMSNorm; LayerNorm is not implemented."
    )
    apply_residual_connection_post_layernorm: Annotated[
        bool, only(False, feature="a residual taken after the norm")
    ] = Field(default=False, description="Residual taken after the norm; not implemented.")
    post_layer_norm: Annotated[bool, only(True, feature="leaving out the final norm")] = Field(
        default=True, description="Norm before the head; leaving it out is not implemented."
    )
    add_bias_linear: Annotated[bool, only(False, feature="a bias on the other linear layers")] = (
        Field(default=False, description="Bias on the other linear layers; not implemented.")
    )
    add_qkv_bias: bool = Field(
        default=True, description="Bias on the query, key and value projections."
    )
    bias_dropout_fusion: bool = Field(
        default=True, description="Read for compatibility; has no effect."
    )
    multi_query_attention: bool = Field(
        default=True, description="False: as many key/value heads as query heads."
    )
    multi_query_group_num: Count = Field(
        default=2, description="Key/value heads; divides num_attention_heads."
    )
    apply_query_key_layer_scaling: bool = Field(
        default=True, description="Has no effect: scores are always scaled by 1/sqrt(kv_channels)."
    )
    attention_softmax_in_fp32: bool = Field(
        default=True, description="Has no effect: softmax is always float32."
    )
    fp32_residual_connection: bool = Field(
        default=False, description="True: the residual stream is float32."
    )
    quantization_bit: Annotated[int, only(0, feature="quantization")] = Field(
        default=0, description="Upstream's on an NPU, not implemented; on a CPU see quantization."
    )
    quantization: Literal["int8", "int4"] | None = Field(
        default=None,
        description="Predicting on a CPU: round the weights to this when they are loaded.",
    )
    quantization_group: int | None = Field(
        default=None,
        ge=32,
        multiple_of=32,
        description="Columns that share a scale; null: 64 with int8, 32 with int4.",
    )
    quantization_head: Literal["int8", "int4", "none"] = Field(
        default="int8", description="With quantization: what the output layer is rounded to."
    )
    quantization_embedding: Literal["int8", "int4", "none"] = Field(
        default="none", description="With quantization: what the embedding is rounded to."
    )
    pre_seq_len: Count | None = Field(
        default=None,
        description="Positions of a trained prefix (P-tuning v2), as in pet_config; null: none.",
    )
    prefix_projection: bool = Field(
        default=False, description="With pre_seq_len and no pet_config: as in pet_config."
    )
    pet_config: PetSection | None = Field(
        default=None, description="LoRA or P-tuning v2; null: every weight is trained."
    )
    param_init_type: Dtype = Field(default="float16", description="Type the weights are stored in.")
    compute_dtype: Dtype = Field(
        default="float16", description="Type of matrix products (a CPU computes float32)."
    )
    layernorm_compute_type: Dtype = Field(
        default="float32", description="Type of the norms' weights and arithmetic."
    )
    residual_dtype: Dtype = Field(default="float32", description="Type of the residual stream.")
    rotary_dtype: Dtype | None = Field(
        default=None, description="Type of the rotary table; null: compute_dtype."
    )
    use_past: bool = Field(default=False, description="Predict with a key/value cache.")
    use_flash_attention: bool = Field(
        default=False,
        description="Ascend: the fused attention operator; seq_length is a multiple of 16.",
    )
    enable_high_performance: Annotated[
        bool, only(False, feature="the head-interleaved tensor-parallel layout")
    ] = Field(default=False, description="Head-interleaved layout of the weights; not implemented.")
    block_size: Count = Field(default=16, description="Tokens in one block of the key/value cache.")
    kv_cache_dtype: Literal["float32", "bfloat16", "int8"] | None = Field(
        default=None,
        description="CPU kernels: type of cached keys and values; null: bfloat16 with that "
        "compute_dtype, else float32.",
    )
    num_blocks: Count = Field(default=128, description="Blocks of the key/value cache per layer.")
    is_dynamic: bool = Field(
        default=False, description="Dynamic shapes in graph mode; always on when predicting."
    )
    eos_token_id: TokenId | list[TokenId] = Field(default=2, description="Ids that end an answer.")
    pad_token_id: TokenId = Field(default=0, description="Id that fills up short rows.")
    gmask_token_id: TokenId | None = Field(
        default=None, description="Stored; the tokenizer owns its ids."
    )
    bos_token_id: TokenId | None = Field(
        default=None, description="Stored; the tokenizer owns its ids."
    )
    checkpoint_name_or_path: str | None = Field(
        default=None, description="Weights loaded when the network is built; empty: none."
    )
    parallel_config: dict[str, Any] | None = Field(
        default=None, description="Filled in from the run's parallel_config."
    )
    offset: int | list[int] = Field(default=0, description="Layers added to each pipeline stage.")
    pp_interleave_num: Annotated[int, only(1, feature="interleaving of pipeline stages")] = Field(
        default=1, description="Interleaved pipeline stages; not implemented."
    )
    mlp_concat: bool = Field(
        default=True, description="One dense_h_to_4h weight; false: dense_left and dense_right."
    )
    qkv_concat: bool = Field(
        default=True, description="One query_key_value weight; false: wq, wk and wv."
    )
    use_rearrange_rope: Annotated[bool, only(False, feature="the half-split rotary layout")] = (
        Field(
            default=False, description="Half-split rotary layout of the weights; not implemented."
        )
    )
    mask_generate: Annotated[str | None, only(None, feature="making masks inside the network")] = (
        Field(default=None, description="Masks made inside the network; not implemented.")
    )
    fine_grain_interleave: Annotated[int, only(1, feature="fine-grain interleaving")] = Field(
        default=1, description="Parts of a batch computed in turns; not implemented."
    )
    use_ring_attention: Annotated[bool, only(False, feature="ring attention")] = Field(
        default=False, description="Attention over several devices; not implemented."
    )
    post_self_attn_layernorm: bool = Field(
        default=False, description="Norm on the attention output (GLM-4-0414)."
    )
    post_mlp_layernorm: bool = Field(
        default=False, description="Norm on the MLP output (GLM-4-0414)."
    )
    auto_map: dict[str, Any] | None = Field(
        default=None, description="Read for compatibility; no code is loaded."
    )

    @field_validator(*_DTYPE_FIELDS, mode="before")
    @classmethod
    def _accept_dtype_spellings(cls, value: Any) -> Any:
        """Take ``fp32``, ``Float32`` and ``mindspore.float32`` for ``float32``."""
        if value is None:
            return None
        name = str(value).rpartition(".")[2].lower()
        return _DTYPE_ALIASES.get(name, name)

    @field_validator("checkpoint_name_or_path", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @model_validator(mode="after")
    def _heads_divide(self) -> Glm2ModelSection:
        if self.multi_query_attention and self.num_attention_heads % self.multi_query_group_num:
            raise ValueError(
                f"multi_query_group_num {self.multi_query_group_num} does not divide "
                f"num_attention_heads {self.num_attention_heads}"
            )
        return self

    @model_validator(mode="after")
    def _one_prefix(self) -> Glm2ModelSection:
        """Refuse a ``pre_seq_len`` that says something else than ``pet_config``."""
        length = getattr(self.pet_config, "pre_seq_len", None)
        if self.pet_config is not None and self.pre_seq_len not in (None, length):
            raise ValueError(
                f"pre_seq_len {self.pre_seq_len} beside a pet_config of "
                + (f"pre_seq_len {length}" if length else f"pet_type {self.pet_config.pet_type}")
                + "; leave one of them out"
            )
        return self


class ArchSection(Section):
    """``model.arch``: the network."""

    type: Literal["ChatGLM2ForConditionalGeneration", "ChatGLM2WithPtuning2"] = Field(
        default="ChatGLM2ForConditionalGeneration", description="Class of the network."
    )


class ModelSection(Section):
    """``model``: the network and its settings.

    The YAML key ``model_config`` is the attribute ``network``: pydantic keeps the other name.
    """

    network: Glm2ModelSection = Field(
        default_factory=Glm2ModelSection,
        alias="model_config",
        description="Settings of the network.",
    )
    arch: ArchSection = Field(default_factory=ArchSection, description="The network.")
