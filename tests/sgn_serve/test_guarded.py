"""Tokens, a rate limit, other origins and a trusted proxy: what is let in, and what the logs tell.

These tests asked with httpx, which frames every request rightly and never asks for an upgrade. So they missed two
faults. The body of a request with an Upgrade header was run as the next request, and a trailer was taken for a header.
The last test sends random framings instead, with a good token where no server may look for one.
"""

import itertools
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from random import Random
from typing import Any

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.testclient import TestClient
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from sgn_serve.app import create_app
from sgn_serve.http.connections import LINGER_REFUSED_BYTES, MAX_LINGERING
from sgn_serve.http.paths import PROBES, is_open
from sgn_serve.settings import Settings
from tests.sgn_serve.framing import EMBEDDED, answer_all, sequences
from tests.sgn_serve.hammer import RED
from tests.sgn_serve.sample_pictures import encode, odd_exif
from tests.sgn_serve.server import read_answer, running_server
from tests.sgn_serve.tiny_graph import save_tiny_graph

TOKENS = ("0123456789abcdef0123456789abcdef", "anothersecretanothersecret")
ORIGIN = "https://example.org"
BURST = 6
CONNECTIONS = 40
ADDRESSES = (f"198.51.100.{number}" for number in itertools.count(1))
FILES = {"image": RED}


GUARDS = {
    "SGN_API_TOKEN": ", ".join(TOKENS),
    "SGN_CORS_ORIGINS": ORIGIN,
    "SGN_RATE_LIMIT": "0.01",
    "SGN_RATE_BURST": str(BURST),
    "SGN_TRUSTED_PROXIES": "127.0.0.1",
    "SGN_MAX_CONNECTIONS": str(CONNECTIONS),
}


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with running_server(home, SGN_MODEL=str(save_tiny_graph(home / "tiny.onnx")), **GUARDS) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """The same application without a server, behind uvicorn's own middleware for what a proxy says."""
    model = save_tiny_graph(tmp_path_factory.mktemp("app") / "tiny.onnx")
    settings = Settings.from_environment({"SGN_MODEL": str(model), "SGN_PROVIDERS": "cpu", **GUARDS})
    inner: Any = create_app(settings)
    app: Any = ProxyHeadersMiddleware(inner, trusted_hosts=list(settings.trusted_proxies))
    with TestClient(app, client=("127.0.0.1", 1)) as client:
        yield client


def client_of(asked, address=None, token=TOKENS[0]):
    """A client, of a server or of the application, behind a proxy that says where it is: by default a new address."""
    headers = {"x-forwarded-for": address or next(ADDRESSES)}
    if token:
        headers["authorization"] = f"Bearer {token}"
    if isinstance(asked, TestClient):
        client = TestClient(asked.app, headers=headers, client=("127.0.0.1", 1))
        client.portal = asked.portal  # the event loop that the application has been started on
        return nullcontext(client)
    return httpx.Client(base_url=asked.url, headers=headers, timeout=60)


def lines(server):
    """The log's lines since the service started to log; each is JSON."""
    whole, _, _ = server.log.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def logged(server, request_id):
    """A request's line, which is written after its answer is sent."""
    deadline = time.monotonic() + 10
    while not (found := [line for line in lines(server) if line.get("request_id") == request_id]):
        assert time.monotonic() < deadline, f"the log has no request {request_id}"
        time.sleep(0.05)
    (line,) = found
    return line


@pytest.mark.parametrize("token", TOKENS)
def test_either_token_opens(guarded, token):
    with client_of(guarded, token=token) as client:
        assert client.post("/classify", files=FILES).json()["label"] == "red"
        assert client.get("/metrics").status_code == 200


@pytest.mark.parametrize(("token", "code"), [(None, "no_token"), ("0123456789abcdef0123456789abcdeF", "wrong_token")])
def test_everything_else_is_closed(guarded, token, code):
    for path in ("/classify", "/metrics", "/docs.json", "/", "/admin/reload", "/nowhere"):
        with client_of(guarded, token=token) as client:
            response = client.post(path, files=FILES)
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert response.json()["error"]["code"] == code
        assert response.json()["error"]["request_id"] == response.headers["x-request-id"]
    with client_of(guarded, token=token) as client:
        response = client.get("/v2")
        assert (response.status_code, response.json()["code"]) == (401, code)


