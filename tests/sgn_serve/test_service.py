"""The service over real HTTP: what a server, its connections and BentoML's application behind ours change."""

import json
import socket
import subprocess
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from PIL import Image

from benchmarks.service.server import free_port
from sgn_serve import check
from sgn_serve.settings import current_settings
from tests.sgn_serve.asking import FORM, RED, check_error, classify
from tests.sgn_serve.bad_graphs import save_bad_graph
from tests.sgn_serve.conftest import MAX_BYTES
from tests.sgn_serve.sample_pictures import encode
from tests.sgn_serve.server import serve_command, serve_environment
from tests.sgn_serve.serving.test_model_card import FIGURES
from tests.sgn_serve.tiny_graph import SHA256, save_tiny_graph


def test_an_answer(client, app_client):
    over_http = client.post("/classify", files={"image": RED})
    assert over_http.json()["label"] == "red"
    assert over_http.json()["model"] == SHA256
    assert over_http.content == app_client.post("/classify", files={"image": RED}).content, "as without a server"


@pytest.mark.parametrize(
    ("request_", "status", "code", "message"),
    [
        ({"files": {"image": b"hello"}}, 415, "not_an_image", "PNG, JPEG"),
        ({}, 400, "empty_body", "no body"),
        ({"content": RED, "headers": {"content-type": "text/plain"}}, 415, "wrong_content_type", "text/plain"),
        ({"files": {"image": b"\0" * MAX_BYTES}}, 413, "body_too_large", "100000 bytes"),
    ],
    ids=["not an image", "no body", "no form", "too large a body"],
)
def test_refusals_over_http(client, server, request_, status, code, message):
    check_error(client.post("/classify", **request_), status, code, message)
    assert "Traceback" not in server.log.read_text()
    assert classify(client)["label"] == "red", "the next request is answered as ever"


def test_bentomls_answers_have_an_id_and_our_form_of_errors(client):
    assert client.get("/livez", headers={"x-request-id": "x2"}).headers["x-request-id"] == "x2"
    check_error(client.get("/nowhere", headers={"x-request-id": "x1"}), 404, "not_found", "nothing at /nowhere")
    response = client.put("/classify")
    check_error(response, 405, "method_not_allowed", "does not take PUT")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/nothing", "/classify/x"])
def test_wrong_path(client, path):
    check_error(client.post(path, files={"image": RED}), 404, "not_found", "nothing at /")


def test_a_body_without_declared_length_is_cut_off_at_the_limit(client, server):
    def endless():
        yield b'--edge\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
        for _ in range(50):
            yield b"\0" * 10_000

    response = client.post("/classify", content=endless(), headers={"content-type": FORM})
    check_error(response, 413, "body_too_large", "100000 bytes")
    assert "Traceback" not in server.log.read_text()


def test_the_log_says_once_where_the_page_is(client, server):
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (line,) = [line for line in lines if "/ui" in line["message"] and line["logger"] == "bentoml.sgn_serve"]
    (address,) = [word for word in line["message"].split() if word.startswith("http://")]
    assert address == f"{server.url}/ui"
    assert client.get(address).headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("encoding", ["identity", "gzip", "br"])
def test_a_body_that_nobody_wants_spoils_no_answer(client, server, encoding):
    def endless():
        for _ in range(50):
            yield b"x" * 10_000

    for path in ("/ui", "/ui/static/main.js", "/", "/livez", "/model"):
        response = client.request("GET", path, content=endless(), headers={"content-encoding": encoding})
        assert response.status_code == 200, path
        assert len(response.content) == int(response.headers["content-length"]), path
    assert "Traceback" not in server.log.read_text()


def test_a_client_that_hangs_up_leaves_no_trace(client, server):
    address = server.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1]))) as connection:
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
            b"Content-Type: multipart/form-data; boundary=edge\r\n\r\n--edge\r\n"
        )
    assert classify(client)["label"] == "red"
    assert "Traceback" not in server.log.read_text()


UNFINISHED = {
    "form": ("/classify", FORM, "--edge\r\n"),
    "no form": ("/classify", "text/plain", ""),
    "tensors": ("/v2/models/self-gradient-network/infer", "application/json", "{"),
}


