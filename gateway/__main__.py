"""``python -m gateway`` is the command ``modelarts-gateway``."""

import sys

from gateway.cli import main

sys.exit(main())
