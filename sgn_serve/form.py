"""The classify request: a multipart form with one picture file and, if wanted, the flag."""

from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from sgn_serve.errors import RequestError
from sgn_serve.settings import parse_flag

IMAGE = "image"
SELF_GRADIENT = "self_gradient"

_BAD_REQUEST = HTTPStatus.BAD_REQUEST


@dataclass(frozen=True)
class ClassifyForm:
    """data: the picture file, as sent; self_gradient: the flag, None where the request does not say"""

    data: bytes
    self_gradient: bool | None


async def read_form(request: Request) -> ClassifyForm:
    """Reads and checks everything of a request but the picture's content.

    raises RequestError for a request that is not as it should be
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != "multipart/form-data":
        await _reject_media_type(request, media_type)
    try:
        async with request.form(max_files=1, max_fields=8, max_part_size=1024) as form:
            _check_names(form, request)
            return ClassifyForm(await _read_image(form), _read_flag(form, request))
    except HTTPException as error:
        raise RequestError(_BAD_REQUEST, "bad_form", f"the multipart form cannot be read: {error.detail}") from None


async def _reject_media_type(request: Request, media_type: str) -> None:
    async for chunk in request.stream():
        if chunk:
            raise RequestError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "wrong_content_type",
                f"the body is {media_type or 'of no stated type'}, not a multipart/form-data form",
            )
    raise RequestError(_BAD_REQUEST, "empty_body", "the request has no body: send the picture as a form's file")


def _check_names(form: FormData, request: Request) -> None:
    known = (IMAGE, SELF_GRADIENT)
    unknown = [name for name in form if name not in known]
    if unknown:
        raise RequestError(
            _BAD_REQUEST, "unknown_field", f"the form has the field {unknown[0]!r}; its fields are: {', '.join(known)}"
        )
    unknown = [name for name in request.query_params if name != SELF_GRADIENT]
    if unknown:
        raise RequestError(
            _BAD_REQUEST, "unknown_parameter", f"the only query parameter is {SELF_GRADIENT}, not {unknown[0]!r}"
        )


async def _read_image(form: FormData) -> bytes:
    images = form.getlist(IMAGE)
    if not images:
        raise RequestError(_BAD_REQUEST, "no_image", f"the form has no field {IMAGE!r}")
    if len(images) > 1:
        raise RequestError(_BAD_REQUEST, "several_images", f"the form has {len(images)} fields {IMAGE!r}: send one")
    (image,) = images
    if not isinstance(image, UploadFile):
        raise RequestError(
            _BAD_REQUEST, "not_a_file", f"the field {IMAGE!r} is text, not a file; with curl: -F {IMAGE}=@x.png"
        )
    data = await image.read()
    if not data:
        raise RequestError(_BAD_REQUEST, "empty_file", f"the file in the field {IMAGE!r} is empty")
    return data


def _read_flag(form: FormData, request: Request) -> bool | None:
    values = set()
    for text in form.getlist(SELF_GRADIENT) + request.query_params.getlist(SELF_GRADIENT):
        try:
            values.add(parse_flag(str(text) if isinstance(text, str) else "a file"))
        except ValueError as error:
            raise RequestError(
                _BAD_REQUEST, "bad_flag", f"{SELF_GRADIENT}={text if isinstance(text, str) else 'a file'!r}: {error}"
            ) from None
    if len(values) > 1:
        raise RequestError(_BAD_REQUEST, "bad_flag", f"{SELF_GRADIENT} is given twice, as true and as false")
    return values.pop() if values else None
