"""Measure how often bfloat16 on OpenVINO gives the answers of a float32 ONNX graph: what SGN_ENGINE=auto asks for."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from export.check.agreement import agreements_json, measure_agreement
from export.check.pictures import unseen_pictures
from export.check.verify import GraphRunner
from export.formats.onnx import annotate_onnx
from export.formats.openvino import OpenVinoError, require_openvino
from export.network_passes import passes_of
from export.output import replacing, writing
from sgn_serve.common.graph_format import BF16, BF16_KEY, MIN_AGREEMENT
from sgn_serve.common.openvino_runtime import compile_model
from training.config import EPS
from training.foreign.loading import Source, load_network


def read_pictures(source: Source, folder: Path, count: int) -> Tensor:
    """Read the pictures that answers are compared on. Command lines do so before they export, to fail early.

    Args:
        source: The network.
        folder: See measure_bf16.
        count: See measure_bf16.

    Returns:
        (count, 3, H, W) float32 in [0, 1].

    Raises:
        PicturesError, CheckpointError, WeightsError: See measure_bf16.
    """
    info = load_network(source)[1]
    return unseen_pictures(folder, count, info)


def measure_bf16(graph: Path, checkpoint: Path | Source, folder: Path, count: int) -> dict[str, Any]:
    """Compare a float32 graph's answers in bfloat16 with PyTorch's in float32, on clean and on attacked pictures.

    Args:
        graph: The ONNX file, as the service runs it.
        checkpoint: The network that it was exported from.
        folder: Folder of real pictures, which may lie in subfolders. Pictures that the network was trained on are left
            out where the checkpoint tells which they are.
        count: How many pictures are compared.

    Returns:
        The JSON of BF16_KEY: "agreement" is the lowest of the shares in "outputs".

    Raises:
        OpenVinoError: OpenVINO is missing, or this machine's processor computes in another precision.
        PicturesError: The pictures cannot be read.
        CheckpointError, WeightsError: The checkpoint cannot be read.
    """
    require_openvino()
    source = checkpoint if isinstance(checkpoint, Source) else Source(checkpoint)
    network, info = load_network(source)
    pictures = read_pictures(source, folder, count)
    agreements = measure_agreement(
        _bf16_runner(graph, passes_of(network).output_names), network, pictures, info.epsilon or EPS
    )
    return {
        "agreement": min(agreement.lowest for agreement in agreements),
        "pictures": count,
        "outputs": json.loads(agreements_json(agreements)),
        "openvino": version("openvino"),
    }


def store_bf16_agreement(graph: Path, checkpoint: Source, folder: Path, count: int) -> str:
    """Measure a graph and write the result into its metadata.

    Args:
        graph: The ONNX file, which is replaced in one step.
        checkpoint: See measure_bf16.
        folder: See measure_bf16.
        count: See measure_bf16.

    Returns:
        One line about what was measured.

    Raises:
        OpenVinoError, PicturesError, CheckpointError, WeightsError: See measure_bf16.
    """
    found = measure_bf16(graph, checkpoint, folder, count)
    metadata = {**_metadata(graph), BF16_KEY: json.dumps(found)}
    with replacing(graph, checkpoint.path) as partial, writing(graph):
        partial.write_bytes(graph.read_bytes())
        annotate_onnx(partial, metadata)
    chosen = (
        "chooses it" if found["agreement"] >= MIN_AGREEMENT else f"needs {MIN_AGREEMENT:.1%}, and does not choose it"
    )
    return (
        f"bfloat16 on OpenVINO gives float32's answer for {found['agreement']:.2%} of {count} pictures at least; "
        f"SGN_ENGINE=auto {chosen}"
    )


def _bf16_runner(graph: Path, output_names: tuple[str, ...]) -> GraphRunner:
    """Compile a graph as the service does.

    Raises:
        OpenVinoError: This machine's processor computes in another precision.
    """
    compiled = compile_model(onnx.load(graph), {"INFERENCE_PRECISION_HINT": BF16})
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used not in (BF16, "bfloat16"):
        raise OpenVinoError(f"this machine's processor computes in {used}, not in {BF16}; leave --bf16-agreement out")

    def run(images: Tensor) -> dict[str, Tensor]:
        results = compiled([images.numpy()])
        return {name: torch.from_numpy(results[name].copy()) for name in output_names}

    return run


def _metadata(graph: Path) -> dict[str, str]:
    return {item.key: item.value for item in onnx.load(graph, load_external_data=False).metadata_props}
