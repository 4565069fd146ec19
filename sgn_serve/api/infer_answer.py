"""Write the answers to inference requests: JSON, with the tensors in it or in binary behind it."""

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from sgn_serve.api.infer_request import BLOCK_PARAMETER, HEADER_LENGTH, InferRequest
from sgn_serve.api.served_models import VERSION, ServedModel, tensor
from sgn_serve.common.graph_format import LOGITS, PLAIN_LOGITS, SELF_GRADIENT
from sgn_serve.inference.classifier import Logits
from sgn_serve.records import AUTO

_NUMBERS_AT_ONCE = 4096
"""Numbers that are written as JSON at once. No other thread runs meanwhile."""


def answer_numbers(asked: InferRequest, logits: Logits) -> int:
    """Return how many numbers an answer has."""
    return sum(array.size for array in _wanted(asked, logits).values())


def write_answer(asked: InferRequest, logits: Logits, model: ServedModel) -> Response:
    """Return the answer to an inference request."""
    outputs = []
    binary = b""
    for name, array in _wanted(asked, logits).items():
        wanted = asked.outputs[name]
        if wanted.classes is None:
            output = tensor(name, list(array.shape))
            raw = array.astype("<f4").tobytes() if wanted.binary else b""
            data = "" if wanted.binary else _write_numbers(array)
        else:
            rows = _largest(array, wanted.classes, model.class_names)
            output = {"name": name, "datatype": "BYTES", "shape": [len(rows), len(rows[0])]}
            texts = [text for row in rows for text in row]
            raw = b"".join(struct.pack("<I", len(text)) + text for text in map(str.encode, texts))
            data = _json(texts)
        if wanted.binary:
            output["parameters"] = {"binary_data_size": len(raw)}
            binary += raw
            outputs.append(_json(output))
        else:
            outputs.append(f'{_json(output)[:-1]},"data":{data}}}')
    told: dict[str, Any] = {"model_name": model.name, "model_version": VERSION}
    if asked.id is not None:
        told["id"] = asked.id
    if logits.second_pass is not None:
        # The protocol's parameters are texts, numbers and booleans, so that the one for each picture is a text.
        ran = ",".join("true" if value else "false" for value in logits.second_pass)
        told["parameters"] = {"mode": AUTO, BLOCK_PARAMETER: ran}
    header = f'{_json(told)[:-1]},"outputs":[{",".join(outputs)}]}}'.encode()
    if not binary:
        return Response(header, media_type="application/json")
    return Response(header + binary, media_type="application/octet-stream", headers={HEADER_LENGTH: str(len(header))})


def _wanted(asked: InferRequest, logits: Logits) -> dict[str, NDArray[np.float32]]:
    arrays = {LOGITS: logits.corrected, PLAIN_LOGITS: logits.plain, SELF_GRADIENT: logits.gradient}
    wanted = {}
    for name in asked.outputs:
        array = arrays[name]
        assert array is not None, "it was asked for"
        wanted[name] = array
    return wanted


def _write_numbers(array: NDArray[np.float32]) -> str:
    flat = array.ravel()
    parts = (flat[at : at + _NUMBERS_AT_ONCE].tolist() for at in range(0, flat.size, _NUMBERS_AT_ONCE))
    return f"[{','.join(_json(part)[1:-1] for part in parts)}]"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _largest(logits: NDArray[np.float32], count: int, class_names: Sequence[str]) -> list[list[str]]:
    """Return "value:index:name" of each row's largest logits, largest first, as many as there are at most."""
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    return [
        [f"{row[index]:f}:{index}:{class_names[index]}" for index in indices]
        for row, indices in zip(logits.tolist(), ranked.tolist(), strict=True)
    ]
