"""Ask the service from Python: Client, and AsyncClient for asyncio and trio."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import anyio
import anyio.to_thread
import httpx

from sgn_serve.client.conversation import Conversation, Options, Send, Steps, Wait
from sgn_serve.client.errors import ClientError, ServiceError
from sgn_serve.records import ModelCard, Prediction, SelfGradient

if TYPE_CHECKING:
    from sgn_serve.client.pictures import Picture

Result = TypeVar("Result")
OnePicture = TypeVar("OnePicture", bound="Picture")


class Client:
    """Ask the service. One client serves several threads, and keeps its connections open until it is closed.

    A busy service (503, 429) is asked again after the time that it names. A connection that was closed while it stood
    idle is opened again. Neither does a thing twice, for asking changes nothing.

    Args:
        url: Where the service answers, with its prefix: "http://localhost:3000" or "https://example.org/classifier".
        token: One of the service's tokens (SGN_API_TOKEN), None where it has none.
        timeout: Seconds for each part of a request: to connect, to send, and until the answer comes.
        max_wait: Seconds that one request may wait for a busy service, all its waits together. 0 never waits.
        transport: A transport of httpx, for certificates or proxies of your own.

    Raises:
        ValueError: The url is none, or has no http:// or https://. A number is negative, or the token cannot be sent.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = 60.0,
        max_wait: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ):
        self._conversation = Conversation(_checked_seconds("max_wait", max_wait))
        self._http = httpx.Client(transport=transport, **_settings(url, token, timeout))

    @overload
    def classify(
        self,
        picture: list[OnePicture] | tuple[OnePicture, ...],
        *,
        self_gradient: SelfGradient | None = ...,
        top_k: int | None = ...,
    ) -> list[Prediction | ServiceError]: ...

    @overload
    def classify(
        self, picture: "Picture", *, self_gradient: SelfGradient | None = ..., top_k: int | None = ...
    ) -> Prediction: ...

    def classify(
        self,
        picture: "Picture | list[OnePicture] | tuple[OnePicture, ...]",
        *,
        self_gradient: SelfGradient | None = None,
        top_k: int | None = None,
    ) -> Prediction | list[Prediction | ServiceError]:
        """Classify a picture, or a list of them.

        A list is sent in as few requests as the service's limits allow, which `/model` tells. Its answers come in its
        order. A picture that the service refuses is a ServiceError in the list: one bad file does not cost the
        answers to the others. What concerns the whole request is raised, as for one picture.

        Args:
            picture: A path, the bytes of a file, a file that is open in binary, a Pillow image, or an (H, W, 3) array
                (uint8, or floating point in [0, 1]). Or a list or tuple of these.
            self_gradient: Whether the block is on; "auto" leaves it to each picture. None leaves it to the service.
            top_k: How many classes to list. None leaves it to the service.

        Returns:
            The answer; for a list, an answer or an error for each picture.

        Raises:
            PictureRefused: The one picture cannot be classified.
            AccessRefused: The token is missing or wrong.
            Busy: The service is busy for longer than max_wait.
            ServiceError: The service refuses for another reason, or fails.
            NoAnswer: There is no connection, or no answer in time.
            OSError, TypeError, ValueError: The picture cannot be read or is none; nothing of its request was sent.
        """
        options = Options(self_gradient, top_k)
        if isinstance(picture, list | tuple):
            return self._run(self._conversation.classify_all(picture, options))
        return self._run(self._conversation.classify(picture, options))

    def explain(self, picture: "Picture") -> bytes:
        """Return the self-gradient, drawn on a picture as a heat map: the bytes of a PNG. It raises as classify does.

        Args:
            picture: See classify.
        """
        return self._run(self._conversation.explain(picture))

    def model(self) -> ModelCard:
        """Return the model card: what is served, how it was measured, and the limits of a request."""
        return self._run(self._conversation.model())

    def ready(self) -> bool:
        """Return whether the service can be asked now. Nothing is raised or tried again where nobody answers."""
        return self._run(self._conversation.ready())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        """Return the client, whose connections are closed when the `with` block is left."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def _run(self, steps: Steps[Result]) -> Result:
        value: Any = None
        while True:
            try:
                step = steps.send(value)
            except StopIteration as done:
                result: Result = done.value
                return result
            if isinstance(step, Send):
                value = self._send(step)
            elif isinstance(step, Wait):
                time.sleep(step.seconds)
                value = None
            else:
                value = step.function()

    def _send(self, step: Send) -> httpx.Response | httpx.RequestError:
        _check_open(self._http)
        try:
            return self._http.send(self._http.build_request(**step.arguments()))
        except httpx.RequestError as error:
            return error


class AsyncClient:
    """Ask the service from asyncio or trio. Several tasks may share one client. Everything else is as in Client.

    Pictures are read and encoded in a thread.

    Args:
        url: See Client.
        token: See Client.
        timeout: See Client.
        max_wait: See Client.
        transport: An asynchronous transport; see Client.

    Raises:
        ValueError: See Client.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = 60.0,
        max_wait: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ):
        self._conversation = Conversation(_checked_seconds("max_wait", max_wait))
        self._http = httpx.AsyncClient(transport=transport, **_settings(url, token, timeout))

    @overload
    async def classify(
        self,
        picture: list[OnePicture] | tuple[OnePicture, ...],
        *,
        self_gradient: SelfGradient | None = ...,
        top_k: int | None = ...,
    ) -> list[Prediction | ServiceError]: ...

    @overload
    async def classify(
        self, picture: "Picture", *, self_gradient: SelfGradient | None = ..., top_k: int | None = ...
    ) -> Prediction: ...

    async def classify(
        self,
        picture: "Picture | list[OnePicture] | tuple[OnePicture, ...]",
        *,
        self_gradient: SelfGradient | None = None,
        top_k: int | None = None,
    ) -> Prediction | list[Prediction | ServiceError]:
        """Classify a picture, or a list of them; see Client.classify."""
        options = Options(self_gradient, top_k)
        if isinstance(picture, list | tuple):
            return await self._run(self._conversation.classify_all(picture, options))
        return await self._run(self._conversation.classify(picture, options))

    async def explain(self, picture: "Picture") -> bytes:
        """Return the self-gradient as a heat map; see Client.explain."""
        return await self._run(self._conversation.explain(picture))

    async def model(self) -> ModelCard:
        """Return the model card; see Client.model."""
        return await self._run(self._conversation.model())

    async def ready(self) -> bool:
        """Return whether the service can be asked now; see Client.ready."""
        return await self._run(self._conversation.ready())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Return the client, whose connections are closed when the `async with` block is left."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.close()

    async def _run(self, steps: Steps[Result]) -> Result:
        value: Any = None
        while True:
            try:
                step = steps.send(value)
            except StopIteration as done:
                result: Result = done.value
                return result
            if isinstance(step, Send):
                value = await self._send(step)
            elif isinstance(step, Wait):
                await anyio.sleep(step.seconds)
                value = None
            else:
                value = await anyio.to_thread.run_sync(step.function)

    async def _send(self, step: Send) -> httpx.Response | httpx.RequestError:
        _check_open(self._http)
        try:
            return await self._http.send(self._http.build_request(**step.arguments()))
        except httpx.RequestError as error:
            return error


def _settings(url: str, token: str | None, timeout: float) -> dict[str, Any]:
    """Return what both of httpx's clients take."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f'url must begin with http:// or https://, such as "http://localhost:3000", not {url!r}')
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"url: {url!r} is not a URL ({error})") from None
    headers = {}
    if token is not None:
        if not (token and token.isascii() and token.isprintable() and " " not in token):
            raise ValueError("token must be one word of ASCII characters, without a line's end or spaces")
        headers["authorization"] = f"Bearer {token}"
    return {"base_url": url, "headers": headers, "timeout": _checked_seconds("timeout", timeout)}


def _check_open(http: httpx.Client | httpx.AsyncClient) -> None:
    if http.is_closed:
        raise ClientError("this client is closed; make another one, or ask within its `with` block")


def _checked_seconds(name: str, seconds: float) -> float:
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{name} must be a number of seconds, 0 or more, not {seconds}")
    return seconds
