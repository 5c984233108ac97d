"""``python -m confidential_ml.cli``."""

from __future__ import annotations

import sys

from confidential_ml.cli import main

if __name__ == "__main__":
    sys.exit(main())
