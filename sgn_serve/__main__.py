"""`python -m sgn_serve` is `bentoml serve`, and quiet on Ctrl-C from its first import on: `make serve` runs it."""

import sys

from sgn_serve.interrupts import end_server_quietly

if __name__ == "__main__":
    end_server_quietly()

    from bentoml_cli.cli import cli

    cli(["serve", *sys.argv[1:]], prog_name="bentoml")
