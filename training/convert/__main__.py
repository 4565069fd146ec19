"""Run `python -m training.convert`."""

import sys

from training.convert.command import main

if __name__ == "__main__":
    sys.exit(main())
