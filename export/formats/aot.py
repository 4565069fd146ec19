"""A captured graph as an AOTInductor package, for Python and C++.

C++ compiled for this machine's processor, or Triton kernels and cuDNN's convolutions for its NVIDIA GPU.
"""

import json
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, fx

from export.capture.graph import INPUT_NAME, CaptureError, example_image, output_names_of
from export.check.verify import GraphError, Run
from export.errors import operator_in
from export.formats.placement import move_graph
from export.rewrite import store_weights
from training.common.errors import first_line

OUTPUT_NAMES_KEY = "output_names"
"""Metadata key of the outputs' names, in order, separated by commas."""


CPU = torch.device("cpu")


class CompilerError(ValueError):
    """No C++ compiler or no GPU, without which nothing can be compiled; the message names the fix."""


def save_aot(graph: fx.GraphModule, metadata: Mapping[str, str], path: Path, device: torch.device = CPU) -> None:
    """Compiles the captured graph for this machine: image (N, C, H, W) to the outputs, in order, all on the device.

    metadata: is stored in the package; torch._inductor.aoti_load_package(path).get_metadata() reads it
    device:   cpu or cuda; the package runs on no other
    raises CompilerError without a C++ compiler, CaptureError for a graph that cannot be compiled
    """
    require_compiler()
    store_weights(graph)
    move_graph(graph, device)
    settings = {"aot_inductor.metadata": {**metadata, OUTPUT_NAMES_KEY: ",".join(output_names_of(graph))}}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        package = Path(folder) / "model.pt2"  # the compiler insists on the suffix
        try:
            with warnings.catch_warnings(action="ignore"), torch.no_grad():  # of PyTorch's insides
                program = torch.export.export(
                    graph,
                    (example_image(graph).to(device),),
                    dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch")}},
                    strict=False,
                )
                torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=settings)
        except Exception as error:  # the compiler raises of its own
            raise CaptureError(f"the network cannot be compiled: {first_line(error)}", operator_in(error)) from error
        os.replace(package, path)


def annotate_aot(path: Path, metadata: Mapping[str, str]) -> None:
    """Replaces the metadata of a written package, but for the outputs' names and what the compiler noted."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        annotated = Path(folder) / path.name
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(annotated, "w") as target:
            for item in source.infolist():
                content = source.read(item)
                if item.filename.endswith("_metadata.json"):
                    content = json.dumps({**json.loads(content), **metadata}).encode()
                target.writestr(item, content)
        os.replace(annotated, path)


def require_compiler() -> None:
    """raises CompilerError where there is no C++ compiler for AOTInductor to use"""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise CompilerError(f"--aot compiles C++, but there is no {compiler}; install one, or name yours with CXX=...")


def require_gpu() -> None:
    """raises CompilerError where there is nothing to compile with or no GPU to compile for"""
    require_compiler()
    if not torch.cuda.is_available():
        raise CompilerError(
            "--device cuda compiles for this machine's NVIDIA GPU, but there is none that PyTorch can use; "
            "export where the GPU is, or leave --device out"
        )


def aot_run(path: Path, output_names: tuple[str, ...]) -> Run:
    """A compiled package on the device it was compiled for; float32 convolutions on a GPU in float32, not in TF32.

    raises GraphError where it cannot be loaded or was compiled for other outputs
    """
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "model.pt2"  # the loader insists on the suffix, too
        shutil.copyfile(path, package)
        try:
            module = torch._inductor.aoti_load_package(str(package))
            metadata = module.get_metadata()
        except Exception as error:
            raise GraphError(f"the compiled package cannot be loaded: {first_line(error)}") from error
    found, device = metadata.get(OUTPUT_NAMES_KEY), metadata["AOTI_DEVICE_KEY"]  # the second is the compiler's own
    if found != ",".join(output_names):
        raise GraphError(f"the package's outputs are {found}, expected {', '.join(output_names)}")

    def run(images: Tensor) -> dict[str, Tensor]:
        try:
            with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                outputs = module(images.contiguous().to(device))
            return {name: output.cpu() for name, output in zip(output_names, outputs, strict=True)}
        except Exception as error:
            raise GraphError(f"the package cannot be run at batch {len(images)}: {first_line(error)}") from error

    return run
