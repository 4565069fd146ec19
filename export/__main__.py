"""python -m export: a checkpoint to a graph."""

import argparse
import sys
from pathlib import Path

from export.capture import CaptureError
from export.exporter import OutputError, VerificationError, export_onnx
from export.kernels.onnx_functions import library_path
from export.kernels.operators import KernelsError
from export.pictures import PicturesError
from export.verify import PICTURES
from training.checkpoint import CheckpointError

BESIDE_CHECKPOINT = Path("model.onnx")

EPILOG = f"""\
The graph has the input `image` (batch, 3, H, W) in [0, 1] and the outputs `logits` (block on),
`plain_logits` (block off) and `self_gradient`; for a network without a block, `plain_logits` alone.
It is checked against PyTorch on {PICTURES} pictures at batch 1, 4 and 7 before it gets its name. A file that
is there already is replaced by a good graph only, and stays as it is otherwise.

exit status: 0 written and checked; 1 the graph differs from PyTorch, nothing written;
             2 wrong arguments or files, nothing written
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Export a trained self-gradient network as one self-contained graph.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ckpt", type=Path, required=True, metavar="PATH", help="model.safetensors of a training run")
    parser.add_argument(
        "--onnx",
        type=Path,
        nargs="?",
        const=BESIDE_CHECKPOINT,
        required=True,
        metavar="PATH",
        help=f"write an ONNX graph (default PATH: {BESIDE_CHECKPOINT} beside the checkpoint)",
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help=f"check on the first {PICTURES} pictures of this folder (default: on made-up ones)",
    )
    parser.add_argument(
        "--fused",
        action="store_true",
        help="write the block as one node, which the kernels of `make kernels ORT_INCLUDE_DIR=...` compute where their "
        "library is registered with ONNX Runtime, and standard operators elsewhere",
    )
    options = parser.parse_args(arguments)
    if options.onnx is BESIDE_CHECKPOINT:
        options.onnx = options.ckpt.with_name(BESIDE_CHECKPOINT.name)
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        verification = export_onnx(options.ckpt, options.onnx, options.pictures, fused=options.fused)
    except (CheckpointError, PicturesError, OutputError, CaptureError, KernelsError) as error:
        return _fail(str(error), 2)
    except VerificationError as error:
        if error.verification is not None:
            print(error.verification.table())
        return _fail(f"{error}; {options.onnx} was not written", 1)
    except KeyboardInterrupt:
        return _fail(f"interrupted; {options.onnx} was not written", 130)
    print(verification.table())
    if options.fused and library_path().is_file():
        print(f"the same without and with the kernels of {library_path()}")
    elif options.fused:
        print("checked without the kernels, which are not built: make kernels ORT_INCLUDE_DIR=...")
    print(f"wrote {options.onnx} ({options.onnx.stat().st_size / 1e6:.1f} MB)")
    return 0


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
