"""``python -m minseek``."""

import sys

from minseek.cli import main

sys.exit(main())
