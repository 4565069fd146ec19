"""The client: both of its forms against a real server, and against stubs that answer as busy or odd services do."""

import asyncio
import json
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.service.server import free_port
from sgn_serve import AsyncClient, Client
from sgn_serve.client import (
    AccessRefused,
    Busy,
    ClientError,
    NoAnswer,
    PictureRefused,
    ServiceError,
    UnexpectedAnswer,
)
from sgn_serve.client.conversation import Send
from sgn_serve.records import Prediction
from tests.sgn_serve.asking import RED
from tests.sgn_serve.conftest import LIMITS, MAX_BYTES
from tests.sgn_serve.sample_pictures import encode, noise
from tests.sgn_serve.server import Server, application_server, running_server
from tests.sgn_serve.tiny_graph import SHA256, save_tiny_graph

GREEN = np.full((8, 8, 3), (10, 200, 10), np.uint8)
URL = "http://service.test"
TOKEN = "0123456789abcdef"
ANSWER = {
    "label": "red",
    "index": 0,
    "probability": 0.75,
    "top_k": [{"label": "red", "index": 0, "probability": 0.75}],
    "self_gradient": False,
    "mode": "off",
    "plain": None,
    "disagreement": None,
    "suspicious": None,
    "model": SHA256,
}
Ask = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Calls a method of either client: ask(url, "classify", picture, token=..., handler=...)."""

    def synchronously(url: str, method: str, *arguments: Any, handler: Any = None, call: Any = None, **options: Any):
        transport = None if handler is None else httpx.MockTransport(handler)
        with Client(url, transport=transport, **options) as client:
            return getattr(client, method)(*arguments, **(call or {}))

    def asynchronously(url: str, method: str, *arguments: Any, handler: Any = None, call: Any = None, **options: Any):
        async def run() -> Any:
            transport = None if handler is None else httpx.MockTransport(handler)
            async with AsyncClient(url, transport=transport, **options) as client:
                return await getattr(client, method)(*arguments, **(call or {}))

        return asyncio.run(run())

    return synchronously if request.param == "sync" else asynchronously


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that clients would have waited."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("sgn_serve.client.clients.time.sleep", waited.append)
    monkeypatch.setattr("sgn_serve.client.clients.anyio.sleep", sleep)
    return waited


def busy(status: int = 503, **headers: str) -> httpx.Response:
    body = {"error": {"code": "overloaded", "message": "too many pictures are waiting", "request_id": "r1"}}
    return httpx.Response(status, json=body, headers={name.replace("_", "-"): text for name, text in headers.items()})


def in_turn(*answers: httpx.Response | Exception) -> tuple[Callable[[httpx.Request], httpx.Response], list[str]]:
    """A service that gives these answers one after the other, and the paths that it was asked for."""
    left, paths = list(answers), []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        given = left.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    return answer, paths


def test_importing_the_client_loads_no_server(project_root: Path) -> None:
    program = (
        "import sys\nfrom sgn_serve import Client\n"
        "assert 'httpx' in sys.modules and 'sgn_serve.client' in sys.modules\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=project_root, capture_output=True, text=True, check=True, timeout=120
    )
    assert not set(done.stdout.split()) & {"onnxruntime", "onnx", "bentoml", "starlette", "torch"}
    with pytest.raises(ImportError):
        from sgn_serve import NoSuchThing  # noqa: F401


def test_a_picture_in_every_form(ask, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "green.png"
    Image.fromarray(GREEN).save(path)
    with path.open("rb") as opened:
        for picture in (path, str(path), path.read_bytes(), opened, Image.open(path), GREEN, GREEN / 255):
            answer = ask(server.url, "classify", picture, call={"self_gradient": False, "top_k": 3})
            assert isinstance(answer, Prediction)
            assert (answer.label, answer.self_gradient, len(answer.top_k)) == ("green", False, 3)
            assert answer.model == SHA256


def test_the_answers_are_the_services_own(ask, server: Server, client: httpx.Client) -> None:
    ours = ask(server.url, "classify", RED)
    theirs = client.post("/classify", files={"image": RED}).json()
    assert ours.model_dump() == theirs
    assert ours.self_gradient is True
    assert ours.plain is not None
    assert ask(server.url, "model").model_dump() == client.get("/model").json()
    assert ask(server.url, "explain", RED) == client.post("/explain", files={"image": RED}).content
    assert ask(server.url, "ready") is True


def test_a_list_keeps_its_order_and_goes_in_requests_that_are_allowed(ask, server: Server) -> None:
    """19 pictures, 8 a request; one of them is none."""
    limits = ask(server.url, "model").limits
    assert (limits.max_images, limits.max_bytes) == (int(LIMITS["SGN_MAX_IMAGES"]), MAX_BYTES)
    colours = np.random.default_rng(1).integers(0, 3, 19)
    pictures: list[Any] = [
        200 * np.eye(3, dtype=np.uint8)[colour] + np.zeros((8, 8, 3), np.uint8) for colour in colours
    ]
    pictures[11] = b"no picture at all"
    answers = ask(server.url, "classify", pictures, call={"top_k": 1, "self_gradient": False})
    assert isinstance(answers[11], PictureRefused)
    assert answers[11].code == "not_an_image"
    assert answers[11].request_id
    assert answers[11].status is None
    names = [answer.label for index, answer in enumerate(answers) if index != 11]
    assert names == [("red", "green", "blue")[colour] for index, colour in enumerate(colours) if index != 11]
    assert ask(server.url, "classify", []) == []
    (one,) = ask(server.url, "classify", (GREEN,))
    assert one.label == "green"
    with pytest.raises(TypeError, match="not NoneType") as caught:
        ask(server.url, "classify", [RED, None])
    assert caught.value.__notes__ == ["It is picture 1 of the list, counted from 0."]


def test_a_list_of_large_pictures_goes_in_small_requests(ask, server: Server) -> None:
    """Three pictures of 44 KB: two make 88 KB, and three are more than the 100 KB of a request."""
    large = encode(Image.fromarray(noise(90, 100)), "BMP")
    assert 27_000 < len(large) < MAX_BYTES / 3
    answers = ask(server.url, "classify", [large] * 7)
    assert all(isinstance(answer, Prediction) for answer in answers)
    too_large = b"BM" + bytes(MAX_BYTES)
    first, second, third = ask(server.url, "classify", [GREEN, too_large, GREEN])
    assert first.label == third.label == "green"
    assert isinstance(second, PictureRefused)
    assert second.code == "body_too_large"


def test_errors_have_a_class_a_code_and_the_requests_name(ask, server: Server) -> None:
    with pytest.raises(PictureRefused, match=r"\(not_an_image, request \w") as caught:
        ask(server.url, "classify", b"no picture at all")
    assert (caught.value.code, caught.value.status) == ("not_an_image", 415)
    deadline = time.monotonic() + 10
    while caught.value.request_id not in server.log.read_text():
        assert time.monotonic() < deadline, "the log has no such request"  # it is written after the answer is sent
        time.sleep(0.05)
    with pytest.raises(ServiceError) as wrong:
        ask(server.url, "classify", RED, call={"top_k": 0})
    assert (wrong.value.code, wrong.value.status, type(wrong.value)) == ("bad_top_k", 400, ServiceError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.args, str(again)) == (PictureRefused, caught.value.args, str(caught.value))


@pytest.fixture(scope="module")
def guarded_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with a token, and where its prefix begins."""
    home = tmp_path_factory.mktemp("home")
    model = save_tiny_graph(home / "tiny.onnx")
    with running_server(home, SGN_MODEL=str(model), SGN_API_TOKEN=TOKEN, SGN_ROOT_PATH="/classifier") as server:
        yield f"{server.url}/classifier"


