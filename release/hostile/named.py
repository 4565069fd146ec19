"""Measure hostile inputs by name, on one server and on another: each once cost a server of this project too much."""

import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from release.hostile.client import Request, many_pictures, one_picture
from release.hostile.seeds import bmp, gif, png, tiff
from release.hostile.session import MANY, Session
from release.hostile.structures import png_chunk

INFER = "/v2/models/self-gradient-network/infer"


@dataclass(frozen=True)
class Named:
    """A hostile input.

    Attributes:
        name: Name of the input.
        make: Makes it.
        path: The route of a tensor. Empty for a picture.
    """

    name: str
    make: Callable[[], bytes]
    path: str = ""

    def alone(self) -> Request:
        """Return the request that sends it once."""
        data = self.make()
        return Request(self.path, "application/json", data) if self.path else one_picture(data)

    def sixteen(self) -> Request:
        """Return the request that sends a picture sixteen times."""
        return many_pictures([self.make()] * MANY)


def _text(keyword: bytes, size: int) -> bytes:
    """Return a chunk of text. Its last letter makes Python keep four bytes for every letter."""
    return png_chunk(b"iTXt", keyword + b"\0\1\0\0\0" + zlib.compress(b"a" * size + "\U0001f600".encode(), 9))


def _texts() -> bytes:
    return png((32, 32), 8, 2, b"".join(_text(b"k%03d" % number, 1_000_000) for number in range(63)))


def _tensor_with_a_string(numbers: int, length: int) -> bytes:
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [1] * numbers + ["x" * length]}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()


def _tall_tiff() -> bytes:
    strip = zlib.compress(bytes(25_000_000), 9)
    size = {256: 1, 257: 25_000_000, 278: 25_000_000}
    return tiff(strip, size | {258: 8, 259: 8, 262: 1, 273: 8, 277: 1, 279: len(strip)})


NAMED = (
    Named("GIF, screen of 20,000 x 20,000 that is disposed of", lambda: gif((20_000, 20_000), [(20_000, 20_000, 2)])),
    Named("GIF, screen of 65,535 x 65,535 that is disposed of", lambda: gif((65_535, 65_535), [(65_535, 65_535, 2)])),
    Named("PNG, grey, 1 x 25,000,000", lambda: png((1, 25_000_000), 8, 0)),
    Named("PNG, grey, 1 x 900,000", lambda: png((1, 900_000), 8, 0)),
    Named("PNG, grey, 25,000,000 x 1", lambda: png((25_000_000, 1), 8, 0)),
    Named("PNG, RGBA, 5000 x 5000, interlaced", lambda: png((5000, 5000), 8, 6, interlaced=True)),
    Named("PNG, 63 texts of 1 MB", _texts),
    Named("PNG, 1.5 MB of XMP", lambda: png((32, 32), 8, 2, _text(b"XML:com.adobe.xmp", 1_500_000))),
    Named("BMP, run-length, 25,000,000 x 1", lambda: bmp((25_000_000, 1), 8, 1, b"\0\2\0\xff" * 20)),
    Named("BMP, run-length, 620 KB of single pixels", lambda: bmp((5000, 5000), 8, 1, b"\1\7" * 310_000)),
    Named("TIFF, 1 x 25,000,000 in one strip", _tall_tiff),
    Named("Tensor, 64 KB with one string of 40,000 letters", lambda: _tensor_with_a_string(12_000, 40_000), INFER),
    Named("Tensor, 1.5 MB with one string", lambda: _tensor_with_a_string(12_000, 1_500_000), INFER),
)


def measure(session: Session, named: Named) -> dict[str, Any]:
    """Return what a hostile input costs a server alone, sixteen in one request, and in sixteen requests.

    An input that takes the server more memory than it may is not sent sixteen times.
    """
    request = named.alone()
    row: dict[str, Any] = {"bytes": len(named.make())}
    trials = {"alone": [request]}
    if not named.path:
        trials["sixteen in one request"] = [named.sixteen()]
    trials["sixteen requests"] = [request] * MANY
    for name, requests in trials.items():
        cost, _ = session.cost(requests, insist=False)
        row[name] = asdict(cost)
        if cost.killed or without_answer(row):
            break
    return row


def without_answer(row: dict[str, Any]) -> bool:
    """Return whether a request of a row that measure made was never answered."""
    return any("0" in cost["statuses"] for cost in row.values() if isinstance(cost, dict))
