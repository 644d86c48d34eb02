"""Registers the families by name, without importing them."""

from mindformers.registry import MindFormerModuleType as _Kind
from mindformers.registry import MindFormerRegister as _Register

_GLM2 = "mindformers.models.glm2"

for _kind, _path in (
    (_Kind.CONFIG, f"{_GLM2}.glm2_config:ChatGLM2Config"),
    (_Kind.MODELS, f"{_GLM2}.glm2:ChatGLM2ForConditionalGeneration"),
    (_Kind.TOKENIZER, f"{_GLM2}.glm4_tokenizer:ChatGLM4Tokenizer"),
    (_Kind.PROCESSOR, f"{_GLM2}.glm_processor:GLMProcessor"),
):
    _Register.register_lazy(_kind, _path)