def test_probes_are_open_and_not_limited(guarded_server):
    with client_of(guarded_server, token=None) as client:
        for path in PROBES:
            for _ in range(BURST):
                assert client.get(path).status_code == 200


def test_the_document_tells_of_tokens_and_limits(guarded):
    with client_of(guarded) as client:
        document = client.get("/docs.json").json()
    assert document["security"] == [{"token": []}]
    answers = document["paths"]["/classify"]["post"]["responses"]
    assert {"401", "429"} <= answers.keys()
    assert {"WWW-Authenticate", "X-Request-ID", "Server-Timing"} == answers["401"]["headers"].keys()
    assert {"Retry-After", "X-Request-ID", "Server-Timing"} == answers["429"]["headers"].keys()
    for path in ("/readyz", "/v2/health/live", "/ui", "/ui/static/{file}"):
        operation = document["paths"][path]["get"]
        assert operation["security"] == []
        assert not {"401", "429"} & operation["responses"].keys(), path
        assert "503" in operation["responses"], "on its way to the end"
    for path in ("/", "/metrics"):
        assert "security" not in document["paths"][path]["get"]
        assert {"401", "429"} <= document["paths"][path]["get"]["responses"].keys()


def test_a_client_that_asks_too_much_is_told_when_to_come_back(guarded):
    with client_of(guarded) as client:
        answers = [client.post("/classify", files=FILES) for _ in range(BURST + 1)]
    assert [answer.status_code for answer in answers] == [200] * BURST + [429]
    assert answers[-1].json()["error"]["code"] == "rate_limited"
    assert 90 <= int(answers[-1].headers["retry-after"]) <= 100
    with client_of(guarded) as another:
        assert another.post("/classify", files=FILES).status_code == 200


def test_whoever_guesses_tokens_is_limited_too(guarded):
    with client_of(guarded, token="0000000000000000") as client:
        assert [client.get("/model").status_code for _ in range(BURST + 1)] == [401] * BURST + [429]


def test_of_forwarded_addresses_only_what_the_proxy_saw_counts(guarded_server):
    victim, attacker = next(ADDRESSES), next(ADDRESSES)
    for number in range(BURST + 1):
        with client_of(guarded_server, f"{victim}, 203.0.113.{number}, {attacker}") as client:
            status = client.get("/model").status_code
    assert status == 429, "the last one is what the trusted proxy wrote; the others are what the client made up"
    with client_of(guarded_server, victim) as client:
        assert client.get("/model").status_code == 200


def test_pages_of_the_named_origin_may_ask(guarded):
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    with client_of(guarded, token=None) as client:
        allowed = client.options("/classify", headers={"origin": ORIGIN, **preflight})
        refused = client.options("/classify", headers={"origin": "https://example.net", **preflight})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "cross_origin_refused"
    assert "access-control-allow-origin" not in refused.headers
    with client_of(guarded) as client:
        answer = client.post("/classify", files=FILES, headers={"origin": ORIGIN})
        error = client.post("/classify", headers={"origin": ORIGIN})
        other = client.post("/classify", files=FILES, headers={"origin": "https://example.net"})
    assert answer.headers["access-control-allow-origin"] == error.headers["access-control-allow-origin"] == ORIGIN
    assert error.status_code == 400
    assert "access-control-allow-origin" not in other.headers


def test_more_connections_than_allowed_are_refused(guarded_server):
    host, port = guarded_server.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        opened = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=30)) for _ in range(CONNECTIONS + 5)
        ]
        refused = opened[CONNECTIONS:]
        for connection in refused:
            status, headers, told = read_answer(connection)
            assert (status, told["error"]["code"]) == (503, "too_many_connections")
            assert headers["retry-after"] == "1"
            assert headers["x-request-id"] == told["error"]["request_id"]
            line = logged(guarded_server, told["error"]["request_id"])
            assert (line["status"], line["error"], line["client"]) == (503, "too_many_connections", "127.0.0.1")
        opened[0].sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert opened[0].recv(1000).startswith(b"HTTP/1.1 200 ")
    with client_of(guarded_server) as client:
        assert client.get("/livez").status_code == 200, "when the others have gone"


