"""Write one graph file, as the command line asks, and print what was measured."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from export.auto_margin import AutoRequest, auto_metadata, told
from export.errors import ExportError
from export.exporter import export_graph
from export.formats.table import TORCHSCRIPT, Format, format_of
from export.kernels import onnx_functions, operators
from export.options import ENOUGH_PICTURES, MIN_AGREEMENT, FileKind
from export.reduced import Reduced, export_reduced
from training.common.errors import TrainingError


def export_one(kind: FileKind, target: Path, options: argparse.Namespace) -> int:
    """Write one file, print what was measured, and return the exit status.

    Args:
        kind: The kind of file.
        target: The file.
        options: The parsed command line.
    """
    file_format = format_of(kind)
    try:
        report = _report(file_format, target, options)
    except ExportError as error:
        if error.details():
            print(error.details())
        made_in_vain = f"; {target} was not written" if error.exit_status == 1 else ""
        return _fail(f"{error}{made_in_vain}", error.exit_status)
    except TrainingError as error:
        return _fail(str(error), TrainingError.exit_status)
    except OSError as error:  # such as a full disk
        return _fail(f"{error.filename or target}: {error.strerror or error}; {target} was not written", 2)
    except KeyboardInterrupt:
        return _fail(f"interrupted; {target} was not written", 130)
    print(report)
    if options.fused:
        print(_about_kernels(file_format))
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")
    return 0


def _report(file_format: Format, target: Path, options: argparse.Namespace) -> str:
    """Write one file and return the table of what was measured."""
    found = ""
    if options.auto_agreement is not None:
        asked = AutoRequest(options.auto_agreement, options.data_root, options.dataset)
        metadata = auto_metadata(options.ckpt, asked)
        file_format, found = replace(file_format, metadata=metadata), f"\n{told(metadata)}"
    return _written(file_format, target, options) + found


def _written(file_format: Format, target: Path, options: argparse.Namespace) -> str:
    if options.precision == "fp32":
        return export_graph(file_format, options.ckpt, target, options.pictures, fused=options.fused).table()
    reduced = Reduced(
        options.precision,
        MIN_AGREEMENT if options.min_agreement is None else options.min_agreement,
        options.agreement_pictures or ENOUGH_PICTURES,
    )
    return export_reduced(file_format, options.ckpt, target, options.pictures, reduced).table()


def _about_kernels(file_format: Format) -> str:
    """Return how a file with the fused block is used."""
    if file_format.name == TORCHSCRIPT.name:
        return f"before it is loaded: torch.ops.load_library({str(operators.library_path())!r})"
    if onnx_functions.library_path().is_file():
        return f"the same without and with the kernels of {onnx_functions.library_path()}"
    return "checked without the kernels, which are not built: make kernels ORT_INCLUDE_DIR=..."


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