def test_a_body_that_does_not_come_is_given_up(client, server):
    address = server.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        connections = {}
        for name, (path, media_type, begun) in UNFINISHED.items():
            connection = socket.create_connection((address[0], int(address[1])), timeout=60)
            connections[name] = stack.enter_context(connection)
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
                f"Content-Type: {media_type}\r\n\r\n{begun}".encode()
            )
        for name, connection in connections.items():
            answer = b""
            while chunk := connection.recv(10_000):  # the server closes the connection in the end
                answer += chunk
            head, body = answer.split(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 "), name
            assert b"too_slow_request" in body, name
    assert classify(client)["label"] == "red"


def test_requests_at_the_same_time_get_their_own_answers(server):
    colours = ["red", "green", "blue"] * 10
    green = (0, 255, 0)  # Pillow's "green" is half as bright
    files = [encode(Image.new("RGB", (8, 8), green if colour == "green" else colour)) for colour in colours]

    def answer(file):
        return httpx.post(f"{server.url}/classify", files={"image": file}, timeout=30).json()["label"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(answer, files)) == colours


CANNOT_BE_SERVED = pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"SGN_MODEL": "eps.onnx"}, "eps.onnx: its metadata self_gradient_network cannot be used"),
        ({"SGN_MODEL": "figures.onnx"}, "figures.json: these are no figures of a model"),
        ({"SGN_MODEL": "nowhere.onnx"}, "nowhere.onnx: no such file"),
        ({"SGN_MODEL": "pyproject.toml"}, "pyproject.toml: not an ONNX"),
        ({"SGN_PROVIDERS": "abacus"}, "SGN_PROVIDERS asks for abacus"),
        ({"SGN_MAX_BYTES": "many"}, "SGN_MAX_BYTES='many'"),
        ({"SGN_COLOUR": "red"}, "SGN_COLOUR is not a setting"),
    ],
)


def broken(folder, settings):
    """The environment of a server that cannot serve: files of the folder by their full paths."""
    model = save_tiny_graph(folder / "tiny.onnx")
    save_tiny_graph(folder / "eps.onnx", checkpoint={"epsilon": "8/255"})
    save_bad_graph("endless loop", folder / "loop.onnx")
    save_bad_graph("memory", folder / "memory.onnx")
    figures = save_tiny_graph(folder / "figures.onnx").with_suffix(".json")
    figures.write_text(json.dumps({**FIGURES, "disagreement": 0.54}))
    bad = settings.get("SGN_MODEL", model.name)
    return {**settings, "SGN_MODEL": str(folder / bad) if (folder / bad).exists() else bad}


@pytest.fixture
def environment(monkeypatch):
    """Return a function that sets environment variables for the rest of the test."""

    def set_all(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        current_settings.cache_clear()

    yield set_all
    current_settings.cache_clear()


@CANNOT_BE_SERVED
def test_what_cannot_be_served_is_one_line(tmp_path, environment, capfd, settings, complaint):
    environment(broken(tmp_path, settings))
    assert check.main() == 1
    printed, told = capfd.readouterr()
    assert printed == ""
    (line,) = told.splitlines()
    assert line.startswith("error: ")
    assert complaint in line


@pytest.fixture(scope="module")
def check_first():
    """Return what BentoML calls before it starts any worker."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BentoML's own
        from sgn_serve.service import RobustClassifier
    return RobustClassifier.inner.check_first  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"SGN_MODEL": "figures.onnx"}, "figures.json: these are no figures of a model"),
        ({"SGN_MODEL": "loop.onnx", "SGN_TRIAL_SECONDS": "1"}, "loop.onnx: it does not answer within 1 s"),
        ({"SGN_MODEL": "memory.onnx"}, "memory.onnx: it takes more than 4000 MB of memory"),
        ({"SGN_MAX_BYTES": "many"}, "SGN_MAX_BYTES='many'"),
    ],
    ids=["model", "endless loop", "memory", "setting"],
)
def test_what_cannot_be_served_ends_the_server_with_that_line(
    tmp_path, environment, check_first, capfd, settings, complaint
):
    """The next test shows that BentoML calls it."""
    environment(broken(tmp_path, settings))
    with pytest.raises(SystemExit) as ended:
        check_first()
    assert ended.value.code == 1
    printed, told = capfd.readouterr()
    (line,) = (printed + told).strip().splitlines()
    assert line.startswith("error: ")
    assert complaint in line


def test_bentoml_serve_ends_with_that_line(tmp_path):
    broken_settings = serve_environment(tmp_path, **broken(tmp_path, {"SGN_MODEL": "figures.onnx"}))
    ended = subprocess.run(
        serve_command(free_port()), env=broken_settings, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    (line,) = (ended.stdout + ended.stderr).strip().splitlines()
    assert line.startswith("error: ")
    assert "figures.json: these are no figures of a model" in line
    assert line in ended.stderr
