"""The release number, read by packaging and printed by ``--version``."""

__version__ = "0.1.0"
