"""Parse JSON with long lists of numbers, a part at a time.

Python's JSON parser lets no other thread run before it has come to the end of its text. In 9.6 MB of JSON that lasted
for 2.5 s where each number was a list of its own. It lasted for 0.2 s where none was. So a long list is cut out of the
text, parsed in short parts, and made an array: each part takes a millisecond or so.
"""

import secrets
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgn_serve.api.json_body import MAX_VALUES, JsonError, parse_json

LONG_BYTES = 64 * 1024
"""A list of numbers with a longer text is parsed in parts."""
PART_BYTES = 32 * 1024
DEEPEST = 8
"""Lists within lists that numbers may lie in."""

_MAX_QUOTES = 4 * MAX_VALUES
_MIXED = f"a list of more than {LONG_BYTES} bytes holds something else than numbers, or lists of one length"
_COMMA, _OPEN, _CLOSE = b",[]"


def parse_with_arrays(text: bytes | bytearray) -> Any:
    """Parse JSON whose long lists may hold numbers alone.

    Args:
        text: See parse_json.

    Returns:
        The result of parse_json, but for the long lists in an object's values, which are float32 arrays of one
        dimension. Numbers that are too large for one are infinite.

    Raises:
        JsonError: See parse_json; or a long list holds something else than numbers, or than lists of one length.
    """
    if len(text) <= LONG_BYTES:
        return parse_json(text)
    if text.count(b'"') > _MAX_QUOTES:
        raise JsonError(f"it has more than {_MAX_QUOTES} quotation marks")
    arrays: dict[str, NDArray[np.float32]] = {}
    kept: list[bytes | bytearray] = []
    end = 0
    for first, last in _long_lists(text):
        values, _ = _parse_list(memoryview(text)[first : last + 1], DEEPEST)
        name = secrets.token_hex(16)  # no client can know it, and send it as a string
        arrays[name] = values
        kept += [text[end:first], f'"{name}"'.encode()]
        end = last + 1
    kept.append(text[end:])

    def put_in(value: Any) -> Any:
        return arrays.get(value, value) if isinstance(value, str) else value

    return parse_json(b"".join(kept), put_in)


def flatten(values: list[Any]) -> tuple[list[int | float], tuple[int, ...]]:
    """Return the numbers of nested lists in one list, and the lengths of the lists from the outermost to the innermost.

    Raises:
        JsonError: There is something else than numbers among them, or lists of different lengths side by side.
    """
    lengths: tuple[int, ...] = ()
    for _ in range(DEEPEST):
        types = set(map(type, values))
        if types <= {int, float}:  # bool is a subclass of int, but not a number here
            return values, lengths
        if types != {list}:
            raise JsonError("a list holds something else than numbers")
        inner = set(map(len, values))
        if len(inner) != 1:
            raise JsonError("lists of different lengths lie side by side")
        lengths += tuple(inner)
        values = list(chain.from_iterable(values))
    raise JsonError(f"a list of numbers lies in more than {DEEPEST} lists")


def _long_lists(text: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Yield where each long list begins and where it ends, for the text outside of strings."""
    at = 0
    while at < len(text):
        quote = text.find(b'"', at)
        end = len(text) if quote < 0 else quote
        if end - at > LONG_BYTES:
            first = text.find(b"[", at, end)
            if first >= 0 and end - first > LONG_BYTES:
                last = first + _length(memoryview(text)[first:end]) - 1
                if last < first or end - last > LONG_BYTES:
                    raise JsonError(_MIXED)
                yield first, last
        at = _after_string(text, end) if quote >= 0 else len(text)


def _after_string(text: bytes | bytearray, quote: int) -> int:
    """Return where the text goes on after a string that begins with a quotation mark."""
    begin = quote + 1
    while True:
        end = text.find(b'"', begin)
        if end < 0:
            return len(text)
        before = text[begin:end]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            return end + 1
        begin = end + 1


def _depths(text: memoryview) -> NDArray[np.int8]:
    """Return in how many lists each byte lies. A number over 127 is wrong: such a text is refused when it is parsed."""
    characters = np.frombuffer(text, np.uint8)
    steps = (characters == _OPEN).view(np.int8) - (characters == _CLOSE).view(np.int8)
    return np.cumsum(steps, dtype=np.int8)


def _length(text: memoryview) -> int:
    """Return how many bytes the list takes that a text begins with, 0 where it has no end."""
    closed = _depths(text) == 0
    last = int(closed.argmax())
    return last + 1 if closed[last] else 0


def _parse_list(text: memoryview, deepest: int) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """Return the numbers of a list, and the lengths of the lists in it, from the outermost to the innermost."""
    if not deepest:
        raise JsonError(f"a list of numbers lies in more than {DEEPEST} lists")
    inner = text[1:-1]
    parts = []
    shapes = set()
    elements = 0
    for part in _split(inner):
        if len(part) <= LONG_BYTES:
            values, count, shape = _parse_part(part)
        else:
            one = bytes(part).strip(b" \t\r\n")
            if not (one.startswith(b"[") and one.endswith(b"]")) or _length(memoryview(one)) != len(one):
                raise JsonError(_MIXED)
            values, lengths = _parse_list(memoryview(one), deepest - 1)
            count, shape = 1, lengths
        parts.append(values)
        shapes.add(shape)
        elements += count
    if len(shapes) != 1:
        raise JsonError(_MIXED)
    return np.concatenate(parts), (elements, *shapes.pop())


def _split(text: memoryview) -> Iterator[memoryview]:
    """Yield a list's elements, some PART_BYTES of them together, or one of them where it is longer."""
    characters = np.frombuffer(text, np.uint8)
    commas = (characters == _COMMA) & (_depths(text) == 0)
    begin = 0
    while True:
        if len(text) - begin <= PART_BYTES:
            yield text[begin:]
            return
        near = commas[begin : begin + PART_BYTES]
        cut = len(near) - 1 - int(near[::-1].argmax())
        if not near[cut]:
            after = commas[begin:]
            cut = int(after.argmax())
            if not after[cut]:
                yield text[begin:]
                return
        yield text[begin : begin + cut]
        begin += cut + 1


def _parse_part(text: memoryview) -> tuple[NDArray[np.float32], int, tuple[int, ...]]:
    """Return the numbers of some elements, how many elements they are, and the lengths of the lists in one of them."""
    try:
        elements = parse_json(b"".join((b"[", text, b"]")))
    except JsonError as error:
        raise JsonError(f"in a long list: {str(error).split(':')[0]}") from None
    if not elements:
        raise JsonError("in a long list: a value is missing")
    numbers, shape = flatten(elements)
    try:
        values = np.fromiter(numbers, np.float64, len(numbers))
    except OverflowError:
        raise JsonError("a number in a long list is too large") from None
    with np.errstate(over="ignore"):
        return values.astype(np.float32), len(elements), shape
