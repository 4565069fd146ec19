"""The client's side of the HTTP API, without input or output: generators that yield what is to be done next.

Client and AsyncClient do it, each in its way. So there is one place for what is sent, waited for and tried again.
"""

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from sgn_serve.client.errors import (
    NoAnswer,
    PictureRefused,
    ServiceError,
    error_of,
    is_busy,
    service_error,
    unexpected,
)
from sgn_serve.client.pictures import File, picture_file
from sgn_serve.records import ErrorAnswer, ModelCard, Prediction, Predictions, SelfGradient

if TYPE_CHECKING:
    from sgn_serve.client.pictures import Picture

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 8.0
"""Waits double from the first to the longest where the service does not say how long."""
_JITTER = 0.25
"""Share of a wait that is added at random, so that clients that were refused together do not come back together."""
_PART_BYTES = 1024
"""Bytes of a form besides the pictures' own: at most so many for each picture, and once more for the rest."""
_CLOSED = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError, httpx.CloseError)
"""Errors of a connection that the other side has closed."""

Answer = TypeVar("Answer", bound=BaseModel)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Send:
    """Send a request, and give back httpx's response or, as a value, its RequestError."""

    method: str
    path: str
    files: Sequence[tuple[str, File]] = ()
    data: dict[str, str] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Return what httpx's build_request takes."""
        return {"method": self.method, "url": self.path, "files": list(self.files) or None, "data": self.data or None}


@dataclass(frozen=True)
class Wait:
    """Wait for some seconds."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Call a function that reads a file or encodes a picture, and give back what it returns."""

    function: Callable[[], Any]


Steps = Generator[Send | Wait | Work, Any, Result]


@dataclass(frozen=True)
class Options:
    """Options of a request that classifies.

    Attributes:
        self_gradient: Whether the block is on; "auto" leaves it to each picture. None leaves it to the service.
        top_k: How many classes to list. None leaves it to the service.
    """

    self_gradient: SelfGradient | None = None
    top_k: int | None = None

    def fields(self) -> dict[str, str]:
        """Return the options as fields of a form."""
        fields = {}
        if self.self_gradient is not None:
            fields["self_gradient"] = str(self.self_gradient).lower()
        if self.top_k is not None:
            fields["top_k"] = str(self.top_k)
        return fields


class Conversation:
    """Make the steps of each call.

    Args:
        max_wait: Seconds that one request may wait for a busy service, all its waits together.
    """

    def __init__(self, max_wait: float):
        self._max_wait = max_wait

    def classify(self, picture: "Picture", options: Options) -> Steps[Prediction]:
        """Classify one picture."""
        file = yield Work(partial(picture_file, picture))
        response = yield from self._ask(Send("POST", "classify", [("image", file)], options.fields()))
        return _parse(Prediction, response)

    def classify_all(self, pictures: Sequence["Picture"], options: Options) -> Steps[list[Prediction | ServiceError]]:
        """Classify several pictures, in requests that the service's limits allow."""
        answers: list[Prediction | ServiceError] = []
        if not pictures:
            return answers
        limits = (yield from self.model()).limits
        files: list[File] = []
        size = _PART_BYTES
        for index, picture in enumerate(pictures):
            file = yield Work(partial(_file_of_list, picture, index))
            part = len(file.content) + _PART_BYTES
            if files and (len(files) == limits.max_images or size + part > limits.max_bytes):
                answers += yield from self._classify_batch(files, options)
                files, size = [], _PART_BYTES
            files.append(file)
            size += part
        answers += yield from self._classify_batch(files, options)
        return answers

    def explain(self, picture: "Picture") -> Steps[bytes]:
        """Draw the self-gradient."""
        file = yield Work(partial(picture_file, picture))
        response = yield from self._ask(Send("POST", "explain", [("image", file)]))
        if response.headers.get("content-type") != "image/png":
            raise unexpected(response)
        return response.content

    def model(self) -> Steps[ModelCard]:
        """Read the model card."""
        response = yield from self._ask(Send("GET", "model"))
        return _parse(ModelCard, response)

    def ready(self) -> Steps[bool]:
        """Ask once whether the service answers."""
        response = yield Send("GET", "readyz")
        return not isinstance(response, httpx.RequestError) and response.is_success

    def _classify_batch(self, files: list[File], options: Options) -> Steps[list[Prediction | ServiceError]]:
        request = Send("POST", "classify_batch", [("images", file) for file in files], options.fields())
        try:
            response = yield from self._ask(request)
        except PictureRefused as error:
            if len(files) > 1:
                raise
            return [error]  # the request is too large for its one picture
        answers = _parse(Predictions, response).predictions
        if len(answers) != len(files):
            raise unexpected(response)
        return [_value(answer) for answer in answers]

    def _ask(self, request: Send) -> Steps[httpx.Response]:
        """Send a request, again where the service is busy, and return the successful answer."""
        waited, wait = 0.0, _FIRST_WAIT_SECONDS
        reconnected = False
        while True:
            response = yield request
            if isinstance(response, _CLOSED) and not reconnected:
                # A connection that stood idle was closed by the other side just then. No request changes anything on
                # the service, so one that was received all the same does no harm when it is sent again.
                reconnected = True
                continue
            if isinstance(response, httpx.RequestError):
                where = f"{request.method} {_url(response, request)}"
                raise NoAnswer(f"{where}: no answer ({_told(response)})") from response
            if response.is_success:
                return response
            if not is_busy(response):
                raise error_of(response)
            seconds = _retry_after(response)
            seconds = (wait if seconds is None else seconds) * (1 + _JITTER * random.random())
            if waited + seconds > self._max_wait:
                raise error_of(response)
            yield Wait(seconds)
            waited, wait = waited + seconds, min(2 * wait, _LONGEST_WAIT_SECONDS)


def _value(answer: Prediction | ErrorAnswer) -> Prediction | ServiceError:
    if isinstance(answer, Prediction):
        return answer
    error = answer.error
    return service_error(error.code, error.message, error.request_id)


def _file_of_list(picture: "Picture", index: int) -> File:
    """Return a picture of a list as a file. An error says which one it is of."""
    try:
        return picture_file(picture)
    except (OSError, TypeError, ValueError) as error:
        error.add_note(f"It is picture {index} of the list, counted from 0.")
        raise


def _parse(record: type[Answer], response: httpx.Response) -> Answer:
    try:
        return record.model_validate_json(response.content)
    except ValidationError:
        raise unexpected(response) from None


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that an answer asks to wait, None where it does not say; a date is turned into seconds."""
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        # A proxy may say 0; at once, all the clients that were refused would come back together.
        return max(float(text[:9]), _FIRST_WAIT_SECONDS)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for a year of many digits
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), _FIRST_WAIT_SECONDS)


def _url(error: httpx.RequestError, request: Send) -> str:
    """Return the URL that was asked, or its path where the error does not tell."""
    try:
        return str(error.request.url.copy_with(userinfo=b""))
    except RuntimeError:
        return request.path


def _told(error: httpx.RequestError) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
