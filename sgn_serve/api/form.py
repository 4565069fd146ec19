"""Read requests that carry pictures, and options for the answer.

They are multipart forms with one or several files, a picture as the whole body, or JSON with pictures as base64.
"""

import base64
import binascii
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO, Any, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from sgn_serve.api.json_body import MAX_VALUES, JsonError, count_values, parse_beside, parse_json
from sgn_serve.api.whole_form import first_line, read_whole_form
from sgn_serve.http.body_limits import IN_MEMORY_BYTES, is_json, limit_time, media_type
from sgn_serve.http.errors import RequestError
from sgn_serve.http.paths import CLASSIFY, CLASSIFY_BATCH
from sgn_serve.records import MAX_TOP_K, SelfGradient
from sgn_serve.setting_types import parse_self_gradient
from sgn_serve.settings import Settings
from sgn_serve.telemetry.ledger import current_ledger

logger = logging.getLogger("bentoml.sgn_serve")

IMAGE = "image"
IMAGES = "images"
SELF_GRADIENT_FIELD = "self_gradient"
"""Field, or query parameter, that switches the block on or off, or leaves it to the picture."""
TOP_K = "top_k"
_OTHER_FIELD = {
    IMAGES: f"send one picture as {IMAGE!r}, or several as {IMAGES!r} to {CLASSIFY_BATCH}",
    IMAGE: f"send the pictures as {IMAGES!r}, or one as {IMAGE!r} to {CLASSIFY}",
}
"""Fix for a field of pictures that another path takes."""

_SPOOLED_BYTES = 64 * 1024
"""Largest file that is kept in memory, if the form may hold only few files. Larger ones are kept on disk."""
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii")
"""Charsets that a form may name. Python caches each look-up of a codec for ever, so a name that a client chooses would
leak memory."""
_BARE = ("", "application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded")
"""Media types, besides image/..., of a body that is a picture itself. curl --data-binary sends the last one."""
_BAD_FORM = (
    "it does not begin with the boundary that its Content-Type names, a part's headers are too long, or it is damaged"
)
_TEXT_HEAD = 1024
"""Bytes of a file without a name that are looked at: is it a text, sent where a file was meant?"""
_DATA_URL = re.compile(r"data:[a-zA-Z0-9.+/-]{0,100}(;[a-zA-Z0-9.+=_-]{1,100}){0,5};base64,")

Option = TypeVar("Option")


@dataclass(frozen=True)
class PictureForm:
    """A form with pictures, read and checked.

    Attributes:
        files: The picture files, open, in the order in which they were sent.
        self_gradient: Whether the block should be on, or AUTO. None if the request does not say.
        top_k: Number of classes to list, None if the request does not say.
    """

    files: tuple[IO[bytes], ...]
    self_gradient: SelfGradient | None = None
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
    ledger = current_ledger()
    with ledger.parsing():
        async with limit_time(settings.receive_seconds):
            form = await _read(request, field, most)
    try:
        with ledger.parsing():
            _check_names(form, request, field, options)
            read = PictureForm(_files(form, field, most), _read_flag(form, request), _read_top_k(form, request))
        yield read
    finally:
        for _, value in form.multi_items():
            if isinstance(value, UploadFile):
                value.file.close()


async def _read(request: Request, field: str, most: int) -> FormData:
    """Return any of the three kinds of body as a form."""
    content_type = request.headers.get("content-type", "")
    kind = media_type(content_type)
    try:
        if kind == "multipart/form-data":
            return await _parse(request, field, most)
        if is_json(content_type):
            return await _read_json(request, field, most)
        return await _read_bare(request, field, kind)
    except OSError as error:  # the disk is full, or too many files are open
        logger.error("no room for a form's files: %s", error)
        raise RequestError(
            "overloaded",
            "there is no room for the form's files; try again in 1 s",
            {"retry-after": "1", "connection": "close"},
        ) from None


class _PictureParser(MultiPartParser):
    """Take every part of the pictures' field for a file, whether it has a file name or not.

    Clients leave it out where they send bytes from memory, or send `filename*` alone, which RFC 7578 forbids and
    Starlette does not read.
    """

    field = IMAGE
    begun = ended = False
    wrong = ""
    """Name of a part with pictures that does not belong here."""

    def on_part_begin(self) -> None:
        """Take the beginning of a part."""
        self.begun = True
        super().on_part_begin()

    def on_end(self) -> None:
        """Take the last boundary."""
        self.ended = True
        super().on_end()

    def on_headers_finished(self) -> None:
        """Take the end of a part's head."""
        disposition = self._current_part.content_disposition
        _, options = parse_options_header(disposition)
        name = options.get(b"name", b"").decode("latin-1")
        if name in _OTHER_FIELD and name != self.field:
            self.wrong = name
            raise MultiPartException("wrong field")
        if disposition and options.get(b"name") == self.field.encode() and b"filename" not in options:
            self._current_part.content_disposition = disposition + b'; filename=""'
        super().on_headers_finished()


