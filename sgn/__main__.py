"""Run `python -m sgn`, which is the console script `sgn`."""

import sys

from sgn.command import main

if __name__ == "__main__":
    sys.exit(main())
