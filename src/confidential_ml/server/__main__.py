"""``python -m confidential_ml.server``: serve with the settings of the environment and the file it names."""

from __future__ import annotations

import logging
import sys

from confidential_ml.errors import ConfidentialMLError
from confidential_ml.server.run import serve
from confidential_ml.server.settings import load_settings

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        serve(load_settings())
    except ConfidentialMLError as error:
        sys.exit(str(error))