async def _parse(request: Request, field: str, most_files: int) -> FormData:
    first = first_line(request.headers["content-type"])
    if first is None:
        return await _parse_parts(request, request.stream(), field, most_files)
    stream = request.stream()
    read = bytearray()
    async for chunk in stream:
        read += chunk
        if len(read) > _SPOOLED_BYTES or not read.startswith(first[: len(read)]):
            break
    else:
        form = read_whole_form(first, bytes(read), field)
        if form is not None:
            return form
    return await _parse_parts(request, _after(bytes(read), stream), field, most_files)


async def _after(read: bytes, stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield what was read of a stream already, and then the rest of it."""
    yield read
    async for chunk in stream:
        yield chunk


async def _parse_parts(request: Request, stream: AsyncGenerator[bytes, None], field: str, most_files: int) -> FormData:
    """Parse a multipart form of any shape."""
    _check_charset(request)
    max_files = most_files + 4  # some more than allowed, so that the error can name the field with too many files
    parser = _PictureParser(request.headers, stream, max_files=max_files, max_fields=8, max_part_size=1024)
    parser.field = field
    parser.spool_max_size = min(_SPOOLED_BYTES, IN_MEMORY_BYTES // max_files)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if parser.wrong:
            raise _wrong_field(parser.wrong) from None
        reason = _BAD_FORM if error.message.startswith("Invalid") else error.message
        raise RequestError("bad_form", f"the multipart form cannot be read: {reason}") from None
    if parser.begun and not parser.ended:
        await form.close()
        raise RequestError("bad_form", "the multipart form cannot be read: it is cut off before its last boundary")
    return form


async def _read_bare(request: Request, field: str, kind: str) -> FormData:
    """Return a body that is the picture itself as a form with one file."""
    spooled = SpooledTemporaryFile(max_size=_SPOOLED_BYTES)  # noqa: SIM115, for read_form closes it
    file = UploadFile(spooled, size=0, filename="x")  # type: ignore[arg-type]
    try:
        async for chunk in request.stream():
            if chunk and not file.size and not _is_picture(kind, chunk, field):
                raise RequestError(
                    "wrong_content_type",
                    f"the body is {kind[:100]}; send a multipart/form-data form, the picture itself as image/png or "
                    "application/octet-stream, or JSON",
                )
            await file.write(chunk)
        if not file.size:
            raise RequestError("empty_body", "the request has no body: send the picture as a form's file")
        await file.seek(0)
    except BaseException:
        file.file.close()
        raise
    return FormData([(field, file)])


def _is_picture(kind: str, begin: bytes, field: str) -> bool:
    """Return whether a body of a media type that begins so may be a picture itself."""
    fields = tuple(f"{name}=".encode() for name in (field, SELF_GRADIENT_FIELD, TOP_K))
    urlencoded = kind == _BARE[-1] and begin.startswith(fields)
    return (kind in _BARE or kind.startswith("image/")) and not urlencoded


async def _read_json(request: Request, field: str, most: int) -> FormData:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
    if not body:
        raise RequestError("empty_body", "the request has no body: send the picture as a form's file")
    return await parse_beside(len(body), _parse_json_form, body, field, most)


def _parse_json_form(body: bytearray, field: str, most: int) -> FormData:
    """Return {"image": "base64", ...} as a form: pictures as files, numbers and flags as texts."""
    if count_values(body, len(body)) > MAX_VALUES:
        raise RequestError("bad_json", f"the JSON has more than {MAX_VALUES} values")
    try:
        asked = parse_json(body)
    except JsonError as error:
        raise RequestError("bad_json", f"the body is not JSON ({error})") from None
    body.clear()
    if not isinstance(asked, dict):
        raise RequestError("bad_json", f'the body is no JSON object such as {{"{field}": "..."}}')
    items: list[tuple[str, str | UploadFile]] = []
    for name, value in asked.items():
        if name == field:
            pictures = value if field == IMAGES and isinstance(value, list) else [value]
            if len(pictures) > most:
                raise RequestError("too_many_images", f"{field!r} has {len(pictures)} pictures: send {most} at most")
            items += [(field, _from_base64(picture, field)) for picture in pictures]
        elif name in _OTHER_FIELD and value is not None:
            raise _wrong_field(name)
        elif value is not None:
            items.append((name, _option_text(name, value)))
    return FormData(items)


def _wrong_field(name: str) -> RequestError:
    """Return the refusal of the field for one picture where several are taken, or the other way round."""
    return RequestError("unknown_field", f"the field {name!r} does not belong here: {_OTHER_FIELD[name]}")


def _option_text(name: str, value: Any) -> str:
    """Return an option as the text that it would be in a form."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int) and len(text := str(value)) <= _TEXT_HEAD:
        return text
    raise RequestError("bad_json", f"{name[:100]!r} must be a short text, a whole number, true or false")


def _from_base64(value: Any, field: str) -> UploadFile:
    """Return a picture from base64: of either alphabet, with line breaks and padding or without, or as a data URL."""
    if not isinstance(value, str):
        raise RequestError("bad_json", f"{field!r} must be a picture's bytes as base64, in a string")
    begin = _DATA_URL.match(value)
    text = value[begin.end() :] if begin else value
    try:
        plain = text.encode("ascii").translate(_ALPHABET, b" \r\n\t").rstrip(b"=")
        plain += b"=" * (-len(plain) % 4)
        # No other thread runs while one part is decoded.
        parts = (plain[at : at + _BASE64_BYTES] for at in range(0, len(plain), _BASE64_BYTES))
        content = b"".join(base64.b64decode(part, validate=True) for part in parts)
    except (UnicodeEncodeError, binascii.Error):
        raise RequestError("bad_json", f"{field!r} is no base64: send the picture's bytes in it") from None
    return UploadFile(BytesIO(content), size=len(content), filename="x")


_BASE64_BYTES = 256 * 1024
"""Bytes of base64 that are decoded at once, a multiple of four."""
_ALPHABET = bytes.maketrans(b"-_", b"+/")


def _check_charset(request: Request) -> None:
    # Parse it with Starlette's function: another one might find a different name than the one that is looked up.
    _, parameters = parse_options_header(request.headers["content-type"])
    charset = parameters.get(b"charset", _CHARSETS[0])
    if charset.lower() not in _CHARSETS:
        raise RequestError("bad_form", f"the form's charset is {charset.decode('latin-1')[:40]!r}: send it as UTF-8")


def _check_names(form: FormData, request: Request, field: str, options: tuple[str, ...]) -> None:
    known = (field, *options)
    unknown = [name for name in form if name not in known]
    if unknown and unknown[0] in _OTHER_FIELD:
        raise _wrong_field(unknown[0])
    if unknown:
        raise RequestError(
            "unknown_field", f"the form has the field {unknown[0][:100]!r}; its fields are: {', '.join(known)}"
        )
    unknown = [name for name in request.query_params if name not in options]
    if unknown:
        allowed = f"the query parameters are: {', '.join(options)}" if options else "there are no query parameters here"
        raise RequestError("unknown_parameter", f"{allowed}; not {unknown[0][:100]!r}")


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
        if not isinstance(value, UploadFile) or (not value.filename and _is_text(value.file)):
            raise RequestError("not_a_file", f"the field {field!r} is text, not a file; with curl: -F {field}=@x.png")
        if not value.size and field == IMAGE:  # an empty file among several is refused on its own, as not a picture
            raise RequestError("empty_file", f"the file in the field {field!r} is empty")
        files.append(value.file)
    return tuple(files)


def _is_text(file: IO[bytes]) -> bool:
    """Return whether a file begins as a text does, and not as a picture. The position in the file stays."""
    begin = file.read(_TEXT_HEAD)
    file.seek(0)
    netpbm = re.match(rb"P[1-7]\s", begin)
    return bool(begin) and not netpbm and not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", begin)


def _read_flag(form: FormData, request: Request) -> SelfGradient | None:
    def parse(text: str) -> SelfGradient:
        try:
            return parse_self_gradient(text)
        except ValueError as error:
            raise RequestError("bad_flag", f"{SELF_GRADIENT_FIELD}={text[:100]!r}: {error}") from None

    return _read_option(form, request, SELF_GRADIENT_FIELD, "bad_flag", parse)


def _read_top_k(form: FormData, request: Request) -> int | None:
    def parse(text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_TOP_K)) else 0
        if not 1 <= number <= MAX_TOP_K:
            raise RequestError("bad_top_k", f"{TOP_K}={text[:100]!r}: expected a whole number from 1 to {MAX_TOP_K}")
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