def test_a_token_and_a_prefix(ask, guarded_url: str) -> None:
    assert ask(guarded_url, "classify", GREEN, token=TOKEN).label == "green"
    assert ask(f"{guarded_url}/", "classify", [GREEN], token=TOKEN)[0].label == "green"
    assert ask(guarded_url, "ready") is True
    for token in (None, "wrong"):
        with pytest.raises(AccessRefused) as caught:
            ask(guarded_url, "classify", GREEN, token=token)
        assert caught.value.status == 401
        assert caught.value.code == ("no_token" if token is None else "wrong_token")


def test_more_requests_than_there_is_room_for_are_all_answered() -> None:
    """A service with room for two pictures, and eight threads."""
    limits = {"SGN_MAX_QUEUE": "2", "SGN_MAX_IMAGES": "2", "SGN_MAX_BATCH": "1"}
    picture = encode(Image.fromarray(noise(32, 32)))
    with application_server(**limits) as url, Client(url, max_wait=500) as client:
        refused = 0
        send = client._send

        def counted(step: Send) -> Any:
            nonlocal refused
            response = send(step)
            refused += isinstance(response, httpx.Response) and response.status_code == 503
            return response

        client._send = counted  # type: ignore[method-assign]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: client.classify(picture), range(24)))
        assert len({answer.probability for answer in answers}) == 1
        assert refused > 0, "there was no overload, so nothing was tried again"


