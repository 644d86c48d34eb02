"""Finetune GLM-4 or predict with it: ``python run_mindformer.py --config FILE --run_mode MODE``."""

import sys

from mindformers.cli.run import main
from mindformers.guard import run_guarded

if __name__ == "__main__":
    sys.exit(run_guarded(main))
