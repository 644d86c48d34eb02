"""Finetune GLM-4 or predict with it: ``python run_mindformer.py --config FILE --run_mode MODE``."""

import sys

from mindformers.cli.guard import run_guarded
from mindformers.cli.run import main

if __name__ == "__main__":
    sys.exit(run_guarded(main))