@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_service_is_asked_again_when_it_says(ask, waits: list[float], status: int) -> None:
    answer, paths = in_turn(
        busy(status, retry_after="3"), busy(status, retry_after="2"), httpx.Response(200, json=ANSWER)
    )
    assert ask(URL, "classify", RED, handler=answer).label == "red"
    assert paths == ["/classify"] * 3
    assert len(waits) == 2
    assert 3 <= waits[0] <= 3.75
    assert 2 <= waits[1] <= 2.5


def test_waits_double_where_the_service_does_not_say(ask, waits: list[float]) -> None:
    answer, _ = in_turn(*[busy() for _ in range(6)], httpx.Response(200, json=ANSWER))
    ask(URL, "classify", RED, handler=answer)
    for wait, least in zip(waits, (0.5, 1, 2, 4, 8, 8), strict=True):
        assert least <= wait <= 1.25 * least
    assert len({wait / least for wait, least in zip(waits, (0.5, 1, 2, 4, 8, 8), strict=True)}) > 1, "with jitter"


def test_a_date_to_come_back_at(ask, waits: list[float]) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    earlier = format_datetime(datetime.now(UTC) - timedelta(seconds=20), usegmt=True)
    answer, _ = in_turn(
        busy(retry_after=later), busy(retry_after=earlier), busy(retry_after="soon"), httpx.Response(200, json=ANSWER)
    )
    ask(URL, "classify", RED, handler=answer)
    assert 5 < waits[0] <= 25
    assert 0.5 <= waits[1] <= 0.625
    assert 2 <= waits[2] <= 2.5, "the third wait, as without the header"


@pytest.mark.parametrize("date", ["Thu, 01 Jan 99999999999 00:00:00 GMT", "Thu, 01 Jan 2026 00:00:00 +999999999999"])
def test_a_date_that_is_none_is_as_no_date(ask, waits: list[float], date: str) -> None:
    answer, _ = in_turn(busy(retry_after=date), httpx.Response(200, json=ANSWER))
    assert ask(URL, "classify", RED, handler=answer).label == "red"
    assert 0.5 <= waits[0] <= 0.625


def test_waiting_has_an_end(ask, waits: list[float]) -> None:
    answer, paths = in_turn(*[busy(retry_after="4") for _ in range(9)])
    with pytest.raises(Busy) as caught:
        ask(URL, "classify", RED, handler=answer, max_wait=10)
    assert (caught.value.code, caught.value.status, caught.value.request_id) == ("overloaded", 503, "r1")
    assert len(waits) == 2
    assert sum(waits) <= 10
    assert len(paths) == 3
    answer, paths = in_turn(busy(retry_after="1"))
    with pytest.raises(Busy):
        ask(URL, "classify", RED, handler=answer, max_wait=0)
    assert len(waits) == 2, "not once more"


def test_a_client_that_is_closed_says_so() -> None:
    with Client(URL) as client:
        pass
    with pytest.raises(ClientError, match="this client is closed; make another one"):
        client.classify(RED)

    async def after() -> None:
        async with AsyncClient(URL) as other:
            pass
        with pytest.raises(ClientError, match="this client is closed"):
            await other.model()

    asyncio.run(after())


