"""The command `python -m export`: from a checkpoint to graph files."""

import argparse
import os
import signal
import sys
from pathlib import Path

from export.check.verify import PICTURES
from export.errors import ExportError
from export.exporter import export_graph
from export.formats.table import AOT, AOT_FOR_GPU, FORMATS, FUSED, TORCHSCRIPT, Format
from export.kernels import onnx_functions, operators
from export.output import UNFINISHED
from export.reduced import REDUCED_PRECISIONS, Reduced, export_reduced
from sgn_serve.graph_format import INPUT, LOGITS, PLAIN_LOGITS, SELF_GRADIENT
from training.common.errors import TrainingError

BESIDE_CHECKPOINT = Path()
"""Stands for the format's own file name in the checkpoint's folder."""

EPILOG = f"""\
The graph has the input `{INPUT}` (batch, 3, H, W) in [0, 1] and the outputs `{LOGITS}` (block on),
`{PLAIN_LOGITS}` (block off) and `{SELF_GRADIENT}`; a network without a block has `{PLAIN_LOGITS}` alone.
TorchScript and AOTInductor return the outputs as a tuple in this order.
Before the file gets its name, it is checked against PyTorch on {PICTURES} pictures at batch 1, 4 and 7.
An existing file is replaced by a good graph only.

exit status: 0 written and checked
             1 not written: the graph differs from PyTorch (in reduced precision: by more than the precision
               explains, or in too many answers)
             2 not written: wrong arguments or files
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line and check that its options fit together.

    Returns:
        The options; `targets` holds each format to write with its file.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    _check_fused(parser, options)
    _check_reduced(parser, options)
    options.targets = _targets(parser, options)
    return options


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
        help=f"check on the first {PICTURES} pictures of this folder (default: on generated ones)",
    )
    parser.add_argument(
        "--fused",
        action="store_true",
        help="write the block as one node. ONNX: ONNX Runtime computes it with the kernels of "
        "`make kernels ORT_INCLUDE_DIR=...` where their library is registered, and with standard operators elsewhere. "
        "TorchScript: the file can be loaded only with the kernels of `make kernels`",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help=f"device that --aot compiles for (default: cpu; cuda: the default PATH is {AOT_FOR_GPU.file_name})",
    )
    _add_reduced_arguments(parser)
    return parser


def _add_reduced_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=("fp32", *REDUCED_PRECISIONS),
        default="fp32",
        help="precision of the convolutions (default: fp32)",
    )
    parser.add_argument(
        "--min-agreement",
        type=_share,
        metavar="SHARE",
        help="share of pictures that must keep float32's top class in reduced precision, both clean and attacked by "
        f"PGD-20; otherwise nothing is written (default: {Reduced.min_agreement})",
    )
    parser.add_argument(
        "--agreement-pictures",
        type=_count,
        metavar="N",
        help=f"number of pictures that the share is measured on (default: {Reduced.pictures}; with fewer it is rough)",
    )


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


def _wanted(options: argparse.Namespace) -> list[Format]:
    """Return the formats that the command line names."""
    return [item for item in FORMATS if getattr(options, item.name) is not None]


def _check_fused(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    others = [item for item in _wanted(options) if item.name not in FUSED]
    if options.fused and (options.precision != "fp32" or others):
        parser.error(
            "--fused is for --onnx and --torchscript in fp32; leave it out, or export the others by themselves"
        )


def _check_reduced(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.precision == "fp32":
        for flag in ("min_agreement", "agreement_pictures"):
            if getattr(options, flag) is not None:
                parser.error(f"--{flag.replace('_', '-')} has no effect with --precision fp32; leave it out")
    elif options.pictures is None:
        parser.error(f"{options.precision} is compared with fp32 on real pictures; name their folder with --pictures")


def _targets(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[tuple[Format, Path]]:
    """Return each format to write with its file; end the program where there is none or two share a file."""
    formats = _wanted(options)
    if options.device == "cuda":
        if formats != [AOT]:
            parser.error("--device is for --aot; the other formats run on any device: export them by themselves")
        formats = [AOT_FOR_GPU]
    if not formats:
        parser.error("say what to write: " + ", ".join(f"--{item.name}" for item in FORMATS))
    targets = []
    for item in formats:
        path = getattr(options, item.name)
        targets.append((item, options.ckpt.with_name(item.file_name) if path is BESIDE_CHECKPOINT else path))
    paths = [path.resolve() for _, path in targets]
    for (item, path), resolved in zip(targets, paths, strict=True):
        if paths.count(resolved) > 1:
            parser.error(f"--{item.name} and another format would both be written to {path}; give each its own PATH")
    return targets


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status; see EPILOG."""
    options = parse_arguments(arguments)
    for file_format, target in options.targets:
        status = _export(file_format, target, options)
        if status:
            return status
    return 0


def _export(file_format: Format, target: Path, options: argparse.Namespace) -> int:
    """Write one file, print what was measured, and return the exit status."""
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
    if options.precision == "fp32":
        return export_graph(file_format, options.ckpt, target, options.pictures, fused=options.fused).table()
    reduced = Reduced(
        options.precision,
        Reduced.min_agreement if options.min_agreement is None else options.min_agreement,
        options.agreement_pictures or Reduced.pictures,
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


def _remove_unfinished(number: int, frame: object) -> None:
    """Remove unfinished files and end the process at once, as the handler of a signal.

    It raises no exception, because PyTorch's tracing and compiling may catch one and go on.
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
            signal.signal(number, _remove_unfinished)
    return main()
