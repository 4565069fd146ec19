"""Describe the served network as the models that the Open Inference Protocol knows: one network under two names.

One name has all of the network's outputs. Clients that classify pictures expect a model with a single output, as
Triton's image_client does, or send random bytes, as its perf_analyzer does. For them the second name has one output,
and bytes as its input.

Source: Triton's extension_model_configuration.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sgn_serve.common.graph_format import INPUT, LOGITS, PLAIN_LOGITS, SELF_GRADIENT
from sgn_serve.inference.graph import Description
from sgn_serve.records import AUTO, EngineUsed
from sgn_serve.settings import Settings

VERSION = "1"
SUFFIX = "-image"
"""End of the second name."""
BACKENDS = {"ONNX Runtime": ("onnxruntime_onnx", "onnxruntime"), "OpenVINO": ("openvino", "openvino")}
"""Platform and backend by the engine's name in the model card, in Triton's words."""


@dataclass(frozen=True)
class ServedModel:
    """One name of the network, and what clients are told of it.

    Attributes:
        name: The name.
        datatype: Datatype of the input that clients are told. Others are taken too.
        outputs: Names of the outputs that can be asked for.
        image_size: (height, width) of the input in pixels.
        class_names: The classes, in the order of the logits.
        max_pictures: Most pictures of a request.
        auto: Whether the logits are those of self_gradient=auto where a request does not say.
        engine: Engine that the network runs on: a key of BACKENDS.
    """

    name: str
    datatype: str
    outputs: tuple[str, ...]
    image_size: tuple[int, int]
    class_names: Sequence[str]
    max_pictures: int
    auto: bool = False
    engine: str = "ONNX Runtime"

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """Return the shape of one picture: channels, height and width."""
        return (3, *self.image_size)

    @property
    def numbers(self) -> int:
        """Return how many numbers one picture has."""
        return math.prod(self.picture_shape)

    def metadata(self) -> dict[str, Any]:
        """Return the names and shapes of the input and the outputs."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": BACKENDS[self.engine][0],
            "inputs": [tensor(INPUT, [-1, *self.picture_shape], self.datatype)],
            "outputs": [tensor(name, [-1, *self._shape(name)]) for name in self.outputs],
        }

    def config(self) -> dict[str, Any]:
        """Return the configuration as Triton would have it: shapes without the batch, and its largest size."""
        given = {
            "name": INPUT,
            "data_type": f"TYPE_{self.datatype}",
            "format": "FORMAT_NCHW",
            "dims": list(self.picture_shape),
        }
        platform, backend = BACKENDS[self.engine]
        return {
            "name": self.name,
            "platform": platform,
            "backend": backend,
            "max_batch_size": self.max_pictures,
            "dynamic_batching": {},
            "input": [given],
            "output": [
                {"name": name, "data_type": "TYPE_FP32", "dims": list(self._shape(name))} for name in self.outputs
            ],
        }

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.picture_shape if name == SELF_GRADIENT else (len(self.class_names),)


def served_models(
    settings: Settings, description: Description, engine: EngineUsed | None = None
) -> tuple[ServedModel, ServedModel]:
    """Return both names of a network.

    Args:
        settings: The service's settings.
        description: The served graph.
        engine: Engine that the network runs on, as the model card has it. Without it, ONNX Runtime.
    """
    block = settings.self_gradient is not False and description.has_block
    names = {
        settings.model_name: ("FP32", output_names(description)),
        f"{settings.model_name}{SUFFIX}": ("UINT8", (LOGITS if block else PLAIN_LOGITS,)),
    }
    first, second = (
        ServedModel(name, datatype, outputs, description.image_size, description.class_names, settings.max_images)
        for name, (datatype, outputs) in names.items()
    )
    name = ServedModel.engine if engine is None else engine.name
    return replace(first, engine=name), replace(second, engine=name, auto=block and settings.self_gradient == AUTO)


def output_names(description: Description) -> tuple[str, ...]:
    """Return the names of a graph's outputs that can be asked for."""
    names = (LOGITS, PLAIN_LOGITS) if description.has_block else (PLAIN_LOGITS,)
    return names + ((SELF_GRADIENT,) if description.has_gradient else ())


def tensor(name: str, shape: list[int], datatype: str = "FP32") -> dict[str, Any]:
    """Describe a tensor as the protocol does."""
    return {"name": name, "datatype": datatype, "shape": shape}
