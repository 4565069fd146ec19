"""Run `python -m release.hostile`."""

import sys

from release.hostile.command import main

if __name__ == "__main__":
    sys.exit(main())
