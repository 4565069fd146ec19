"""Run `python -m sgn_serve.classify.report`, which is `sgn report`."""

import sys

from sgn_serve.classify.report.command import main

if __name__ == "__main__":
    sys.exit(main())
