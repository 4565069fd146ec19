"""Run `python -m benchmarks.service`."""

import sys

from benchmarks.service.command import main

if __name__ == "__main__":
    sys.exit(main())
