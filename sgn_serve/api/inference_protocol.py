"""Routes of the Open Inference Protocol, version 2, with its binary tensor extension, for its existing clients.

Clients decode and resize the pictures themselves and send tensors. The names are those of the graph's input and
outputs. Tensors are numbers from 0 to 1 in three precisions, or bytes from 0 to 255. An output may be asked for as its
largest classes. Errors have the protocol's own form, {"error": "a sentence"}, which its clients read, with code and
request_id added.

Source: https://github.com/kserve/open-inference-protocol and Triton's extension_binary_data.md,
extension_classification.md and extension_model_configuration.md.
"""

import asyncio
import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sgn_serve.api.json_body import MAX_VALUES, JsonError, count_values, is_text, parse_beside, parse_json
from sgn_serve.graph_format import INPUT, LOGITS, PLAIN_LOGITS, SELF_GRADIENT
from sgn_serve.http.errors import NOT_READY, RequestError
from sgn_serve.http.paths import PROTOCOL_LIVE, PROTOCOL_READY
from sgn_serve.inference.classifier import Logits
from sgn_serve.inference.graph import Description
from sgn_serve.process.version import package_version
from sgn_serve.serving.predictor import Predictor, PredictorSlot

HEADER_LENGTH = "inference-header-content-length"
VERSION = "1"
DATATYPES = {"FP32": "<f4", "FP16": "<f2", "FP64": "<f8", "UINT8": "u1"}
"""Datatypes of an input, and how NumPy names their bytes. The network itself takes FP32."""
_BYTE = "UINT8"
_BYTES_A_NUMBER = 32
"""Longest text of a number that a client would send."""
_DEEPEST = 8
"""Lists within lists that a tensor's numbers may lie in."""
_LONGEST_ID = 1000


@dataclass(frozen=True)
class WantedOutput:
    """How an output is wanted.

    Attributes:
        binary: Whether in binary, behind the JSON.
        classes: Number of its largest values to return with their classes' names; None for all values as numbers.
    """

    binary: bool
    classes: int | None = None


@dataclass(frozen=True)
class InferRequest:
    """A parsed inference request.

    Attributes:
        images: RGB in [0, 1], (n, 3, H, W).
        outputs: Names of the wanted outputs, each with how it is wanted.
        id: Text to repeat in the answer, None for none.
    """

    images: NDArray[np.float32]
    outputs: dict[str, WantedOutput]
    id: str | None


