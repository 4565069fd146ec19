"""The requests that carry pictures: multipart forms with one or several files and, if wanted, how to answer them."""

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
SELF_GRADIENT = "self_gradient"
TOP_K = "top_k"
MAX_TOP_K = 1000

_SPOOLED_BYTES = 64 * 1024
"""The largest file that waits in memory, where a form cannot hold too many of them."""
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii")
"""Of a form's names and texts. Starlette asks Python for whatever a client names, and Python keeps every name that it
was ever asked for."""

Option = TypeVar("Option")


@dataclass(frozen=True)
class PictureForm:
    """files:      the picture files, open, in the order that they were sent in
    self_gradient: the flag, None where the request does not say
    top_k:         classes to list, None where the request does not say
    """

    files: tuple[IO[bytes], ...]
    self_gradient: bool | None = None
    top_k: int | None = None


@asynccontextmanager
async def read_form(
    request: Request, settings: Settings, field: str = IMAGE, options: tuple[str, ...] = (SELF_GRADIENT, TOP_K)
) -> AsyncIterator[PictureForm]:
    """Reads and checks everything of a request but the pictures' content; the files are closed when the block ends.

    field:   the files' field: IMAGE for one, IMAGES for several
    options: the other fields that are known, which may be query parameters too

    raises RequestError for a request that is not as it should be, or comes too slowly
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
    max_files = most_files + 4  # several more than allowed, so that the answer can name the field that is too much
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
    # By the function that Starlette reads it with: what another one made of it may not be what is looked up.
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
                f"the body is {media_type[:100] or 'of no stated type'}, not a multipart/form-data form",
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
        if not value.size and field == IMAGE:  # one of several is answered as no picture, on its own
            raise RequestError("empty_file", f"the file in the field {field!r} is empty")
        files.append(value.file)
    return tuple(files)


def _read_flag(form: FormData, request: Request) -> bool | None:
    def parse(text: str) -> bool:
        try:
            return parse_flag(text)
        except ValueError as error:
            raise RequestError("bad_flag", f"{SELF_GRADIENT}={text!r}: {error}") from None

    return _read_option(form, request, SELF_GRADIENT, "bad_flag", parse)


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
    """What the field of that name says, or else the query parameter, both looked at; None where neither is there."""
    chosen = None
    for values in (request.query_params.getlist(name), form.getlist(name)):
        if len(values) > 1:
            raise RequestError(code, f"{name!r} is given {len(values)} times")
        for value in values:
            if not isinstance(value, str):
                raise RequestError(code, f"the field {name!r} is a file, not text")
            chosen = parse(value)
    return chosen
