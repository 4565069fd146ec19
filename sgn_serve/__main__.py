"""Run `python -m sgn_serve`: `make serve` does."""

import sys

from sgn_serve.command import main

if __name__ == "__main__":
    sys.exit(main())