def test_refused_connections_that_send_on_without_end_are_cut_off(guarded_server):
    """Some of them may linger; the others, beyond MAX_LINGERING, are closed at once."""
    host, port = guarded_server.url.removeprefix("http://").split(":")
    endless = bytes(1 << 16)
    allowed = LINGER_REFUSED_BYTES + (16 << 20)  # sockets hold some too

    def pour(connection):
        sent = 0
        with suppress(ConnectionError):
            while sent <= allowed:
                sent += connection.send(endless)
        return sent

    with ExitStack() as stack:
        opened = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            for _ in range(CONNECTIONS + MAX_LINGERING + 8)
        ]
        with ThreadPoolExecutor(MAX_LINGERING + 8) as pool:
            assert max(pool.map(pour, opened[CONNECTIONS:])) <= allowed
        opened[0].sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert opened[0].recv(1000).startswith(b"HTTP/1.1 200 ")


def test_a_request_is_one_line_of_the_log(guarded_server):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    address = next(ADDRESSES)
    with client_of(guarded_server, address) as client:
        client.post(
            "/classify",
            files=FILES,
            headers={"x-request-id": "line-1", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"},
        )
        client.post("/classify?self_gradient=secret-in-the-query", files=FILES, headers={"x-request-id": "line-2"})
    line = logged(guarded_server, "line-1")
    assert {name: line[name] for name in ("level", "message", "method", "path", "status", "batch_size", "client")} == {
        "level": "INFO",
        "message": "request",
        "method": "POST",
        "path": "/classify",
        "status": 200,
        "batch_size": 1,
        "client": address,
    }
    assert line["trace_id"] == trace
    assert line["duration_ms"] > 0
    assert line["time"].startswith("20")
    assert (logged(guarded_server, "line-2")["status"], logged(guarded_server, "line-2")["error"]) == (400, "bad_flag")


def test_logs_hold_no_secrets_and_no_pictures(guarded_server):
    with client_of(guarded_server, token="guessed-and-wrong-token") as client:
        client.post("/classify?token=in-the-query", files=FILES, headers={"x-request-id": "secret-1"})
        client.get("/nowhere/%0a%7b%22forged%22%3a1%7d", headers={"x-request-id": "secret-2"})
        client.get("/" + "x" * 5000, headers={"x-request-id": "secret-3"})
    with client_of(guarded_server) as client:
        client.post("/classify", files={"image": ("private-name.png", encode_text("marked-pixels"))})
    assert logged(guarded_server, "secret-2")["path"] == '/nowhere/\n{"forged":1}', "one line, escaped"
    assert len(logged(guarded_server, "secret-3")["path"]) == 200
    text = guarded_server.log.read_text()
    for secret in (*TOKENS, "guessed-and-wrong", "in-the-query", "private-name", "marked-pixels", "IHDR", "Bearer"):
        assert secret not in text, secret


def test_of_pictures_that_pillow_finds_odd_the_log_tells_no_more_than_of_others(guarded_server):
    with client_of(guarded_server) as client:
        for tag in (271, 272):
            answer = client.post("/classify", files={"image": odd_exif(tag)}, headers={"x-request-id": f"odd-{tag}"})
            assert answer.status_code == 200, answer.text
    assert logged(guarded_server, "odd-272")["status"] == 200, "every line is JSON"


def encode_text(text):
    """A picture with a text chunk."""
    chunk = PngInfo()
    chunk.add_text("Comment", text)
    return encode(Image.new("RGB", (8, 8)), pnginfo=chunk)


def test_probes_are_not_logged(guarded_server):
    with client_of(guarded_server, token=None) as client:
        client.get("/readyz", headers={"x-request-id": "probe-1"})
    assert all(line.get("request_id") != "probe-1" for line in lines(guarded_server))


def test_no_token_in_a_body_or_in_a_trailer_opens(guarded_server):
    """Requests without a token hold others that have one. None of those is run, and no answer is theirs."""
    asked = list(sequences(1, 300, headers=[f"Authorization: Bearer {TOKENS[0]}"]))

    def run(number):
        return answer_all(guarded_server.url, asked[number], Random(number))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(run, range(len(asked))))
    for requests, told in zip(asked, answers, strict=True):
        for request, answer in zip(requests, told, strict=True):
            assert answer.status >= 400 or is_open(request.path) or request.method == "OPTIONS", request
    assert {answer.status for told in answers for answer in told} >= {200, 401}
    assert EMBEDDED not in guarded_server.log.read_text()
