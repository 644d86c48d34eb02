"""The public names of this package can be imported from it; each is loaded on first use."""

from mindformers.upstream_paths import public_names

__getattr__ = public_names(__name__)
