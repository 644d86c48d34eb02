"""``GLM2PreTrainedModel``: where the weights of a GLM come from and go to, and what loaders ask it for."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor

from mindformers.checkpoint.keymap import Stored
from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.manifest import committed_steps
from mindformers.config.columns import STARTS_COLUMN
from mindformers.config.options import refuse_options, say_without_effect
from mindformers.models.base_model import PreTrainedModel
from mindformers.models.glm2 import glm2_names, glm2_weights
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_quantized import round_in_place
from mindformers.models.glm2.hf_config import check_against_config, is_tied
from mindformers.models.glm2.tokenizer_choice import describe_tokenizer
from mindformers.ops.native.tensors import of_parameter
from mindformers.pet.adapter_files import load_adapter
from mindformers.pet.adapter_source import existing_base, holds_adapters, prefix_beside


class GLM2PreTrainedModel(PreTrainedModel):
    """Base of the GLM networks users load."""

    config_class = ChatGLM2Config
    layers_without_adapter = ("transformer.output_layer",)  # the loss reads its weight itself

    def load_weights(self, source: Path) -> glm2_weights.LoadReport:
        """Fill the weights from a Hugging Face directory, a directory we saved, a step folder or one file.

        A source that holds adapters gives the weights they were trained on and the adapters. A
        network with a prefix also takes the one that lies beside the weights in a directory.

        Raises:
            CheckpointError: If the weights are damaged or are not those of this network.
        """
        if holds_adapters(source):
            report = self.load_weights(existing_base(self.config, source))
            load_adapter(self, source)
            return report
        report = glm2_weights.load_pretrained(self.weight_parameters(), self.config, source)
        if self.config.quantization is not None:
            with open_weights(source, verify=False) as weights:
                is_rounded = weights.description is not None
            if not is_rounded:
                parameters = self.weight_parameters().items()
                round_in_place(self.config, {name: of_parameter(each) for name, each in parameters})
        self.weights_source = str(source.resolve())
        beside = prefix_beside(source) if self.prefix_length else None
        if beside is not None:
            load_adapter(self, beside)
        return report

    @classmethod
    def check_weights(cls, config: ChatGLM2Config, source: Path) -> None:
        """Compare a configuration with what weights on disk say of themselves; only headers are read.

        Raises:
            CheckpointError: If the two are of different networks, or the weights cannot be read.
        """
        newest = [source, *committed_steps(source)][-1]
        if holds_adapters(newest):
            return
        with open_weights(newest, verify=False) as weights:
            content = weights.config()
            check_against_config(config, content, weights.config_where())
            tied = is_tied(content)
            glm2_weights.map_source(config, weights.shapes, tied=tied, where=str(source))

    def layout_tensors(self, layout: str = "mindformers") -> list[Stored]:
        """Return the tensors of a layout for this network's sizes: ``mindformers`` (its own), ``glm``, ``chatglm``."""
        return glm2_weights.stored_tensors(
            self.config, glm2_weights.layout_named(layout, self.config)
        )

    def detect_tensors(self, names: Iterable[str], where: str) -> list[Stored]:
        """Return the tensors of the layout that some names of weights are in.

        Raises:
            CheckpointError: If they are in none.
        """
        layout = glm2_weights.NAMES.detect(names, where)
        return glm2_weights.stored_tensors(self.config, layout)

    def save_pretrained(self, save_directory: str | Path, *arguments: Any, **options: Any) -> Path:
        """Write everything needed to load this network again; see ``PreTrainedModel.save_pretrained``."""
        folder = super().save_pretrained(save_directory, *arguments, **options)
        if self.pretrained_dir is not None:
            describe_tokenizer(folder, self.pretrained_dir)
        return folder

    def save_weights(self, folder: Path, **options: Any) -> None:
        """Write the weights under this library's names; options as in ``glm2_weights.save_weights``."""
        glm2_weights.save_weights(self.weight_parameters(), self.config, folder, **options)

    @classmethod
    def convert_name(cls, weight_name: str) -> str:
        """Return our name of a Hugging Face weight; see ``glm2_names.our_name``."""
        return glm2_names.our_name(weight_name)

    @classmethod
    def convert_map_dict(
        cls, source_dict: Mapping[str, Any], qkv_concat: bool = False
    ) -> dict[str, Any]:
        """Return name -> file under our names; see ``glm2_names.our_files``."""
        return glm2_names.our_files(source_dict, qkv_concat)

    @classmethod
    def convert_weight_dict(
        cls, source_dict: Mapping[str, Any], model_config: Any, qkv_dict: Any = None, **unused: Any
    ) -> dict[str, Any]:
        """Return weights under our names, fused or split; see ``glm2_names.our_weights``.

        Args:
            source_dict: Hugging Face name -> array.
            model_config: Its ``qkv_concat`` and ``mlp_concat`` choose the form.
            qkv_dict: Keeps parts of a layer until their fellows come from another file.
            **unused: ``condition``, with which upstream's processes wait for one another.
        """
        refuse_options("convert_weight_dict", unused, {"condition": ()})
        return glm2_names.our_weights(source_dict, model_config, qkv_dict)

    @classmethod
    def obtain_qkv_ffn_concat_keys(cls) -> list[str]:
        """Return what the names of fused weights contain."""
        return ["query_key_value", "dense_h_to_4h"]

    @classmethod
    def obtain_name_map(cls, load_checkpoint_files: Sequence[str | Path]) -> dict[str, str]:
        """Return our name -> stored name of all weights in safetensors files."""
        return glm2_names.our_names_in(load_checkpoint_files)

    def prepare_inputs_for_predict_layout(self, input_ids: Any, **options: Any) -> tuple[Any, ...]:
        """Return the inputs of ``construct`` for these ids, in its order.

        Args:
            input_ids: (B, S) ids.
            **options: Further inputs by name, as ``labels``; those of the cache are left None.
        """
        # Upstream's inputs: where documents begin is an input of ours.
        names = [
            each for each in inspect.signature(self.construct).parameters if each != STARTS_COLUMN
        ]
        refuse_options("prepare_inputs_for_predict_layout", options, dict.fromkeys(names, ()))
        given = {"input_ids": np.asarray(input_ids, np.int32), **options}
        arrays = {k: Tensor(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
        return tuple(arrays.get(name) for name in names)

    def set_dynamic_inputs(self, **options: Any) -> None:
        """Do nothing: shapes are always dynamic when predicting. Said once."""
        say_without_effect("ChatGLM2ForConditionalGeneration", {"set_dynamic_inputs": True})
        del options
