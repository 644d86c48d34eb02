"""Registers the families by name, without importing them; public names are loaded on first use."""

from mindformers.registry import MindFormerModuleType as _Kind
from mindformers.registry import MindFormerRegister as _Register
from mindformers.upstream_paths import public_names as _public_names

_GLM2 = "mindformers.models.glm2"

for _kind, _path in (
    (_Kind.CONFIG, f"{_GLM2}.glm2_config:ChatGLM2Config"),
    (_Kind.MODELS, f"{_GLM2}.glm2:ChatGLM2ForConditionalGeneration"),
    (_Kind.MODELS, f"{_GLM2}.glm2_ptuning2:ChatGLM2WithPtuning2"),
    (_Kind.TOKENIZER, f"{_GLM2}.glm2_tokenizer:ChatGLM2Tokenizer"),
    (_Kind.TOKENIZER, f"{_GLM2}.glm3_tokenizer:ChatGLM3Tokenizer"),
    (_Kind.TOKENIZER, f"{_GLM2}.glm4_tokenizer:ChatGLM4Tokenizer"),
    (_Kind.PROCESSOR, f"{_GLM2}.glm_processor:GLMProcessor"),
):
    _Register.register_lazy(_kind, _path)

_Register.register_lazy(
    _Kind.TEXT_MODEL, f"{_GLM2}.glm2_in_files:GlmInFiles", alias="ChatGLM2ForConditionalGeneration"
)

__getattr__ = _public_names(__name__)
