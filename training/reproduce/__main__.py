"""Run `python -m training.reproduce`."""

import sys

from training.reproduce.command import main

if __name__ == "__main__":
    sys.exit(main())
