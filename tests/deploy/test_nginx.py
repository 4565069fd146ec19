"""deploy/nginx in front of two real servers: one dies under load, one is told to end, and nobody notices."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from benchmarks.service.server import free_port
from sgn_serve.http.error_form import ANSWER_SECONDS
from sgn_serve.settings import Settings
from tests.sgn_serve.hammer import PAUSE_SECONDS
from tests.sgn_serve.sample_pictures import encode, noise
from tests.sgn_serve.server import ROOT, read_answer, serve_command, serve_environment, wait_until_ready
from tests.sgn_serve.tiny_graph import save_tiny_graph

NGINX = ROOT / "deploy" / "nginx"
CLIENTS = 6
LIMIT_SECONDS = 60

needs_nginx = pytest.mark.skipif(
    shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None,
    reason="nginx is not there: apt-get install nginx-light",
)


class Upstream:
    """A server that can be killed, with its workers, and started again on the same port."""

    def __init__(self, home: Path, model: Path):
        self.port = free_port()
        self._home = home
        self._settings = {"SGN_MODEL": str(model), "SGN_DRAIN_SECONDS": "0", "SGN_TRUSTED_PROXIES": "127.0.0.1"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._home.mkdir(exist_ok=True)
        self.log = self._home / "server.log"
        with self.log.open("a") as output:
            self._process = subprocess.Popen(
                serve_command(self.port),
                cwd=ROOT,
                env=serve_environment(self._home, **self._settings),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        assert self._process is not None
        wait_until_ready(f"http://127.0.0.1:{self.port}", self._process, self.log)

    def kill(self) -> None:
        """Supervisor and workers at once, as when a machine is switched off."""
        assert self._process is not None
        supervisor = psutil.Process(self._process.pid)
        # Workers are in a process group of their own; one that was left would answer for the next server's port.
        processes = [*supervisor.children(recursive=True), supervisor]
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # a decoder may end with its worker
                process.kill()
        self._process.wait()
        psutil.wait_procs(processes, timeout=LIMIT_SECONDS)

    def end(self) -> None:
        """End it as an operator does."""
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(30) == 0

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


@dataclass
class Proxy:
    """url: where nginx listens; log: a JSON line a request"""

    url: str
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]


@contextmanager
def running_nginx(folder: Path, ports: list[int]) -> Iterator[Proxy]:
    """The committed configuration, but for where it listens, where the servers are, and where it writes."""
    folder.chmod(0o755)  # nginx's workers are not root
    port = free_port()
    text = (NGINX / "nginx.conf").read_text()
    (folder / "nginx.conf").write_text(text.replace("/tmp/self-gradient-network-nginx", f"{folder}/nginx"))
    servers = (NGINX / "upstreams.conf").read_text().splitlines()
    pattern = servers[1]
    assert pattern.startswith("server 127.0.0.1:3001 ")
    (folder / "upstreams.conf").write_text("\n".join(pattern.replace("3001", str(number)) for number in ports))
    (folder / "listen.conf").write_text(f"listen 127.0.0.1:{port};")
    log, errors = folder / "access.log", folder / "errors.log"
    command = ["nginx", "-e", str(errors), "-p", str(folder), "-c", "nginx.conf"]
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    with log.open("a") as output, errors.open("a") as error_output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=error_output)
    try:
        _wait_for(lambda: _answers(f"http://127.0.0.1:{port}/nothing"), f"nginx: {errors.read_text()}")
        yield Proxy(f"http://127.0.0.1:{port}", log)
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        httpx.get(url, timeout=5)
    except httpx.TransportError:
        return False
    return True


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {LIMIT_SECONDS} s: {what}")


@dataclass
class Load:
    """Clients that ask one thing after the other; what was not answered as it should be."""

    url: str
    picture: bytes
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def client(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            turn = 0
            while not self._ended.is_set():
                name = f"client-{number}-{turn}"
                turn += 1
                try:
                    answer = client.post("/classify", files={"image": self.picture}, headers={"x-request-id": name})
                except httpx.TransportError as error:
                    self.wrong.append(f"{name}: {error!r}")
                    continue
                if answer.status_code != 200 or answer.headers["x-request-id"] != name or "label" not in answer.json():
                    self.wrong.append(f"{name}: {answer.status_code} {answer.text}")
                self.answered += 1
                time.sleep(PAUSE_SECONDS)

    @contextmanager
    def running(self) -> Iterator["Load"]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            for number in range(CLIENTS):
                pool.submit(self.client, number)
            try:
                yield self
            finally:
                self._ended.set()

    def wait_for_more(self, answers: int = 20) -> None:
        """Waits until so many more requests were answered."""
        goal = self.answered + answers
        _wait_for(lambda: self.answered >= goal, f"{answers} more answers; wrong so far: {self.wrong}")


@pytest.fixture(scope="module")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Upstream]]:
    folder = tmp_path_factory.mktemp("upstreams")
    model = save_tiny_graph(folder / "tiny.onnx")
    servers = [Upstream(folder / str(number), model) for number in range(2)]
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
            server.start()
        for server in servers:
            server.wait_until_ready()
        yield servers


@pytest.fixture(scope="module")
def proxy(upstreams: list[Upstream]) -> Iterator[Proxy]:
    with tempfile.TemporaryDirectory() as folder, running_nginx(Path(folder), [one.port for one in upstreams]) as run:
        yield run


@needs_nginx
def test_what_nginx_answers_itself_is_in_the_services_form(proxy: Proxy) -> None:
    large = httpx.post(f"{proxy.url}/classify", content=bytes(Settings().max_bytes + 1), timeout=60)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
    for path in ("/metrics", "/admin/reload"):
        hidden = httpx.post(proxy.url + path)
        assert (hidden.status_code, hidden.json()["error"]["code"]) == (404, "not_found"), path
    # One at the limit goes through; the service's own limit is the same.
    at_limit = httpx.post(f"{proxy.url}/classify", content=bytes(Settings().max_bytes), timeout=60)
    assert at_limit.json()["error"]["code"] == "not_an_image"


@needs_nginx
def test_what_a_client_says_of_a_proxy_is_not_believed(proxy: Proxy) -> None:
    made_up = {"x-forwarded-prefix": "/made-up", "x-forwarded-host": "example.org", "x-forwarded-for": "203.0.113.7"}
    assert httpx.get(f"{proxy.url}/docs.json", headers=made_up).json()["servers"] == [{"url": "/"}]
    other = httpx.post(f"{proxy.url}/classify", headers={**made_up, "origin": "https://example.org"})
    assert other.json()["error"]["code"] == "cross_origin_refused"
    own = httpx.post(f"{proxy.url}/classify", headers={"origin": proxy.url})
    assert own.json()["error"]["code"] == "empty_body"


NO_REQUESTS = {
    "no HTTP": (b"hello\r\n\r\n", 400, "bad_http"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_http"),
    "another HTTP": (b"GET / HTTP/3.1\r\nHost: x\r\n\r\n", 400, "bad_http"),
    "an unknown transfer": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n", 400, "bad_http"),
    "a long path": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "head_too_large"),
    "a large header": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431, "head_too_large"),
    "a method of nobody's": (b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method_not_allowed"),
}


@needs_nginx
@pytest.mark.parametrize("name", NO_REQUESTS)
def test_what_nginx_takes_for_no_request_is_refused_in_the_services_form(proxy: Proxy, name: str) -> None:
    data, status, code = NO_REQUESTS[name]
    host, port = proxy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(data)
        answered, headers, told = read_answer(connection)
    assert (answered, told["error"]["code"]) == (status, code)
    assert list(told["error"]) == ["code", "message", "request_id"]
    assert headers["content-type"] == "application/json"
    _wait_for(lambda: told["error"]["request_id"] in proxy.log.read_text(), "a line in the log")


@needs_nginx
def test_nginx_without_a_place_for_bodies_says_so_in_the_services_form(proxy: Proxy) -> None:
    bodies = proxy.log.parent / "nginx-bodies"
    moved = bodies.rename(bodies.with_name("moved"))
    try:
        failed = httpx.post(f"{proxy.url}/classify", content=bytes(100_000), timeout=60)
    finally:
        moved.rename(bodies)
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "internal_error")


@needs_nginx
def test_a_request_has_one_name(proxy: Proxy) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    header = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    assert httpx.get(f"{proxy.url}/readyz", headers=header).headers["x-request-id"] == trace
    injected = httpx.get(f"{proxy.url}/readyz", headers={"x-request-id": 'a","status":"'}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", injected)
    _wait_for(lambda: injected in proxy.log.read_text(), "a line in the log")
    assert {trace, injected} <= {line["request_id"] for line in proxy.lines()}, "every line is JSON"


@pytest.mark.thorough
@needs_nginx
def test_nothing_is_lost_when_a_server_dies_or_ends_under_load(proxy: Proxy, upstreams: list[Upstream]) -> None:
    first = upstreams[0]
    address = f"127.0.0.1:{first.port}"

    def answered_by_first() -> int:
        return sum(line["upstream"] == address and line["status"] == 200 for line in proxy.lines())

    picture = encode(Image.fromarray(noise(32, 32)))
    with Load(proxy.url, picture).running() as load:
        load.wait_for_more()
        _wait_for(lambda: answered_by_first() > 0, "an answer of the first server")
        first.kill()
        load.wait_for_more(40)
        before = answered_by_first()
        first.start()
        first.wait_until_ready()
        _wait_for(lambda: answered_by_first() > before + 5, "it takes part again")
        first.end()
        load.wait_for_more(40)
    assert load.wrong == []
    assert load.answered > 100
    passed_on = [line for line in proxy.lines() if line["upstream"].startswith(f"{address}, ")]
    assert passed_on, "some were sent to the server that was gone, and then to another"
    assert all(line["status"] == 200 for line in passed_on)


@needs_nginx
def test_without_any_server_the_answer_says_when_to_come_back() -> None:
    ports = [free_port(), free_port()]
    with tempfile.TemporaryDirectory() as folder, running_nginx(Path(folder), ports) as proxy:
        for _ in range(2):  # tried, and then known to be gone
            answer = httpx.post(f"{proxy.url}/classify", files={"image": b"x"}, timeout=60)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "not_ready"
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["request_id"]
        _wait_for(lambda: len([line for line in proxy.lines() if line["method"] == "POST"]) == 2, "the log's lines")
        tried = [len(line["upstream"].split(", ")) for line in proxy.lines() if line["method"] == "POST"]
        assert max(tried) <= 2, "a request that kills servers does not go round"


def test_its_limits_fit_the_services() -> None:
    text = (NGINX / "nginx.conf").read_text()

    def value(directive: str) -> str:
        (found,) = set(re.findall(rf"^\s+{directive} (.*);$", text, re.MULTILINE))
        return str(found)

    assert value("client_max_body_size") == f"{Settings().max_bytes / 2**20:.0f}m"
    assert float(value("proxy_read_timeout").removesuffix("s")) > ANSWER_SECONDS
    in_upstream = re.search(r"upstream servers \{(.*?)^    \}", text, re.MULTILINE | re.DOTALL)
    assert in_upstream is not None
    (kept,) = re.findall(r"keepalive_timeout (\d+)s;", in_upstream[1])
    assert int(kept) < 5, "uvicorn closes connections that are idle for 5 s, and nginx must not use one just then"
