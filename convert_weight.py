"""Convert weights; ``python convert_weight.py --help`` says how."""

from mindformers.cli.convert import main
from mindformers.guard import run_guarded

if __name__ == "__main__":
    raise SystemExit(run_guarded(main))
