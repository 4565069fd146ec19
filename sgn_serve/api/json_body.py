"""Parse JSON that a client sent: strictly, and without what Python's parser adds to JSON."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

from sgn_serve.common.error_text import one_line

ON_LOOP_BYTES = 4 * 1024
"""A larger body is parsed in a thread: the event loop has others to answer."""

MAX_VALUES = 10_000
"""Values that a request's JSON may have besides a tensor's numbers. Each takes up to a hundred bytes of memory, however
short its text is."""

# One thread, because a body as Python's lists takes twenty times its memory: one large body at a time.
_THREAD = ThreadPoolExecutor(1, thread_name_prefix="parse")

Result = TypeVar("Result")


class JsonError(ValueError):
    """A text that is no JSON, or that says a thing twice. The message is for the client, in a few words."""


def parse_json(text: bytes | bytearray, replace: Callable[[Any], Any] | None = None) -> Any:
    """Parse JSON.

    Args:
        text: UTF-8, with a byte order mark or without.
        replace: Returns what to put in an object in the place of each of its values.

    Returns:
        The content, as Python's own types. Numbers are finite but for those too large for a float.

    Raises:
        JsonError: It is no UTF-8 or no JSON (RFC 8259), has NaN or Infinity, or a key twice. Or it has a whole number
            of more than 4300 digits, or lists in lists deeper than Python's stack.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Return an object: where a key comes twice, two readers may each believe another value."""
        found = dict(pairs) if replace is None else {name: replace(value) for name, value in pairs}
        if len(found) != len(pairs):
            raise JsonError("an object has a key twice")
        return found

    try:
        return json.loads(text.decode("utf-8-sig"), object_pairs_hook=once, parse_constant=_refuse_constant)
    except JsonError:
        raise
    except json.JSONDecodeError as error:
        raise JsonError(one_line(error)[:100]) from None
    except UnicodeDecodeError:
        raise JsonError("it is not UTF-8") from None
    except ValueError:  # Python's limit of digits
        raise JsonError("a number has too many digits") from None
    except RecursionError:
        raise JsonError("it is nested too deeply") from None


def count_values(text: bytes | bytearray, length: int) -> int:
    """Return about how many values a JSON text has in its first bytes, without parsing it."""
    return sum(text.count(mark, 0, length) for mark in (b",", b"[", b"{"))


async def parse_beside(size: int, parse: Callable[..., Result], *arguments: Any) -> Result:
    """Return parse(*arguments): called in a thread, where the body that it parses has more than ON_LOOP_BYTES.

    Args:
        size: Bytes of the body.
        parse: The function.
        arguments: Its arguments.
    """
    if size <= ON_LOOP_BYTES:
        return parse(*arguments)
    return await asyncio.get_running_loop().run_in_executor(_THREAD, parse, *arguments)


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is no number in JSON")
