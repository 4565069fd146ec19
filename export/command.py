"""The command `python -m export`: from a checkpoint to graph files.

Nothing here imports PyTorch before the options are checked, for that takes seconds.
"""

import argparse
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from export.options import (
    AOT,
    AOT_FOR_GPU,
    ENOUGH_PICTURES,
    FUSED,
    KINDS,
    MIN_AGREEMENT,
    ONNX,
    PICTURES,
    REDUCED_PRECISIONS,
    SERVED,
    ExportOptions,
    FileKind,
)
from export.output import UNFINISHED
from sgn_serve.common.command_parser import CommandParser, any_number, file_to_write, whole_number
from sgn_serve.common.error_text import say
from sgn_serve.common.graph_format import INPUT, LOGITS, MAX_EXAMPLES, PLAIN_LOGITS, SELF_GRADIENT
from sgn_serve.common.interrupts import importing
from training.common.errors import TrainingError
from training.common.given_paths import require_file
from training.data.class_names import HELP as CLASSES_HELP
from training.data.class_names import read_class_names
from training.data.datasets import DATASETS, require_root

PROGRAM = "python -m export"
BESIDE_CHECKPOINT = Path()
"""Stands for the format's own file name in the checkpoint's folder."""

EPILOG = f"""\
The graph has the input `{INPUT}` (batch, 3, H, W) in [0, 1] and the outputs `{LOGITS}` (block on),
`{PLAIN_LOGITS}` (block off) and `{SELF_GRADIENT}`; a network without a block has `{PLAIN_LOGITS}` alone.
TorchScript and AOTInductor return the outputs as a tuple in this order.
Before the file gets its name, it is checked against PyTorch on {PICTURES} pictures at batch 1, 4 and 7.
Standard error gets a line for each stage that begins, with the seconds so far.
An existing file is replaced by a good graph only.

exit status: 0 written and checked
             1 not written: the graph differs from PyTorch (in reduced precision: by more than the precision
               explains, or in too many answers)
             2 not written: wrong arguments or files
"""


def parse_arguments(arguments: list[str] | None = None, program: str = PROGRAM) -> ExportOptions:
    """Parse the command line and check that its options fit together.

    Args:
        arguments: The arguments. None takes those of the process.
        program: Name of the program in --help and errors.
    """
    parser = build_parser(program)
    options = parser.parse_args(arguments)
    _check_fused(parser, options)
    _check_reduced(parser, options)
    _check_data_root(parser, options)
    _check_examples(parser, options)
    return ExportOptions(
        ckpt=options.ckpt,
        classes=options.classes,
        targets=tuple(_targets(parser, options)),
        pictures=options.pictures,
        fused=options.fused,
        precision=options.precision,
        min_agreement=MIN_AGREEMENT if options.min_agreement is None else options.min_agreement,
        agreement_pictures=ENOUGH_PICTURES if options.agreement_pictures is None else options.agreement_pictures,
        bf16_agreement=options.bf16_agreement,
        auto_agreement=options.auto_agreement,
        evaluation=options.evaluation,
        examples=options.examples,
        data_root=options.data_root,
        dataset=options.dataset,
    )


def build_parser(program: str = PROGRAM) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        program,
        description="Export a trained self-gradient network as one self-contained graph.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--ckpt",
        type=Path,
        required=True,
        metavar="PATH",
        help="model.safetensors of a training run, or weights of another program that leave nothing open but the names "
        "of their --classes",
    )
    parser.add_argument("--classes", metavar="NAMES", help=f"for weights of another program: {CLASSES_HELP}")
    for item in KINDS:
        parser.add_argument(
            f"--{item.name}",
            type=file_to_write,
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
    _add_auto_arguments(parser)
    _add_companions_arguments(parser)
    _add_data_arguments(parser)
    return parser


def _add_companions_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--evaluation",
        type=Path,
        metavar="PATH",
        help="report whose figures go with the graph, in a .json of its name (default: the evaluation.json beside the "
        "checkpoint, where there is one)",
    )
    parser.add_argument(
        "--examples",
        type=_examples,
        metavar="N",
        help=f"put N test pictures, 1 to {MAX_EXAMPLES}, and perturbations that fool the network beside the graph, in "
        "an .examples.json of its name, for the page at /ui; needs --data-root",
    )


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
        f"PGD-20; otherwise nothing is written (default: {MIN_AGREEMENT})",
    )
    parser.add_argument(
        "--agreement-pictures",
        type=_count,
        metavar="N",
        help=f"number of pictures that the share is measured on (default: {ENOUGH_PICTURES}; with fewer it is rough)",
    )


def _add_auto_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bf16-agreement",
        type=Path,
        metavar="DIR",
        help="for --onnx in fp32: measure on this folder's pictures how often bfloat16 on OpenVINO gives float32's "
        f"answer, and store it in the graph. With {MIN_AGREEMENT} or more, SGN_ENGINE=auto serves it in bfloat16 where "
        "the processor can",
    )
    parser.add_argument(
        "--auto-agreement",
        type=_share,
        metavar="SHARE",
        help="find the threshold of self_gradient=auto with which this share of the validation pictures, such as "
        "0.998, gets the answer of the block on, and store it in the graph. Test pictures are not looked at; needs "
        "--data-root (default: the checkpoint's threshold, if it has one)",
    )


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-root",
        "--data",
        type=Path,
        metavar="PATH",
        help="folder of the data set: its test pictures for --examples, its validation pictures for --auto-agreement",
    )
    parser.add_argument(
        "--dataset", choices=DATASETS, help="which reader reads it (default: the one that the network was trained with)"
    )


