"""python -m export: a checkpoint to a graph."""

import argparse
import os
import signal
import sys
from pathlib import Path

from export.capture.graph import CaptureError
from export.check.pictures import PicturesError
from export.check.verify import PICTURES
from export.exporter import VerificationError, export_graph
from export.formats.aot import CompilerError
from export.formats.openvino import OpenVinoError
from export.formats.table import AOT, AOT_FOR_GPU, FORMATS, FUSED, TORCHSCRIPT, Format
from export.kernels import onnx_functions, operators
from export.kernels.operators import KernelsError
from export.output import UNFINISHED, OutputError
from export.reduced import REDUCED_PRECISIONS, AgreementError, PrecisionError, Reduced, export_reduced
from training.checkpoint import CheckpointError

BESIDE_CHECKPOINT = Path()
"""Stands for the format's own file name in the checkpoint's folder."""

REFUSALS = (
    CheckpointError,
    PicturesError,
    OutputError,
    CaptureError,
    CompilerError,
    PrecisionError,
    KernelsError,
    OpenVinoError,
)
EPILOG = f"""\
The graph has the input `image` (batch, 3, H, W) in [0, 1] and the outputs `logits` (block on),
`plain_logits` (block off) and `self_gradient`; for a network without a block, `plain_logits` alone.
TorchScript and AOTInductor return them as a tuple in this order.
It is checked against PyTorch on {PICTURES} pictures at batch 1, 4 and 7 before it gets its name. A file that
is there already is replaced by a good graph only, and stays as it is otherwise.

exit status: 0 written and checked; 1 the graph differs from PyTorch (in reduced precision: by more than
             that explains, or in too many answers), nothing written;
             2 wrong arguments or files, nothing written
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Export a trained self-gradient network as one self-contained graph.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ckpt", type=Path, required=True, metavar="PATH", help="model.safetensors of a training run")
    for item in FORMATS:
        parser.add_argument(
            f"--{item.name}",
            type=Path,
            nargs="?",
            const=BESIDE_CHECKPOINT,
            metavar="PATH",
            help=f"write {item.content} (default PATH: {item.file_name} beside the checkpoint)",
        )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help=f"check on the first {PICTURES} pictures of this folder (default: on made-up ones)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", *REDUCED_PRECISIONS),
        default="fp32",
        help="of the convolutions; int8-first-pass leaves the second pass in float32 (default: fp32)",
    )
    parser.add_argument(
        "--min-agreement",
        type=_share,
        metavar="SHARE",
        help="of pictures that must keep float32's top class in reduced precision, as they are and attacked by PGD-20; "
        f"with fewer nothing is written (default: {Reduced.min_agreement})",
    )
    parser.add_argument(
        "--agreement-pictures",
        type=_count,
        metavar="N",
        help=f"pictures that this is measured on (default: {Reduced.pictures}; a figure from fewer is rough)",
    )
    parser.add_argument(
        "--fused",
        action="store_true",
        help="write the block as one node. ONNX: the kernels of `make kernels ORT_INCLUDE_DIR=...` compute it where "
        "their library is registered with ONNX Runtime, and standard operators elsewhere. TorchScript: the kernels of "
        "`make kernels`, without which the file cannot be loaded",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help=f"what --aot compiles for (default: cpu; cuda: PATH is {AOT_FOR_GPU.file_name} unless you name one)",
    )
    return parser


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options, once they go together; options.targets are the formats and their files."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    formats: tuple[Format, ...] = FORMATS
    if options.device == "cuda":
        if [item for item in FORMATS if getattr(options, item.name) is not None] != [AOT]:
            parser.error("--device is for --aot; the other formats run on any device: export them by themselves")
        formats = (AOT_FOR_GPU,)
    others = [item.name for item in FORMATS if item.name not in FUSED and getattr(options, item.name) is not None]
    if options.fused and (options.precision != "fp32" or others):
        parser.error(
            "--fused is for --onnx and --torchscript in fp32; leave it out, or export the others by themselves"
        )
    if options.precision == "fp32":
        for flag in ("min_agreement", "agreement_pictures"):
            if getattr(options, flag) is not None:
                parser.error(f"--{flag.replace('_', '-')} has no effect with --precision fp32; leave it out")
    elif options.pictures is None:
        parser.error(f"{options.precision} is compared with fp32 on real pictures; name their folder with --pictures")
    options.targets = [
        (item, options.ckpt.with_name(item.file_name) if path is BESIDE_CHECKPOINT else path)
        for item in formats
        if (path := getattr(options, item.name)) is not None
    ]
    paths = [path.resolve() for _, path in options.targets]
    for (item, path), resolved in zip(options.targets, paths, strict=True):
        if paths.count(resolved) > 1:
            parser.error(f"--{item.name} and another format would both be written to {path}; give each its own PATH")
    if not options.targets:
        parser.error("say what to write: " + ", ".join(f"--{item.name}" for item in FORMATS))
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    for file_format, target in options.targets:
        status = _export(file_format, target, options)
        if status:
            return status
    return 0


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share between 0 and 1, such as 0.995")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < PICTURES:
        raise argparse.ArgumentTypeError(f"{text} is too few pictures; at least {PICTURES} are compared one by one")
    return value


def _export(file_format: Format, target: Path, options: argparse.Namespace) -> int:
    try:
        if options.precision == "fp32":
            report = export_graph(file_format, options.ckpt, target, options.pictures, fused=options.fused).table()
        else:
            reduced = Reduced(
                options.precision,
                Reduced.min_agreement if options.min_agreement is None else options.min_agreement,
                options.agreement_pictures or Reduced.pictures,
            )
            report = export_reduced(file_format, options.ckpt, target, options.pictures, reduced).table()
    except REFUSALS as error:
        return _fail(str(error), 2)
    except AgreementError as error:
        print("\n".join(agreement.line() for agreement in error.agreements))
        return _fail(f"{error}; {target} was not written", 1)
    except VerificationError as error:
        if error.verification is not None:
            print(error.verification.table())
        return _fail(f"{error}; {target} was not written", 1)
    except OSError as error:  # such as a full disk
        return _fail(f"{error.filename or target}: {error.strerror or error}; {target} was not written", 2)
    except KeyboardInterrupt:
        return _fail(f"interrupted; {target} was not written", 130)
    print(report)
    if options.fused:
        print(_about_kernels(file_format))
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")
    return 0


def _about_kernels(file_format: Format) -> str:
    if file_format.name == TORCHSCRIPT.name:
        return f"before it is loaded: torch.ops.load_library({str(operators.library_path())!r})"
    if onnx_functions.library_path().is_file():
        return f"the same without and with the kernels of {onnx_functions.library_path()}"
    return "checked without the kernels, which are not built: make kernels ORT_INCLUDE_DIR=..."


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _end(number: int, frame: object) -> None:
    """Ctrl-C, a scheduler's kill or a terminal's end, at any moment: nothing half-written stays.

    Not an exception: what PyTorch calls while it captures and compiles may catch it and go on.
    """
    for partial, target in UNFINISHED.items():
        partial.unlink(missing_ok=True)
        _fail(f"interrupted; {target} was not written", 130)
    sys.stderr.flush()
    os._exit(130)


def run() -> int:
    """Run main as a process of its own: a signal removes the unfinished file and ends the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, _end)
    return main()
