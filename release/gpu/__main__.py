"""Run `python -m release.gpu`."""

import sys

from release.gpu.command import main

if __name__ == "__main__":
    sys.exit(main())