def _share(text: str) -> float:
    value = any_number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share between 0 and 1, such as 0.995")
    return value


def _examples(text: str) -> int:
    value = whole_number(text)
    if not 1 <= value <= MAX_EXAMPLES:
        raise argparse.ArgumentTypeError(f"{text} is not a number of pictures from 1 to {MAX_EXAMPLES}")
    return value


def _count(text: str) -> int:
    value = whole_number(text)
    if value < PICTURES:
        raise argparse.ArgumentTypeError(f"{text} is too few pictures; at least {PICTURES} are compared one by one")
    return value


def _wanted(options: argparse.Namespace) -> list[FileKind]:
    """Return the formats that the command line names."""
    return [item for item in KINDS if getattr(options, item.name) is not None]


def _check_fused(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    others = [item for item in _wanted(options) if item not in FUSED]
    if options.fused and (options.precision != "fp32" or others):
        parser.error(
            "--fused is for --onnx and --torchscript in fp32; leave it out, or export the others by themselves"
        )


def _check_reduced(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.bf16_agreement is not None and (
        options.precision != "fp32" or options.fused or ONNX not in _wanted(options)
    ):
        parser.error("--bf16-agreement is for --onnx in fp32, without --fused; leave it out")
    if options.precision == "fp32":
        for flag in ("min_agreement", "agreement_pictures"):
            if getattr(options, flag) is not None and (flag == "min_agreement" or options.bf16_agreement is None):
                parser.error(f"--{flag.replace('_', '-')} has no effect with --precision fp32; leave it out")
    elif options.pictures is None:
        parser.error(f"{options.precision} is compared with fp32 on real pictures; name their folder with --pictures")


def _check_data_root(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program where an option needs the data set and none is named, or one is named that no option needs."""
    if options.auto_agreement is None and options.examples is None:
        for flag in ("data_root", "dataset"):
            if getattr(options, flag) is not None:
                parser.error(f"--{flag.replace('_', '-')} is for --examples and --auto-agreement; leave it out")
    elif options.data_root is None and options.auto_agreement is not None:
        parser.error("--auto-agreement is measured on validation pictures; name the data set's folder with --data-root")
    elif options.data_root is None:
        parser.error("--examples takes its pictures from the data set; name its folder with --data-root")


def _check_examples(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.examples is not None and not any(item in SERVED for item in _wanted(options)):
        parser.error("--examples is for what the service serves: --onnx or --openvino; leave it out")


def _check_files(options: ExportOptions) -> None:
    """Check what can be told of the files that the command line names without reading tensors.

    Raises:
        PathError: The checkpoint or the folder of the data set is missing.
        OptionError: The classes are none.
    """
    if options.classes is not None:
        read_class_names(options.classes)
    require_file(options.ckpt, "--ckpt")
    if options.data_root is not None:
        require_root(options.data_root, options.dataset)


def _targets(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[tuple[FileKind, Path]]:
    """Return each format to write with its file; end the program where there is none or two share a file."""
    formats = _wanted(options)
    if options.device == "cuda":
        if formats != [AOT]:
            parser.error("--device is for --aot; the other formats run on any device: export them by themselves")
        formats = [AOT_FOR_GPU]
    if not formats:
        parser.error("say what to write: " + ", ".join(f"--{item.name}" for item in KINDS))
    targets = []
    for item in formats:
        path = getattr(options, item.name)
        targets.append((item, options.ckpt.with_name(item.file_name) if path is BESIDE_CHECKPOINT else path))
    paths = [path.resolve() for _, path in targets]
    for (item, _), resolved in zip(targets, paths, strict=True):
        try:
            str(resolved).encode()
        except UnicodeEncodeError:  # ONNX Runtime and safetensors take no such paths
            parser.error(f"--{item.name}: {str(resolved)!r} is not UTF-8; give a path that is")
    for (item, path), resolved in zip(targets, paths, strict=True):
        if paths.count(resolved) > 1:
            parser.error(f"--{item.name} and another format would both be written to {path}; give each its own PATH")
    return targets


def main(arguments: list[str] | None = None, program: str = PROGRAM) -> int:
    """Run the command and return its exit status; see EPILOG.

    Args:
        arguments: The arguments. None takes those of the process.
        program: Name of the program in --help and errors.
    """
    options = parse_arguments(arguments, program)
    try:
        _check_files(options)
    except TrainingError as error:
        say(f"error: {error}")
        return error.exit_status
    with importing():
        from export.export import export_all
    given = sys.argv[1:] if arguments is None else arguments
    return export_all(options, " ".join([program, *given]))


def _remove_unfinished(number: int, frame: object) -> None:
    """Remove unfinished files, say so, and end the process at once, as the handler of a signal.

    It raises no exception, because PyTorch's tracing and compiling may catch one and go on.
    """
    if not UNFINISHED:
        say("interrupted")
    for partial, target in UNFINISHED.items():
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        say(f"error: interrupted; {target} was not written")
    sys.stderr.flush()
    os._exit(130)


def run(arguments: list[str] | None = None, program: str = PROGRAM) -> int:
    """Run main as a process of its own: a signal removes the unfinished file and ends the process at once.

    Args:
        arguments: The arguments. None takes those of the process.
        program: Name of the program in --help and errors.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, _remove_unfinished)
    return main(arguments, program)
