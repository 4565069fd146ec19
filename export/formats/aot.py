"""Write a captured graph as an AOTInductor package, for Python and C++, and run such a package.

A package holds C++ compiled for this machine's processor, or Triton kernels and cuDNN's convolutions for its GPU.
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

from export.capture.graph import example_image, output_names_of
from export.check.verify import GraphRunner, UnusableGraphError
from export.errors import CaptureError, ExportError, operator_in
from export.formats.output_names import OUTPUT_NAMES_KEY, joined, require_outputs
from export.formats.placement import move_graph
from export.output import writing
from export.rewrite import store_weights
from sgn_serve.common.error_text import first_line
from sgn_serve.common.graph_format import INPUT

CPU = torch.device("cpu")


class CompilerError(ExportError):
    """A C++ compiler or a GPU is missing, without which nothing can be compiled. The message names the fix."""


def save_aot(graph: fx.GraphModule, metadata: Mapping[str, str], path: Path, device: torch.device = CPU) -> None:
    """Compile the captured graph for this machine: image (N, C, H, W) to the outputs, in order, all on the device.

    Args:
        graph: A rewritten graph; it is changed.
        metadata: Is stored in the package; torch._inductor.aoti_load_package(path).get_metadata() reads it.
        path: The file to write.
        device: cpu or cuda; the package runs on no other.

    Raises:
        CompilerError: There is no C++ compiler.
        CaptureError: The graph cannot be compiled.
    """
    require_compiler()
    store_weights(graph)
    move_graph(graph, device)
    settings = {"aot_inductor.metadata": {**metadata, OUTPUT_NAMES_KEY: joined(output_names_of(graph))}}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        package = Path(folder) / "model.pt2"  # the compiler insists on the suffix
        try:
            with warnings.catch_warnings(action="ignore"), torch.no_grad():  # PyTorch warns of its own
                program = torch.export.export(
                    graph,
                    (example_image(graph).to(device),),
                    dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
                    strict=False,
                )
                torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=settings)
        except Exception as error:  # the compiler raises exceptions of many kinds
            raise CaptureError(f"the network cannot be compiled: {first_line(error)}", operator_in(error)) from error
        os.replace(package, path)


def annotate_aot(path: Path, metadata: Mapping[str, str]) -> None:
    """Replace the metadata of a written package, except the outputs' names and what the compiler noted."""
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
    """Check that there is a C++ compiler for AOTInductor to use.

    Raises:
        CompilerError: There is none.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise CompilerError(f"--aot compiles C++, but there is no {compiler}; install one, or name yours with CXX=...")


def require_gpu() -> None:
    """Check that there are a C++ compiler and a GPU to compile for.

    Raises:
        CompilerError: One of them is missing.
    """
    require_compiler()
    if not torch.cuda.is_available():
        raise CompilerError(
            "--device cuda compiles for this machine's NVIDIA GPU, but there is none that PyTorch can use; "
            "export where the GPU is, or leave --device out"
        )


def aot_runner(path: Path, output_names: tuple[str, ...]) -> GraphRunner:
    """Load a compiled package onto the device it was compiled for.

    On a GPU float32 convolutions are computed in float32, not in TF32.

    Raises:
        UnusableGraphError: The package cannot be loaded, or was compiled for other outputs than `output_names`.
        SystemRefusal: The temporary folder has no room for a copy.
    """
    with writing(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "model.pt2"  # the loader insists on the suffix, too
        shutil.copyfile(path, package)
        try:
            module = torch._inductor.aoti_load_package(str(package))
            metadata = module.get_metadata()
        except Exception as error:
            raise UnusableGraphError(f"the compiled package cannot be loaded: {first_line(error)}") from error
    require_outputs(metadata.get(OUTPUT_NAMES_KEY, "unknown").split(","), output_names)
    device = metadata["AOTI_DEVICE_KEY"]  # the compiler's own

    def run(images: Tensor) -> dict[str, Tensor]:
        try:
            with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                outputs = module(images.contiguous().to(device))
            return {name: output.cpu() for name, output in zip(output_names, outputs, strict=True)}
        except Exception as error:
            raise UnusableGraphError(
                f"the package cannot be run at batch {len(images)}: {first_line(error)}"
            ) from error

    return run
