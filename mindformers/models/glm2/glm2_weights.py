"""The one table of weight names, and what follows from it: sizes, loading, saving, converting.

Letters: V vocabulary, H hidden, F ffn, N query heads, G key/value heads, D head size.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers.checkpoint.dtypes import plain_array, type_of, weight_type
from mindformers.checkpoint.fill import LoadReport, dense_shape, fill_parameters
from mindformers.checkpoint.keymap import Stored, compare_shapes, count_elements, locate_pieces
from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.naming import Layout, MappedSource, NameTable, Row
from mindformers.checkpoint.saving import write_weights
from mindformers.checkpoint.transfer import tensors_in_layout, weights_among
from mindformers.checkpoint.weight_source import CONFIG_KEY, WeightSource
from mindformers.errors import CheckpointError, ConfigError
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_shares import held_places, held_tensors
from mindformers.models.glm2.hf_config import (
    check_against_config,
    config_to_hf,
    is_tied,
    model_name,
)
from mindformers.parallel.mesh import mesh

if TYPE_CHECKING:
    from mindspore import Parameter


def _row(form: str, pieces: tuple[str, ...], original: str, hf: str) -> Row:
    return Row(form, pieces, (original, original, hf))


def _attention(form: str, pieces: str, original: str, hf: str) -> list[Row]:
    return [
        _row(
            form,
            tuple(f"{piece}.{part}" for piece in pieces),
            f"self_attention.{original}.{part}",
            f"self_attn.{hf}.{part}",
        )
        for part in ("weight", "bias")
    ]


def _norm(name: str) -> Row:
    return _row("", (f"{name}_norm",), f"{name}_layernorm.weight", f"{name}_layernorm.weight")


_EMBEDDING = (
    "transformer.embedding.embedding_weight",
    "transformer.embedding.word_embeddings.weight",
    "model.embed_tokens.weight",
)
_FINAL_NORM = ("transformer.encoder.final_layernorm.weight", "model.norm.weight")
# Our names are those of the original repositories, but for the embedding and the split forms.
NAMES = NameTable(
    styles=("mindformers", "chatglm", "glm"),
    prefixes=("transformer.encoder.layers.{}.",) * 2 + ("model.layers.{}.",),
    alternatives=(("qkv", "q,k,v"), ("gate_up", "gate,up")),
    outer=(
        Row("", ("embedding",), _EMBEDDING),
        _row("", ("final_norm",), *_FINAL_NORM),
        _row("", ("head",), "transformer.output_layer.weight", "lm_head.weight"),
    ),
    inner=(
        _norm("input"),
        *_attention("qkv", "qkv", "query_key_value", "qkv_proj"),
        *_attention("q,k,v", "q", "wq", "q_proj"),
        *_attention("q,k,v", "k", "wk", "k_proj"),
        *_attention("q,k,v", "v", "wv", "v_proj"),
        _row("", ("o",), "self_attention.dense.weight", "self_attn.o_proj.weight"),
        _norm("post_self_attn"),
        _norm("post_attention"),
        _row("gate_up", ("gate", "up"), "mlp.dense_h_to_4h.weight", "mlp.gate_up_proj.weight"),
        _row("gate,up", ("gate",), "mlp.dense_left.weight", "mlp.gate_proj.weight"),
        _row("gate,up", ("up",), "mlp.dense_right.weight", "mlp.up_proj.weight"),
        _row("", ("down",), "mlp.dense_4h_to_h.weight", "mlp.down_proj.weight"),
        _norm("post_mlp"),
    ),
)
PUBLISHED = {
    "glm": Layout("glm", ("q,k,v", "gate_up")),
    "chatglm": Layout("chatglm", ("qkv", "gate_up")),
}


def layout_named(style: str, config: ChatGLM2Config) -> Layout:
    """Return the layout that is written under a name; ours follows qkv_concat and mlp_concat.

    Raises:
        ConfigError: If there is no such layout.
    """
    if style not in NAMES.styles:
        raise ConfigError(f"layout {style!r}", allowed=", ".join(NAMES.styles))
    ours = Layout(
        "mindformers",
        (
            "qkv" if config.qkv_concat else "q,k,v",
            "gate_up" if config.mlp_concat else "gate,up",
        ),
    )
    return PUBLISHED.get(style, ours)


def piece_shapes(config: ChatGLM2Config) -> tuple[dict[str, tuple[int, ...]], ...]:
    """Return the shapes of the pieces outside the layers, and of those of one layer."""
    hidden, ffn = config.hidden_size, config.ffn_hidden_size
    query = config.num_attention_heads * config.kv_channels
    key = config.n_kv_heads * config.kv_channels
    vocabulary = (config.vocab_size, hidden)
    outer = {"embedding": vocabulary, "final_norm": (hidden,), "head": vocabulary}
    inner: dict[str, tuple[int, ...]] = {"input_norm": (hidden,), "post_attention_norm": (hidden,)}
    for name, rows in (("q", query), ("k", key), ("v", key)):
        inner[f"{name}.weight"] = (rows, hidden)
        if config.add_qkv_bias:
            inner[f"{name}.bias"] = (rows,)
    if config.post_self_attn_layernorm:
        inner["post_self_attn_norm"] = (hidden,)
    if config.post_mlp_layernorm:
        inner["post_mlp_norm"] = (hidden,)
    inner |= {
        "o": (hidden, query),
        "gate": (ffn, hidden),
        "up": (ffn, hidden),
        "down": (hidden, ffn),
    }
    return outer, inner


def stored_tensors(config: ChatGLM2Config, layout: Layout) -> list[Stored]:
    """Return every tensor of a layout for these sizes: embedding, layers, final norm, head."""
    outer, inner = piece_shapes(config)
    return NAMES.stored_tensors(layout, outer, inner, config.num_layers)


def count_parameters(config: ChatGLM2Config) -> int:
    """Return the number of weights: 9,399,951,360 for glm-4-9b."""
    return count_elements(stored_tensors(config, PUBLISHED["glm"]))


def map_source(
    config: ChatGLM2Config,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    tied: bool = False,
    where: str = "",
) -> MappedSource:
    """Find every piece of a network among stored tensors.

    Args:
        config: The network's sizes.
        shapes: Name -> axes of what is stored.
        tied: The head may be absent: it is the embedding (``tie_word_embeddings``).
        where: The source, for errors.

    Raises:
        CheckpointError: If tensors are missing, unexpected or of another shape: one table of all.
    """
    weights = weights_among(shapes)
    layout = NAMES.detect(weights, where)
    expected = stored_tensors(config, layout)
    head = expected[-1].name
    differences = compare_shapes(expected, weights, optional=[head] if tied else [])
    if differences:
        hint = _describe(config, layout, weights)
        if differences.missing == (head,):
            hint = "if head and embedding are one, set tie_word_embeddings: true in its config.json"
        found = f"does not fit the configuration: {differences.summary()}"
        found += f"; {hint}" if hint else ""
        raise CheckpointError(f"{found}\n{differences.table()}", where=where)
    places = locate_pieces(expected)
    if tied and head not in weights:
        places["head"] = places["embedding"]
    return MappedSource(layout, places, tuple(name for name in shapes if name not in weights))


def map_weights(config: ChatGLM2Config, weights: WeightSource) -> MappedSource:
    """Find every piece of a network in open weights and compare what they say of themselves.

    Raises:
        CheckpointError: If they disagree with the configuration, or as in ``map_source``.
    """
    content = weights.config()
    check_against_config(config, content, weights.config_where())
    return map_source(config, weights.shapes, tied=is_tied(content), where=str(weights.path))


def _describe(config: ChatGLM2Config, layout: Layout, found: Mapping[str, tuple[int, ...]]) -> str:
    """Return which published model the shapes found belong to, as a hint."""
    for groups, sandwich in ((2, False), (4, False), (2, True)):
        fields = {
            "multi_query_group_num": groups,
            "post_self_attn_layernorm": sandwich,
            "post_mlp_layernorm": sandwich,
            "rope_ratio": 0.5,
        }
        other = ChatGLM2Config(**{**config.to_dict(), **fields})
        if not compare_shapes(stored_tensors(other, layout), found):
            name = model_name(other)
            size = f"multi_query_group_num {groups}" + (
                " and the two extra norms" if sandwich else ""
            )
            return f"these weights have {size}" + (f": this is {name}" if name else "")
    return ""


def load_pretrained(
    parameters: Mapping[str, Parameter],
    config: ChatGLM2Config,
    source: str | Path,
    verify: bool = True,
) -> LoadReport:
    """Fill a network's parameters from weights in any layout, streamed and cast to their types.

    Args:
        parameters: Name -> parameter of what this process holds of the network; those outside the
            weights' layout (caches, adapters) are left as they are.
        config: The network's settings.
        source: A Hugging Face directory, a directory we saved, a step folder, one
            ``.safetensors`` or ``.ckpt`` file.
        verify: Check sha256 where a manifest has them, and refuse NaN and Inf.

    Returns:
        What was loaded, cast and left out.

    Raises:
        CheckpointError: If the weights are damaged or are not those of this network.
    """
    with open_weights(source, verify) as weights:
        mapped = map_weights(config, weights)
        whole, layout = stored_tensors(config, layout_named("mindformers", config)), mesh().layout
        target = held_tensors(whole, config, layout)
        differences = compare_shapes(
            target, {name: dense_shape(parameters, name) for name in parameters}
        )
        if differences.missing or differences.misshaped:
            raise CheckpointError(
                f"the network is not the configuration's: {differences.summary()}\n"
                f"{differences.table()}"
            )
        places = held_places(whole, mapped.places, config, layout)
        return fill_parameters(parameters, target, places, weights, mapped.dropped, verify)


def save_weights(
    parameters: Mapping[str, Parameter],
    config: ChatGLM2Config,
    path: str | Path,
    layout: str = "mindformers",
    *,
    max_shard_size: str | int = "5GB",
    dtype: str | None = None,
) -> list[Path]:
    """Write a network's weights, and nothing else it holds, in a layout.

    Args:
        parameters: Name -> parameter of the whole network.
        config: Its settings.
        path: A folder, a ``.safetensors`` file or a ``.ckpt`` file.
        layout: ``mindformers``, ``glm`` or ``chatglm``.
        max_shard_size: Largest file when ``path`` is a folder.
        dtype: Type to store; None: each parameter's own.

    Returns:
        The files written.

    Raises:
        CheckpointError: If the system refuses the write or a value does not fit into ``dtype``.
    """
    target = layout_named(layout, config)
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    own = {stored.name for stored in stored_tensors(config, layout_named("mindformers", config))}
    mapped = map_source(config, {name: shapes[name] for name in shapes if name in own})

    def read(name: str, start: int, stop: int) -> Iterable[Any]:
        return [plain_array(parameters[name].asnumpy())[start:stop]]

    tensors = tensors_in_layout(
        stored_tensors(config, target),
        mapped.places,
        read,
        dtype_of=lambda name: type_of(parameters[name].asnumpy()),
        dtype=weight_type(dtype) if dtype else None,
    )
    return write_weights(path, tensors, max_shard_size, file_metadata(target, config))


def file_metadata(layout: Layout, config: ChatGLM2Config) -> dict[str, str]:
    """Return the headers' text: what network a lone file is of; ``format: pt`` for Hugging Face loaders."""
    if layout.style != "mindformers":
        return {"format": "pt"}
    return {"format": "ms", CONFIG_KEY: json.dumps(config_to_hf(config, "chatglm"))}
