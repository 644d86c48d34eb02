"""``python -m mindformers``."""

import sys

from mindformers.cli.main import main

sys.exit(main())
