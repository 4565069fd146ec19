"""Write one graph file, as the command line asks, and print what was measured."""

from dataclasses import replace
from pathlib import Path

import torch

from export.auto_margin import AutoRequest, auto_metadata, told
from export.bf16_agreement import read_pictures, store_bf16_agreement
from export.companions import Companions
from export.errors import ExportError
from export.exporter import export_graph
from export.formats.openvino import require_openvino
from export.formats.table import ONNX, TORCHSCRIPT, Format, format_of
from export.kernels import onnx_functions, operators
from export.options import ExportOptions, FileKind
from export.output import SystemRefusal
from export.reduced import Reduced, export_reduced
from export.stages import begin, told_on_stderr
from sgn_serve.common.error_text import say
from training.common.errors import TrainingError
from training.common.exits import MORE_MEMORY, allocations_told, print_ending
from training.data.class_names import read_class_names
from training.foreign.loading import Source


def export_all(options: ExportOptions, command: str) -> int:
    """Write each file that the command line asks for and what goes with it, and return the exit status.

    Args:
        options: What the command line asks for.
        command: The command line as it was given.
    """
    try:
        with allocations_told(), told_on_stderr():
            return _export_all(options, command)
    except torch.OutOfMemoryError as error:
        return print_ending(error, out_of_memory=MORE_MEMORY, interrupted="", device="cpu")


def _export_all(options: ExportOptions, command: str) -> int:
    try:
        classes = None if options.classes is None else read_class_names(options.classes)
        source = Source(options.ckpt, classes)
        for kind, _ in options.targets:
            format_of(kind).check()
        if options.bf16_agreement is not None:
            require_openvino()
            read_pictures(source, options.bf16_agreement, options.agreement_pictures)
        companions = Companions(source, options, command)
        source = replace(source, told=True)
    except (ExportError, TrainingError) as error:
        return _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written", 130)
    for kind, target in options.targets:
        status = export_one(kind, source, target, options) or _complete(companions, kind, source, target, options)
        if status:
            return status
    begin("done")
    return 0


def _complete(companions: Companions, kind: FileKind, source: Source, target: Path, options: ExportOptions) -> int:
    """Measure bfloat16 on a graph that is written, write what goes with it, and return the exit status."""
    try:
        if options.bf16_agreement is not None and kind == ONNX.kind:
            begin("compare the answers of bfloat16 on OpenVINO with float32's")
            print(store_bf16_agreement(target, source, options.bf16_agreement, options.agreement_pictures))
        companions.write(kind, target)
    except (ExportError, TrainingError) as error:
        return _fail(f"{error}; {target} itself was written", error.exit_status)
    except KeyboardInterrupt:
        return _fail(f"interrupted; {target} itself was written", 130)
    return 0


def export_one(kind: FileKind, source: Source, target: Path, options: ExportOptions) -> int:
    """Write one file, print what was measured, and return the exit status.

    Args:
        kind: The kind of file.
        source: The network.
        target: The file.
        options: What the command line asks for.
    """
    file_format = format_of(kind)
    try:
        report = _report(file_format, source, target, options)
    except ExportError as error:
        if error.details():
            print(error.details())
        made_in_vain = error.exit_status == 1 or isinstance(error, SystemRefusal)
        return _fail(f"{error}; {target} was not written" if made_in_vain else str(error), error.exit_status)
    except TrainingError as error:
        return _fail(str(error), TrainingError.exit_status)
    except KeyboardInterrupt:
        return _fail(f"interrupted; {target} was not written", 130)
    print(report)
    if options.fused:
        print(_about_kernels(file_format))
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")
    return 0


def _report(file_format: Format, source: Source, target: Path, options: ExportOptions) -> str:
    """Write one file and return the table of what was measured."""
    found = ""
    if options.auto_agreement is not None:
        assert options.data_root is not None  # the command line wants it
        asked = AutoRequest(options.auto_agreement, options.data_root, options.dataset)
        begin("find the threshold of auto on the validation pictures")
        metadata = auto_metadata(source, asked)
        file_format, found = replace(file_format, metadata=metadata), f"\n{told(metadata)}"
    return _written(file_format, source, target, options) + found


def _written(file_format: Format, source: Source, target: Path, options: ExportOptions) -> str:
    if options.precision == "fp32":
        return export_graph(file_format, source, target, options.pictures, fused=options.fused).table()
    assert options.pictures is not None  # the command line wants it
    reduced = Reduced(options.precision, options.min_agreement, options.agreement_pictures)
    return export_reduced(file_format, source, target, options.pictures, reduced).table()


def _about_kernels(file_format: Format) -> str:
    """Return how a file with the fused block is used."""
    if file_format.name == TORCHSCRIPT.name:
        return f"before it is loaded: torch.ops.load_library({str(operators.library_path())!r})"
    if onnx_functions.library_path().is_file():
        return f"the same without and with the kernels of {onnx_functions.library_path()}"
    return "checked without the kernels, which are not built: make kernels ORT_INCLUDE_DIR=..."


def _fail(message: str, status: int) -> int:
    say(f"error: {message}")
    return status