@pytest.mark.parametrize("error", [httpx.RemoteProtocolError("closed"), httpx.ReadError(""), httpx.WriteError("")])
def test_a_closed_connection_is_opened_again_once(ask, waits: list[float], error: Exception) -> None:
    answer, paths = in_turn(error, httpx.Response(200, json=ANSWER))
    assert ask(URL, "classify", RED, handler=answer).label == "red"
    assert len(paths) == 2
    answer, paths = in_turn(error, error, httpx.Response(200, json=ANSWER))
    with pytest.raises(NoAnswer, match=type(error).__name__):
        ask(URL, "classify", RED, handler=answer)
    assert len(paths) == 2
    assert waits == []


def test_an_idle_connection_that_the_server_has_closed() -> None:
    with closing_server() as (url, connections), Client(url) as client:
        first = client.classify(RED)
        second = client.classify(RED)
    assert first == second == Prediction.model_validate(ANSWER)
    assert connections == [1, 1, 1], "the second picture went out on the first connection in vain, then on the third"


@contextmanager
def closing_server() -> Iterator[tuple[str, list[int]]]:
    """A server that answers the first request, keeps the connection, and closes it when the next request is on it."""
    body = json.dumps(ANSWER).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    requests: list[int] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def read(connection: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(65536)
        length = int(received.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(received.split(b"\r\n\r\n", 1)[1]) < length:
            received += connection.recv(65536)
        requests.append(1)

    def serve() -> None:
        first, _ = listening.accept()
        with first:
            read(first)
            first.sendall(head + body)
            read(first)
        second, _ = listening.accept()
        with second:
            read(second)
            second.sendall(head + body)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", requests
    finally:
        thread.join(20)
        listening.close()


def test_nobody_there(ask) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(NoAnswer, match=r"POST http://127\.0\.0\.1:\d+/classify: no answer \(ConnectError"):
        ask(url, "classify", RED)
    assert ask(url, "ready") is False


def test_no_answer_in_time(ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(NoAnswer, match="ReadTimeout") as caught:
        ask(f"http://127.0.0.1:{silent.getsockname()[1]}", "classify", RED, timeout=0.2)
    assert isinstance(caught.value.__cause__, httpx.ReadTimeout)


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, {"text": "<html>Welcome to nginx!</html>"}),
        (404, {"text": "<html>Not found</html>"}),
        (200, {"json": {"label": "cat"}}),
        (404, {"json": ["error"]}),
        (301, {"headers": {"location": "https://elsewhere.test/"}}),
    ],
)
def test_another_program_answers(ask, status: int, content: dict[str, Any]) -> None:
    answer, _ = in_turn(httpx.Response(status, **content))
    with pytest.raises(UnexpectedAnswer, match=f"answered {status}.*check the client's url") as caught:
        ask(URL, "classify", RED, handler=answer)
    assert (caught.value.code, caught.value.status) == ("unexpected_answer", status)
    assert ("https://elsewhere.test/" in str(caught.value)) == (status == 301)


def test_a_proxys_503_is_waited_for_too(ask, waits: list[float]) -> None:
    answer, _ = in_turn(httpx.Response(503, text="<html>503</html>"), httpx.Response(200, json=ANSWER))
    assert ask(URL, "classify", RED, handler=answer).label == "red"
    own_form = {"json": {"error": {"code": "upstream_overflow", "message": "no healthy upstream"}}}
    for content in ({"text": "<html>503</html>"}, own_form):
        answer, _ = in_turn(httpx.Response(503, **content))
        with pytest.raises(Busy):
            ask(URL, "classify", RED, handler=answer, max_wait=0)


def test_an_unreadable_picture_is_not_sent(ask) -> None:
    answer, paths = in_turn()
    with pytest.raises(FileNotFoundError):
        ask(URL, "classify", "no-such-file.png", handler=answer)
    assert paths == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:3000"}, "must begin with http://"),
        ({"url": "http://localhost:abc"}, "'http://localhost:abc' is not a URL"),
        ({"url": URL, "token": "two words"}, "one word"),
        ({"url": URL, "token": "line\n"}, "one word"),
        ({"url": URL, "timeout": -1.0}, "timeout must be"),
        ({"url": URL, "max_wait": float("nan")}, "max_wait must be"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_wrong_arguments(kind: type, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)
