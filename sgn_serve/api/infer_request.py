"""Read inference requests of the Open Inference Protocol: JSON, with binary tensors behind it or without.

Source: Triton's extension_binary_data.md and extension_classification.md.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgn_serve.api.json_body import MAX_VALUES, JsonError, count_values
from sgn_serve.api.number_lists import flatten, parse_with_arrays
from sgn_serve.api.served_models import ServedModel
from sgn_serve.common.error_text import is_utf8
from sgn_serve.common.graph_format import INPUT, PLAIN_LOGITS, SELF_GRADIENT
from sgn_serve.http.errors import RequestError
from sgn_serve.records import AUTO, SelfGradient

HEADER_LENGTH = "inference-header-content-length"
BLOCK_PARAMETER = "self_gradient"
"""Parameter of a request, and of an answer in auto mode: which pictures get the second pass."""
DATATYPES = {"FP32": "<f4", "FP16": "<f2", "FP64": "<f8", "UINT8": "u1"}
"""Datatypes of an input, and how NumPy names their bytes. The network itself takes FP32."""
_BYTE = "UINT8"
_BYTES_A_NUMBER = 32
"""Longest text of a number that a client would send."""
_LONGEST_ID = 1000
_OUT_OF_RANGE = "the input's numbers must lie from 0 to 1: divide pixels by 255, or send them as UINT8 from 0 to 255"


@dataclass(frozen=True)
class WantedOutput:
    """A request for one output.

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
        self_gradient: True for both passes, False where the plain logits alone are wanted, or AUTO.
    """

    images: NDArray[np.float32]
    outputs: dict[str, WantedOutput]
    id: str | None
    self_gradient: SelfGradient


def largest_body(model: ServedModel) -> int:
    """Return how many bytes a request for a model's most pictures may have."""
    return 4096 + _BYTES_A_NUMBER * model.max_pictures * model.numbers


def parse_request(body: bytes | bytearray, header_length: str | None, model: ServedModel) -> InferRequest:
    """Parse and check an inference request.

    Args:
        body: JSON, followed by the binary tensors if there are any.
        header_length: Length of the JSON in bytes, as the client's header says; None if all of it is JSON.
        model: The model that the request is for.

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
    allowed = MAX_VALUES + 2 * model.max_pictures * model.numbers  # each number may be a list of its own
    if values > allowed:
        raise _bad(f"the JSON has some {values} values, more than {allowed}")
    try:
        asked = parse_with_arrays(body[:length])
    except JsonError as error:
        raise _bad(f"the body is not JSON ({error})") from None
    if not isinstance(asked, dict):
        raise _bad("the body is not a JSON object")
    inputs = asked.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _bad(f"'inputs' must be a list of one tensor, {INPUT!r}")
    images = _parse_tensor(inputs[0], body[length:], model)
    name = asked.get("id")
    if name is not None and not (isinstance(name, str) and len(name) <= _LONGEST_ID and is_utf8(name)):
        raise _bad(f"'id' must be a string of {_LONGEST_ID} characters at most")
    outputs = _parse_outputs(asked, model)
    return InferRequest(images, outputs, name, _parse_self_gradient(asked.get("parameters"), outputs, model))


def _parse_tensor(tensor: dict[str, Any], binary: bytes | bytearray, model: ServedModel) -> NDArray[np.float32]:
    if tensor.get("name") != INPUT:
        raise _bad(f"the input must be named {INPUT!r}")
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise _bad(f"the input's 'datatype' must be one of: {', '.join(map(repr, DATATYPES))}")
    stored = np.dtype(DATATYPES[datatype])
    shape = tensor.get("shape")
    wanted = list(model.picture_shape)
    if (
        not isinstance(shape, list)
        or any(type(side) is not int for side in shape)  # 3.0 and true are numbers too
        or shape[1:] != wanted
        or not 1 <= shape[0] <= model.max_pictures
    ):
        raise _bad(
            f"the input's 'shape' must be [N, {', '.join(map(str, wanted))}] with N from 1 to {model.max_pictures}"
        )
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
        raise _bad(_OUT_OF_RANGE)
    return values.reshape(shape)


def _parse_numbers(data: Any, numbers: int) -> NDArray[np.float32]:
    """Return an array of flat or nested lists of numbers, or of one that is an array already.

    The types are looked at before NumPy is. It would make numbers with one long string among them an array of strings,
    each as long as the longest.
    """
    if isinstance(data, np.ndarray):
        values = data
    elif type(data) is not list:
        raise _bad("the input's 'data' must be a list of numbers")
    else:
        try:
            flat, _ = flatten(data)
            wide = np.fromiter(flat, np.float64, len(flat))
        except JsonError as error:
            raise _bad(f"the input's 'data' must be a list of numbers: {error}") from None
        except OverflowError:
            raise _bad(_OUT_OF_RANGE) from None
        with np.errstate(over="ignore"):
            values = wide.astype(np.float32)
    if len(values) != numbers:
        raise _bad(f"the input has {len(values)} numbers instead of {numbers}")
    return values


def _parse_outputs(asked: dict[str, Any], model: ServedModel) -> dict[str, WantedOutput]:
    names = model.outputs
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


def _parse_self_gradient(parameters: Any, outputs: Iterable[str], model: ServedModel) -> SelfGradient:
    """Return which passes a request needs: those of its outputs, or AUTO for its logits."""
    default = AUTO if model.auto else True
    asked = parameters.get(BLOCK_PARAMETER, default) if isinstance(parameters, dict) else default
    if asked is not True and not (isinstance(asked, str) and asked == AUTO):
        raise _bad(
            f"the parameter {BLOCK_PARAMETER!r} must be {AUTO!r} or true; "
            f"for the block off ask for {PLAIN_LOGITS!r} only"
        )
    wanted = set(outputs)
    if wanted <= {PLAIN_LOGITS}:
        return False
    if asked is True:
        return True
    if SELF_GRADIENT in wanted:
        raise _bad(f"the output {SELF_GRADIENT!r} needs the second pass: leave out the parameter {BLOCK_PARAMETER!r}")
    return AUTO


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


def _bad(message: str) -> RequestError:
    return RequestError("bad_tensor_request", message)
