"""Run `python -m export`."""

import sys

from export.command import run

if __name__ == "__main__":
    sys.exit(run())
