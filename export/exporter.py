"""From a checkpoint file to a checked graph file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from export.blocked_layout import keep_masks_in_blocked_layout
from export.capture import capture, passes_of
from export.onnx import CHECKSUM_KEY, METADATA_KEY, save_onnx, sha256_of, to_onnx
from export.pictures import pictures_in, structured_pictures
from export.rewrite import rewrite
from export.verify import PICTURES, GraphError, Verification, onnx_run, verify
from training.checkpoint import load_checkpoint


class OutputError(ValueError):
    """A place where the graph cannot be written; the message names it and the fix."""


class VerificationError(RuntimeError):
    """The graph does not compute what the network computes; nothing was written.

    verification: the checks, or None where the graph could not even be run
    """

    def __init__(self, message: str, verification: Verification | None = None):
        super().__init__(message)
        self.verification = verification


def export_onnx(
    checkpoint: Path, target: Path, pictures_folder: Path | None = None, backbone: nn.Module | None = None
) -> Verification:
    """Writes the checkpoint's network as one ONNX file, once that file has been checked against PyTorch.

    checkpoint:      a model.safetensors (see training.checkpoint.load_checkpoint)
    target:          is replaced in one step by a good file, and left as it was by a failure
    pictures_folder: real pictures to check on; made-up ones where None
    backbone:        a module of your own that the checkpoint holds the weights of (see load_checkpoint)
    returns:         the checks, all passed
    raises CheckpointError, PicturesError, OutputError for what was passed in, CaptureError for a network that cannot be
    written as one graph, VerificationError for a graph that is wrong
    """
    network, info = load_checkpoint(checkpoint, backbone)
    channels = len(info.mean)
    if pictures_folder is None:
        pictures = structured_pictures(PICTURES, channels, info.image_size)
    else:
        pictures = pictures_in(pictures_folder, PICTURES, info.image_size)
    metadata = {METADATA_KEY: info.to_json(), CHECKSUM_KEY: sha256_of(checkpoint)}
    passes = passes_of(network)
    with _replacing(target) as partial:
        graph = capture(passes, info.image_size)
        rewrite(graph)
        model = to_onnx(graph, (channels, *info.image_size), passes.output_names, metadata)
        keep_masks_in_blocked_layout(model)
        save_onnx(model, partial)
        try:
            verification = verify(onnx_run(partial, passes.output_names), network, pictures)
        except GraphError as error:
            raise VerificationError(str(error)) from error
        if not verification.passed:
            raise VerificationError("the graph's outputs differ from PyTorch's", verification)
    return verification


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A file to write to beside `target`, which takes its place on success and is removed on any failure."""
    if target.is_dir():
        raise OutputError(f"{target}: is a folder; pass the file to write, such as {target / 'model.onnx'}")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: its folder does not exist; create it first")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.touch()  # before the work, which would be in vain
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror}); pass another PATH to --onnx") from None
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