class InferenceProtocol:
    """Endpoints of the protocol.

    Args:
        slot: Holds the predictor.
        ready: Returns whether this server should get requests.
    """

    def __init__(self, slot: PredictorSlot, ready: Callable[[], bool]):
        self._slot = slot
        self._is_ready = ready

    def routes(self) -> list[BaseRoute]:
        """Return the routes, each with and without the version in its path. There is one version."""
        routes: list[BaseRoute] = [
            Route("/v2", self.server),
            Route(PROTOCOL_LIVE, self.live),
            Route(PROTOCOL_READY, self.ready),
        ]
        for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            routes += [
                Route(f"{model}/infer", self.infer, methods=["POST"]),
                Route(f"{model}/ready", self.model_ready),
                Route(f"{model}/config", self.config),
                Route(model, self.model),
            ]
        return routes

    async def server(self, request: Request) -> Response:
        """Return the server's name, version and extensions."""
        return JSONResponse(
            {
                "name": "self-gradient-networks",
                "version": package_version(),
                "extensions": ["binary_tensor_data", "classification", "model_configuration"],
            }
        )

    async def live(self, request: Request) -> Response:
        """Answer, which tells that the process is alive."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Return whether this server should get requests."""
        self._check_ready()
        return JSONResponse({"ready": True})

    async def model(self, request: Request) -> Response:
        """Return the names and shapes of the graph's input and outputs."""
        predictor = self._find(request)
        description = predictor.description
        return JSONResponse(
            {
                "name": predictor.settings.model_name,
                "versions": [VERSION],
                "platform": "onnxruntime_onnx",
                "inputs": [_tensor(INPUT, [-1, 3, *description.image_size])],
                "outputs": [_tensor(name, _shape(name, description)) for name in output_names(description)],
            }
        )

    async def config(self, request: Request) -> Response:
        """Return the model's configuration as Triton would have it: shapes without the batch, and its largest size."""
        predictor = self._find(request)
        description = predictor.description
        return JSONResponse(
            {
                "name": predictor.settings.model_name,
                "platform": "onnxruntime_onnx",
                "backend": "onnxruntime",
                "max_batch_size": _most(predictor),
                "input": [_configured(INPUT, [3, *description.image_size])],
                "output": [_configured(name, _shape(name, description)[1:]) for name in output_names(description)],
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """Return whether the network answers."""
        name = self._find(request).settings.model_name
        self._check_ready()
        return JSONResponse({"name": name, "ready": True})

    async def infer(self, request: Request) -> Response:
        """Run the graph on pictures: in one pass if only the block-off logits are asked for, else in two."""
        predictor = self._find(request)
        predictor.check_room()
        body = await _read(request, predictor)
        while True:
            predictor = self._find(request)
            asked = await self._parse(body, request, predictor)
            if predictor is self._slot.predictor:  # else there was a reload while the body was read or parsed
                break
        block = not asked.outputs.keys() <= {PLAIN_LOGITS}
        logits = await predictor.run(asked.images, block, SELF_GRADIENT in asked.outputs)
        return _respond(asked, logits, predictor)

    async def _parse(self, body: bytearray, request: Request, predictor: Predictor) -> InferRequest:
        header_length = request.headers.get(HEADER_LENGTH)
        given = (body, header_length, predictor.description, _most(predictor))
        return await parse_beside(len(body), parse_request, *given)

    def _check_ready(self) -> None:
        if not self._is_ready():
            raise RequestError("not_ready", NOT_READY)

    def _find(self, request: Request) -> Predictor:
        predictor = self._slot.predictor
        name, version = request.path_params["name"], request.path_params.get("version", VERSION)
        served = predictor.settings.model_name
        if name != served or version != VERSION:
            raise RequestError(
                "unknown_model",
                f"there is no model {name[:100]!r} in version {version[:100]!r}; there is {served!r} in "
                f"version {VERSION!r}",
            )
        return predictor


def output_names(description: Description) -> list[str]:
    """Return the names of the outputs that can be asked for."""
    names = [LOGITS, PLAIN_LOGITS] if description.has_block else [PLAIN_LOGITS]
    return names + ([SELF_GRADIENT] if description.has_gradient else [])


def parse_request(
    body: bytes | bytearray, header_length: str | None, description: Description, most: int
) -> InferRequest:
    """Parse and check an inference request.

    Args:
        body: JSON, followed by the binary tensors if there are any.
        header_length: Length of the JSON in bytes, as the client's header says; None if all of it is JSON.
        description: The graph that the request is for.
        most: Most pictures of a request.

    Raises:
        RequestError: The request does not follow the protocol, or does not fit the graph.
    """
    length = len(body)
    if header_length is not None:
        number = header_length.isascii() and header_length.isdigit() and len(header_length) < 20
        length = int(header_length) if number else -1
        if not 0 <= length <= len(body):
            raise _bad(f"the header {HEADER_LENGTH} is {header_length[:40]!r}, but the body has {len(body)} bytes")
    values = count_values(body, length)
    allowed = MAX_VALUES + 2 * most * 3 * math.prod(description.image_size)  # each number may be a list of its own
    if values > allowed:
        raise _bad(f"the JSON has some {values} values, more than {allowed}")
    try:
        asked = parse_json(body[:length])
    except JsonError as error:
        raise _bad(f"the body is not JSON ({error})") from None
    if not isinstance(asked, dict):
        raise _bad("the body is not a JSON object")
    inputs = asked.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _bad(f"'inputs' must be a list of one tensor, {INPUT!r}")
    images = _parse_tensor(inputs[0], body[length:], description, most)
    name = asked.get("id")
    if name is not None and not (isinstance(name, str) and len(name) <= _LONGEST_ID and is_text(name)):
        raise _bad(f"'id' must be a string of {_LONGEST_ID} characters at most")
    return InferRequest(images, _parse_outputs(asked, description), name)


def _parse_tensor(
    tensor: dict[str, Any], binary: bytes | bytearray, description: Description, most: int
) -> NDArray[np.float32]:
    if tensor.get("name") != INPUT:
        raise _bad(f"the input must be named {INPUT!r}")
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise _bad(f"the input's 'datatype' must be one of: {', '.join(map(repr, DATATYPES))}")
    stored = np.dtype(DATATYPES[datatype])
    shape = tensor.get("shape")
    wanted = [3, *description.image_size]
    if (
        not isinstance(shape, list)
        or any(type(side) is not int for side in shape)  # 3.0 and true are numbers too
        or shape[1:] != wanted
        or not 1 <= shape[0] <= most
    ):
        raise _bad(f"the input's 'shape' must be [N, {', '.join(map(str, wanted))}] with N from 1 to {most}")
    parameters = tensor.get("parameters", {})
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    numbers = math.prod(shape)
    if size is not None:
        wanted_size = stored.itemsize * numbers
        if type(size) is not int or size != wanted_size or len(binary) != size or "data" in tensor:
            raise _bad(f"'binary_data_size' must be {wanted_size}, with as many bytes after the JSON and no 'data'")
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.frombuffer(binary, stored).astype(np.float32)
    else:
        if binary:
            raise _bad("there are bytes after the JSON, but no 'binary_data_size'")
        values = _parse_numbers(tensor.get("data"), numbers)
    if datatype == _BYTE:
        if not (values.min() >= 0 and values.max() <= 255 and np.array_equal(values, np.rint(values))):
            raise _bad("the input's bytes must be whole numbers from 0 to 255")
        values /= np.float32(255)
    elif not (values.min() >= 0 and values.max() <= 1):  # written so that NaN fails too
        raise _bad("the input's numbers must lie from 0 to 1")
    return values.reshape(shape)


def _parse_numbers(data: Any, numbers: int) -> NDArray[np.float32]:
    """Return flat or nested lists of numbers as an array.

    The types are looked at before NumPy is: of numbers with one long string among them it would make an array of
    strings, each as long as the longest.
    """
    if type(data) is not list:
        raise _bad("the input's 'data' must be a list of numbers")
    for _ in range(_DEEPEST):
        types = set(map(type, data))
        if types <= {int, float}:  # true is none
            break
        if types != {list}:
            raise _bad("the input's 'data' must be a list of numbers")
        if len(set(map(len, data))) != 1:
            raise _bad("the input's 'data' must be numbers, in one list or in lists of one length")
        data = list(chain.from_iterable(data))
    else:
        raise _bad("the input's 'data' must be a list of numbers")
    if len(data) != numbers:
        raise _bad(f"the input has {len(data)} numbers instead of {numbers}")
    try:
        values = np.fromiter(data, np.float64, numbers)
    except OverflowError:
        raise _bad("the input's numbers must lie from 0 to 1") from None
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _parse_outputs(asked: dict[str, Any], description: Description) -> dict[str, WantedOutput]:
    names = output_names(description)
    all_binary = _binary(asked.get("parameters"), "binary_data_output", False)
    outputs = asked.get("outputs")
    if outputs is None:
        return dict.fromkeys(names[:2], WantedOutput(all_binary))
    if not isinstance(outputs, list) or not outputs:
        raise _bad(f"'outputs' must be a list of some of: {', '.join(names)}; without it the logits are returned")
    wanted = {}
    for output in outputs:
        if not isinstance(output, dict) or output.get("name") not in names:
            raise _bad(f"the name of each of 'outputs' must be one of: {', '.join(names)}")
        parameters = output.get("parameters")
        binary = _binary(parameters, "binary_data", all_binary)
        wanted[output["name"]] = WantedOutput(binary, _classes(output["name"], parameters))
    return wanted


def _classes(name: str, parameters: Any) -> int | None:
    """Return for how many classes an output's parameters ask, None where they ask for numbers."""
    count = parameters.get("classification") if isinstance(parameters, dict) else None
    if count is None:
        return None
    if name == SELF_GRADIENT or type(count) is not int or count < 1:
        raise _bad(f"'classification' must be a number of classes, 1 or more, and not of {SELF_GRADIENT!r}")
    return count


def _binary(parameters: Any, name: str, default: bool) -> bool:
    if parameters is None:
        return default
    value = parameters.get(name, default) if isinstance(parameters, dict) else None
    if not isinstance(value, bool):
        raise _bad(f"'parameters' must be an object, and {name!r} in it true or false")
    return value


def _respond(asked: InferRequest, logits: Logits, predictor: Predictor) -> Response:
    values = {LOGITS: logits.corrected, PLAIN_LOGITS: logits.plain, SELF_GRADIENT: logits.gradient}
    outputs = []
    binary = b""
    for name, wanted in asked.outputs.items():
        array = values[name]
        assert array is not None, "it was asked for"
        if wanted.classes is None:
            output = _tensor(name, list(array.shape))
            raw = array.astype("<f4").tobytes() if wanted.binary else b""
            data: list[Any] = [] if wanted.binary else array.ravel().tolist()
        else:
            rows = _largest(array, wanted.classes, predictor.description.class_names)
            output = {"name": name, "datatype": "BYTES", "shape": [len(rows), len(rows[0])]}
            data = [text for row in rows for text in row]
            raw = b"".join(struct.pack("<I", len(text)) + text for text in map(str.encode, data))
        if wanted.binary:
            output["parameters"] = {"binary_data_size": len(raw)}
            binary += raw
        else:
            output["data"] = data
        outputs.append(output)
    answer: dict[str, Any] = {
        "model_name": predictor.settings.model_name,
        "model_version": VERSION,
        "outputs": outputs,
    }
    if asked.id is not None:
        answer["id"] = asked.id
    if not binary:
        return JSONResponse(answer)
    header = json.dumps(answer).encode()
    return Response(header + binary, media_type="application/octet-stream", headers={HEADER_LENGTH: str(len(header))})


def _largest(logits: NDArray[np.float32], count: int, class_names: Sequence[str]) -> list[list[str]]:
    """Return "value:index:name" of each row's largest logits, largest first, as many as there are at most."""
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    return [
        [f"{row[index]:f}:{index}:{class_names[index]}" for index in indices]
        for row, indices in zip(logits.tolist(), ranked.tolist(), strict=True)
    ]


async def _read(request: Request, predictor: Predictor) -> bytearray:
    """Read the body.

    Raises:
        RequestError: The body is larger than a request with the most pictures needs, or takes too long to arrive.
    """
    settings = predictor.settings
    numbers = _most(predictor) * 3 * math.prod(predictor.description.image_size)
    largest = 4096 + _BYTES_A_NUMBER * numbers
    body = bytearray()
    try:
        async with asyncio.timeout(settings.receive_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > largest:
                    raise RequestError(
                        "body_too_large",
                        f"the request body is larger than {largest} bytes, which hold {_most(predictor)} pictures",
                        {"connection": "close"},
                    )
    except TimeoutError:
        raise RequestError(
            "too_slow_request",
            f"the request's body took more than {settings.receive_seconds:g} s to arrive",
            {"connection": "close"},
        ) from None
    return body


def _most(predictor: Predictor) -> int:
    return predictor.settings.max_images


def _tensor(name: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": shape}


def _configured(name: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "data_type": "TYPE_FP32", "dims": shape}


def _shape(name: str, description: Description) -> list[int]:
    if name == SELF_GRADIENT:
        return [-1, 3, *description.image_size]
    return [-1, len(description.class_names)]


def _bad(message: str) -> RequestError:
    return RequestError("bad_tensor_request", message)
