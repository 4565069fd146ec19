"""Read requests that carry pictures: multipart forms with one or several files, and options for the answer."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from sgn_serve.http.body_limits import IN_MEMORY_BYTES
from sgn_serve.http.errors import RequestError
from sgn_serve.settings import Settings, parse_flag

logger = logging.getLogger("bentoml.sgn_serve")

IMAGE = "image"
IMAGES = "images"
SELF_GRADIENT_FIELD = "self_gradient"
"""Field, or query parameter, that switches the block on or off."""
TOP_K = "top_k"
MAX_TOP_K = 1000

_SPOOLED_BYTES = 64 * 1024
"""Largest file that is kept in memory, if the form may hold only few files. Larger ones are kept on disk."""
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii")
"""Charsets that a form may name. Python caches each look-up of a codec for ever, so a name that a client chooses would
leak memory."""

Option = TypeVar("Option")


@dataclass(frozen=True)
class PictureForm:
    """A form with pictures, read and checked.

    Attributes:
        files: The picture files, open, in the order in which they were sent.
        self_gradient: Whether the block should be on, None if the request does not say.
        top_k: Number of classes to list, None if the request does not say.
    """

    files: tuple[IO[bytes], ...]
    self_gradient: bool | None = None
    top_k: int | None = None


@asynccontextmanager
async def read_form(
    request: Request, settings: Settings, field: str = IMAGE, options: tuple[str, ...] = (SELF_GRADIENT_FIELD, TOP_K)
) -> AsyncIterator[PictureForm]:
    """Read and check a form, all but the content of its pictures. Leaving the `async with` block closes the files.

    Args:
        request: The request. Its body has not been read yet.
        settings: The service's settings.
        field: Field of the files: IMAGE for one, IMAGES for several.
        options: Other fields that may occur. They may be query parameters instead.

    Raises:
        RequestError: The request is not such a form, or its body takes too long to arrive.
    """
    most = 1 if field == IMAGE else settings.max_images
    try:
        async with asyncio.timeout(settings.receive_seconds):
            await _check_media_type(request)
            form = await _parse(request, most)
    except TimeoutError:
        raise RequestError(
            "too_slow_request",
            f"the request's body took more than {settings.receive_seconds:g} s to arrive",
            {"connection": "close"},
        ) from None
    try:
        _check_names(form, request, field, options)
        yield PictureForm(_files(form, field, most), _read_flag(form, request), _read_top_k(form, request))
    finally:
        for _, value in form.multi_items():
            if isinstance(value, UploadFile):
                value.file.close()


async def _parse(request: Request, most_files: int) -> FormData:
    _check_charset(request)
    max_files = most_files + 4  # some more than allowed, so that the error can name the field with too many files
    parser = MultiPartParser(request.headers, request.stream(), max_files=max_files, max_fields=8, max_part_size=1024)
    parser.spool_max_size = min(_SPOOLED_BYTES, IN_MEMORY_BYTES // max_files)
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise RequestError("bad_form", f"the multipart form cannot be read: {error.message}") from None
    except OSError as error:  # the disk is full, or too many files are open
        logger.error("no room for a form's files: %s", error)
        raise RequestError(
            "overloaded",
            "there is no room for the form's files; try again in 1 s",
            {"retry-after": "1", "connection": "close"},
        ) from None


def _check_charset(request: Request) -> None:
    # Parse it with Starlette's function: another one might find a different name than the one that is looked up.
    _, parameters = parse_options_header(request.headers["content-type"])
    charset = parameters.get(b"charset", _CHARSETS[0])
    if charset.lower() not in _CHARSETS:
        raise RequestError("bad_form", f"the form's charset is {charset.decode('latin-1')[:40]!r}: send it as UTF-8")


async def _check_media_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return
    async for chunk in request.stream():
        if chunk:
            raise RequestError(
                "wrong_content_type",
                f"the body is {media_type[:100] or 'of no stated type'}; send a multipart/form-data form",
            )
    raise RequestError("empty_body", "the request has no body: send the picture as a form's file")


def _check_names(form: FormData, request: Request, field: str, options: tuple[str, ...]) -> None:
    known = (field, *options)
    unknown = [name for name in form if name not in known]
    if unknown:
        raise RequestError(
            "unknown_field", f"the form has the field {unknown[0]!r}; its fields are: {', '.join(known)}"
        )
    unknown = [name for name in request.query_params if name not in options]
    if unknown:
        allowed = f"the query parameters are: {', '.join(options)}" if options else "there are no query parameters here"
        raise RequestError("unknown_parameter", f"{allowed}; not {unknown[0]!r}")


def _files(form: FormData, field: str, most: int) -> tuple[IO[bytes], ...]:
    values = form.getlist(field)
    if not values:
        raise RequestError("no_image", f"the form has no field {field!r}")
    if len(values) > most:
        raise RequestError(
            "too_many_images", f"the form has {len(values)} or more fields {field!r}: send {most} at most"
        )
    files = []
    for value in values:
        if not isinstance(value, UploadFile):
            raise RequestError("not_a_file", f"the field {field!r} is text, not a file; with curl: -F {field}=@x.png")
        if not value.size and field == IMAGE:  # an empty file among several is refused on its own, as not a picture
            raise RequestError("empty_file", f"the file in the field {field!r} is empty")
        files.append(value.file)
    return tuple(files)


def _read_flag(form: FormData, request: Request) -> bool | None:
    def parse(text: str) -> bool:
        try:
            return parse_flag(text)
        except ValueError as error:
            raise RequestError("bad_flag", f"{SELF_GRADIENT_FIELD}={text!r}: {error}") from None

    return _read_option(form, request, SELF_GRADIENT_FIELD, "bad_flag", parse)


def _read_top_k(form: FormData, request: Request) -> int | None:
    def parse(text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_TOP_K)) else 0
        if not 1 <= number <= MAX_TOP_K:
            raise RequestError("bad_top_k", f"{TOP_K}={text!r}: expected a whole number from 1 to {MAX_TOP_K}")
        return number

    return _read_option(form, request, TOP_K, "bad_top_k", parse)


def _read_option(
    form: FormData, request: Request, name: str, code: str, parse: Callable[[str], Option]
) -> Option | None:
    """Return the parsed field of that name, else the parsed query parameter, else None. Both are checked."""
    chosen = None
    for values in (request.query_params.getlist(name), form.getlist(name)):
        if len(values) > 1:
            raise RequestError(code, f"{name!r} is given {len(values)} times")
        for value in values:
            if not isinstance(value, str):
                raise RequestError(code, f"the field {name!r} is a file, not text")
            chosen = parse(value)
    return chosen
