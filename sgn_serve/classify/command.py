"""The command `sgn classify`: its options. Its other modules are imported once they are checked."""

import argparse
import os
import sys

from sgn_serve.common.command_parser import CommandParser, file_to_write, positive_number
from sgn_serve.common.error_text import encodable, say
from sgn_serve.common.interrupts import INTERRUPTED, importing
from sgn_serve.common.ray_cluster import add_ray_options, ray_options
from sgn_serve.common.refusals import ServingError, refused
from sgn_serve.common.termination import TERMINATED, Terminated, terminable
from sgn_serve.settings import Settings, flag_of, settings_table, with_flags

PROGRAM = "python -m sgn_serve.classify"

CHUNK = 2048
"""Rows that a kill loses at most."""
BLOCK = "SGN_SELF_GRADIENT"
SWITCH = {"on": "true", "off": "false", "auto": "auto"}
SETTINGS = (
    "SGN_MODEL",
    "SGN_TOP_K",
    "SGN_ENGINE",
    "SGN_PROVIDERS",
    "SGN_THREADS",
    "SGN_DECODERS",
    "SGN_MAX_BATCH",
    "SGN_MAX_BYTES",
    "SGN_MAX_PIXELS",
    "SGN_DECODE_SECONDS",
    "SGN_AUTO_MARGIN",
    "SGN_FORMATS",
    "SGN_BACKGROUND",
)
"""Settings of the service that rows or speed depend on. Each is an option too."""
_MEANINGS = {
    "SGN_MODEL": "exported graph (.onnx) to classify with",
    "SGN_TOP_K": "classes in the column top_k",
    "SGN_DECODERS": "processes that decode small pictures, and as many for large ones",
    "SGN_MAX_BATCH": "pictures that go through the network together",
    "SGN_MAX_BYTES": "largest file, in bytes",
    "SGN_DECODE_SECONDS": "processor time that decoding one picture may take, in seconds; it is refused after twice as "
    "much, since other programs make it vary",
}
"""Meanings that differ from those in the service."""
_DEFAULTS = {"SGN_DECODERS": "all cores"}
"""Defaults that differ from those of the service."""

EPILOG = """\
PATH is a picture, a folder with pictures in it or in the folders below, a glob in quotes, a text file with one path per
line (.txt), or a Parquet file with a column of paths or of pictures. The rows are in the order of the inputs.
"""


def build_parser(program: str = PROGRAM) -> CommandParser:
    """Return the parser.

    Args:
        program: Name of the program in --help and errors.
    """
    parser = CommandParser(
        program,
        description="Classifies many pictures without a server, and writes one row for each: its answer, or an error.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="what to classify, see below")
    parser.add_argument(
        "--out", required=True, type=file_to_write, metavar="FILE", help="file to write: .parquet, .csv or .jsonl"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with an unfinished run of the same inputs, model and settings; without one, start",
    )
    parser.add_argument(
        "--self-gradient",
        choices=tuple(SWITCH),
        metavar="MODE",
        help="state of the block: on, off, or auto for the second pass only where the plain answer is not clear "
        "(default: SGN_SELF_GRADIENT, else on)",
    )
    parser.add_argument(
        "--column",
        metavar="NAME",
        help="column of a Parquet file: texts are paths, bytes are pictures (default: path, file or image)",
    )
    parser.add_argument(
        "--chunk",
        type=_chunk,
        default=CHUNK,
        metavar="N",
        help="rows that a killed run loses at most, and on Ray two times as many for each worker; half as many are "
        "written at a time (default: %(default)s)",
    )
    add_ray_options(parser, "classify")
    rows = {row.variable: row for row in settings_table()}
    for variable in SETTINGS:
        row = rows[variable]
        meaning, default = _MEANINGS.get(variable, row.meaning), _DEFAULTS.get(variable, row.default)
        text = f"{meaning} (default: {default})".replace("%", "%%")
        parser.add_argument(flag_of(row), dest=variable, metavar="VALUE", help=text)
    return parser


def _chunk(text: str) -> int:
    return min(positive_number(text, " of rows"), sys.maxsize)


def main(argv: list[str] | None = None, program: str = PROGRAM) -> int:
    """Classify, and return the exit status.

    Args:
        argv: The arguments. None takes those of the process.
        program: Name of the program in --help and errors.
    """
    parser = build_parser(program)
    parsed = parser.parse_args(argv)
    ray = ray_options(parser, parsed)
    given = {variable: text for variable in SETTINGS if (text := getattr(parsed, variable)) is not None}
    if parsed.self_gradient is not None:
        given[BLOCK] = SWITCH[parsed.self_gradient]
    try:
        settings = Settings.from_environment({**os.environ, **given})
    except ServingError as error:
        return refused(error, with_flags(str(error), given))
    with importing():
        from sgn_serve.classify.run import Options, classify, interrupted  # its import takes seconds

    options = Options(
        parsed.paths,
        parsed.out,
        parsed.column,
        parsed.chunk,
        parsed.resume,
        parsed.self_gradient in ("on", "auto"),
        ray,
    )
    try:
        with terminable():
            print(encodable(classify(options, settings)))
    except ServingError as error:
        return refused(error, with_flags(str(error), given))
    except KeyboardInterrupt:
        say(interrupted(parsed.out))
        return INTERRUPTED
    except Terminated:
        say(interrupted(parsed.out))
        return TERMINATED
    return 0
