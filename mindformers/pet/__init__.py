"""Parameter-efficient finetuning; public names are loaded on first use."""

from mindformers.upstream_paths import public_names as _public_names

__getattr__ = _public_names(__name__)
