"""The typed settings of ``model.model_config``: one field per upstream key, each with its unit.

``ChatGLM2Config`` is filled through this schema, so a key has one name, one type and one default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mindformers.config.section import Section, only

DTYPES = ("float32", "bfloat16", "float16")
Dtype = Literal["float32", "bfloat16", "float16"]
_DTYPE_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_DTYPE_FIELDS = (
    "param_init_type", "compute_dtype", "layernorm_compute_type", "residual_dtype", "rotary_dtype",
)


class Glm2ModelSection(Section):
    """Settings of GLM-2, GLM-3 and GLM-4 networks (``type: ChatGLM2Config``)."""

    type: Literal["ChatGLM2Config"] = "ChatGLM2Config"
    batch_size: int = Field(1, ge=1, description="Rows of a prediction batch; a hint, any batch runs.")
    num_layers: int = Field(28, ge=1, description="Transformer blocks; 40 in GLM-4-9B.")
    padded_vocab_size: int = Field(65024, ge=1, description="Rows of embedding and head (ids); 151552 in GLM-4.")
    hidden_size: int = Field(4096, ge=1, description="Width of the residual stream (channels).")
    ffn_hidden_size: int = Field(13696, ge=1, description="Width inside the MLP (channels).")
    kv_channels: int = Field(128, ge=4, multiple_of=4, description="Channels of one head.")
    num_attention_heads: int = Field(32, ge=1, description="Query heads.")
    seq_length: int = Field(2048, ge=1, description="Longest sequence (tokens).")
    hidden_dropout: Annotated[float, only(0.0, feature="dropout")] = Field(0.0, description="Dropout rate.")
    attention_dropout: Annotated[float, only(0.0, feature="dropout")] = Field(0.0, description="Dropout rate.")
    layernorm_epsilon: float = Field(1e-5, gt=0, description="Added to the mean square; 1.5625e-07 in GLM-4.")
    rope_ratio: float = Field(1, gt=0, description="Rotary base = 10000 x this; 500 in glm-4-9b-chat.")
    rmsnorm: Annotated[bool, only(True, feature="LayerNorm instead of RMSNorm")] = True
    apply_residual_connection_post_layernorm: Annotated[
        bool, only(False, feature="a residual taken after the norm")] = False
    post_layer_norm: Annotated[bool, only(True, feature="leaving out the final norm")] = True
    add_bias_linear: Annotated[bool, only(False, feature="a bias on the other linear layers")] = False
    add_qkv_bias: bool = Field(True, description="Bias on the query, key and value projections.")
    bias_dropout_fusion: bool = Field(True, description="Read for compatibility; has no effect.")
    multi_query_attention: bool = Field(True, description="False: as many key/value heads as query heads.")
    multi_query_group_num: int = Field(2, ge=1, description="Key/value heads; divides num_attention_heads.")
    apply_query_key_layer_scaling: bool = Field(
        True, description="Has no effect: scores are always scaled by 1/sqrt(kv_channels).")
    attention_softmax_in_fp32: bool = Field(True, description="Has no effect: softmax is always fp32.")
    fp32_residual_connection: bool = Field(False, description="True: the residual stream is float32.")
    quantization_bit: Annotated[int, only(0, feature="quantized weights")] = 0
    pre_seq_len: Annotated[int | None, only(None, feature="P-tuning v2")] = None
    prefix_projection: Annotated[bool, only(False, feature="P-tuning v2")] = False
    pet_config: Annotated[dict[str, Any] | None, only(None, feature="parameter-efficient finetuning")] = None
    param_init_type: Dtype = Field("float16", description="Type the weights are stored in.")
    compute_dtype: Dtype = Field("float16", description="Type of matrix products (a CPU computes float32).")
    layernorm_compute_type: Dtype = Field("float32", description="Type of the norms' weights and arithmetic.")
    residual_dtype: Dtype = Field("float32", description="Type of the residual stream.")
    rotary_dtype: Dtype | None = Field(None, description="Type of the rotary table; null: compute_dtype.")
    use_past: bool = Field(False, description="Predict with a key/value cache.")
    use_flash_attention: bool = Field(False, description="Ascend: the fused attention operator.")
    enable_high_performance: Annotated[bool, only(False, feature="the head-interleaved tensor-parallel layout")] = (
        False)
    block_size: int = Field(16, ge=1, description="Tokens in one block of the key/value cache.")
    num_blocks: int = Field(128, ge=1, description="Blocks of the key/value cache per layer.")
    is_dynamic: bool = Field(False, description="Dynamic shapes in graph mode; always on when predicting.")
    eos_token_id: int | list[int] = Field(2, description="Ids that end an answer.")
    pad_token_id: int = Field(0, description="Id that fills up short rows.")
    gmask_token_id: int | None = Field(None, description="Stored; the tokenizer owns its ids.")
    bos_token_id: int | None = Field(None, description="Stored; the tokenizer owns its ids.")
    repetition_penalty: float = Field(1.0, gt=0, description="Default of generate(); 1.0 is off.")
    max_decode_length: int | None = Field(None, ge=1, description="Default length of prompt and answer (tokens).")
    max_length: int | None = Field(None, ge=1, description="Same; wins over max_decode_length.")
    max_new_tokens: int | None = Field(None, ge=1, description="Default length of the answer (tokens).")
    min_length: int | None = Field(None, ge=0, description="Shortest prompt and answer (tokens).")
    min_new_tokens: int | None = Field(None, ge=0, description="Shortest answer (tokens).")
    temperature: float | None = Field(None, ge=0, description="Default of generate().")
    top_k: int | None = Field(None, ge=0, description="Default of generate(): keep the k likeliest ids.")
    top_p: float | None = Field(None, description="Default of generate(): keep this much probability.")
    do_sample: bool | None = Field(None, description="Default of generate(): draw instead of taking the best.")
    checkpoint_name_or_path: str | None = Field(None, description="Weights loaded when the network is built.")
    parallel_config: dict[str, Any] | None = Field(None, description="Filled in from the run's parallel_config.")
    offset: int | list[int] = Field(0, description="Layers added to each pipeline stage.")
    pp_interleave_num: Annotated[int, only(1, feature="interleaved pipeline stages")] = 1
    mlp_concat: bool = Field(True, description="One dense_h_to_4h weight; false: dense_left and dense_right.")
    qkv_concat: bool = Field(True, description="One query_key_value weight; false: wq, wk and wv.")
    use_rearrange_rope: Annotated[bool, only(False, feature="the half-split rotary layout")] = False
    mask_generate: Annotated[str | None, only(None, feature="generated masks")] = None
    fine_grain_interleave: Annotated[int, only(1, feature="fine-grain interleaving")] = 1
    use_ring_attention: Annotated[bool, only(False, feature="ring attention")] = False
    post_self_attn_layernorm: bool = Field(False, description="Norm on the attention output (GLM-4-0414).")
    post_mlp_layernorm: bool = Field(False, description="Norm on the MLP output (GLM-4-0414).")
    auto_map: dict[str, Any] | None = Field(None, description="Read for compatibility; no code is loaded.")

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
                f"num_attention_heads {self.num_attention_heads}")
        return self
