"""Run `python -m sgn_serve.classify`, which is `sgn classify`."""

import sys

from sgn_serve.classify.command import main

if __name__ == "__main__":
    sys.exit(main())
