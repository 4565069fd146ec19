"""Run `python -m benchmarks.endurance`."""

import sys

from benchmarks.endurance.command import main

if __name__ == "__main__":
    sys.exit(main())
