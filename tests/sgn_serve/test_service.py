"""The service over real HTTP: what it answers, and that nothing a client sends makes it a 500 or a stack trace."""

import json
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.sgn_serve.conftest import MAX_BYTES
from tests.sgn_serve.sample_pictures import encode, noise, png
from tests.sgn_serve.server import free_port, running_server, serve_command, serve_environment
from tests.sgn_serve.serving.test_model_card import FIGURES
from tests.sgn_serve.tiny_graph import SHA256, save_tiny_graph

RED = encode(Image.new("RGB", (8, 8), (200, 10, 10)))
FORM = "multipart/form-data; boundary=edge"


def classify(client, picture=RED, **fields):
    response = client.post("/classify", files={"image": ("x.png", picture)}, data=fields)
    assert response.status_code == 200, response.text
    return response.json()


def test_an_answer(client):
    answer = classify(client)
    assert answer["label"] == "red"
    assert answer["index"] == 0
    assert answer["self_gradient"] is True
    assert answer["model"] == SHA256
    assert [entry["label"] for entry in answer["top_k"]] == ["red", "blue"]
    assert answer["top_k"][0]["probability"] == answer["probability"]
    assert answer["plain"]["label"] == "red"
    assert answer["plain"]["probability"] > answer["probability"], "the block turns the picture bluer"
    assert 0 < answer["disagreement"] < 0.1
    assert answer["suspicious"] is None


@pytest.mark.parametrize("text", ["false", "False", "0", "off", "no"])
def test_the_block_switched_off_in_the_form(client, text):
    answer = classify(client, self_gradient=text)
    assert answer["self_gradient"] is False
    assert answer["plain"] is None
    assert answer["disagreement"] is None
    assert answer["probability"] == classify(client)["plain"]["probability"]


def test_the_block_switched_off_in_the_query(client):
    response = client.post("/classify?self_gradient=false", files={"image": RED})
    assert response.json()["self_gradient"] is False
    both = client.post("/classify?self_gradient=false", files={"image": RED}, data={"self_gradient": "true"})
    assert both.json()["self_gradient"] is True, "the form counts"
    check_error(client.post("/classify?top_k=0", files={"image": RED}, data={"top_k": "1"}), 400, "bad_top_k", "'0'")


def test_how_many_classes_are_listed(client):
    assert len(classify(client, top_k="1")["top_k"]) == 1
    assert len(classify(client, top_k="3")["top_k"]) == 3
    assert len(classify(client, top_k="1000")["top_k"]) == 3, "all there are"
    assert len(client.post("/classify?top_k=3", files={"image": RED}).json()["top_k"]) == 3


def test_several_pictures_are_answered_or_refused_each_on_its_own_in_order(client):
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    files = [encode(Image.new("RGB", (8, 8), colour)) for colour in colours]
    sent = [
        files[0],
        b"no picture",
        files[1],
        b"",
        files[2],
        encode(Image.fromarray(noise()))[:100],
        png(50_000, 50_000, 8, 2, b""),
    ]
    response = client.post(
        "/classify_batch", files=[("images", file) for file in sent], data={"top_k": "1", "self_gradient": "false"}
    )
    assert response.status_code == 200, response.text
    answers = response.json()["predictions"]
    told = [answer["error"]["code"] if "error" in answer else answer["label"] for answer in answers]
    assert told == ["red", "not_an_image", "green", "not_an_image", "blue", "damaged_image", "too_many_pixels"]
    alone = classify(client, files[1], top_k="1", self_gradient="false")
    assert answers[2] == alone
    assert {answer["error"]["request_id"] for answer in answers if "error" in answer} == {
        response.headers["x-request-id"]
    }


def test_no_more_pictures_in_one_request_than_configured(client):
    assert len(client.post("/classify_batch", files=[("images", RED)] * 8).json()["predictions"]) == 8
    check_error(client.post("/classify_batch", files=[("images", RED)] * 9), 400, "too_many_images", "send 8 at most")
    check_error(client.post("/classify_batch", files={"image": RED}), 400, "unknown_field", "images, self_gradient")
    check_error(client.post("/classify_batch", files={"images": (None, "text")}), 400, "not_a_file", "-F images=@x.png")


def test_a_request_keeps_its_id(client):
    def named(**headers):
        return client.post("/classify", files={"image": RED}, headers=headers).headers["x-request-id"]

    assert named(**{"x-request-id": "abc-123"}) == "abc-123"
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert named(traceparent=f"00-{trace}-00f067aa0ba902b7-01") == trace
    assert named() != named()
    assert len(named(**{"x-request-id": 'a b"c'})) == 32, "nothing that could break a log line"
    assert client.get("/nowhere", headers={"x-request-id": "x1"}).json()["error"]["request_id"] == "x1"
    assert client.get("/livez", headers={"x-request-id": "x2"}).headers["x-request-id"] == "x2"


def test_any_format_and_size(client):
    for file_format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        assert classify(client, encode(Image.new("RGB", (31, 57), "blue"), file_format))["label"] == "blue"


def multipart(*parts: tuple[str, bytes], end: bytes = b"--edge--\r\n") -> bytes:
    """A form written by hand: (header, content) parts."""
    return b"".join(b"--edge\r\n%s\r\n\r\n%s\r\n" % (header.encode(), data) for header, data in parts) + end


IMAGE_HEADER = 'Content-Disposition: form-data; name="image"; filename="x.png"'

BAD_REQUESTS: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "not an image": ({"files": {"image": b"hello"}}, 415, "not_an_image", "PNG, JPEG"),
    "text file called png": ({"files": {"image": ("x.png", b"hello", "image/png")}}, 415, "not_an_image", "PNG"),
    "a format not listed": ({"files": {"image": encode(Image.new("L", (8, 8)), "PPM")}}, 415, "not_an_image", "PNG"),
    "empty file": ({"files": {"image": ("x.png", b"")}}, 400, "empty_file", "empty"),
    "truncated PNG": ({"files": {"image": encode(Image.fromarray(noise()))[:100]}}, 400, "damaged_image", "truncated"),
    "truncated JPEG": (
        {"files": {"image": encode(Image.fromarray(noise(64, 64)), "JPEG")[:1500]}},
        400,
        "damaged_image",
        "truncated",
    ),
    "floating-point pixels": (
        {"files": {"image": encode(Image.new("F", (8, 8)), "TIFF")}},
        415,
        "unsupported_pixels",
        "8 or 16 bits",
    ),
    "decompression bomb": ({"files": {"image": png(50_000, 50_000, 8, 2, b"")}}, 413, "too_many_pixels", "2500000000"),
    "empty body": ({}, 400, "empty_body", "no body"),
    "empty form": ({"content": b"", "headers": {"content-type": FORM}}, 400, "no_image", "no field 'image'"),
    "form with no part": (
        {"content": b"--edge--\r\n", "headers": {"content-type": FORM}},
        400,
        "no_image",
        "no field 'image'",
    ),
    "wrong field name": ({"files": {"file": RED}}, 400, "unknown_field", "'file'"),
    "unknown field beside": (
        {"files": {"image": RED}, "data": {"selfgradient": "false"}},
        400,
        "unknown_field",
        "'selfgradient'",
    ),
    "unknown query parameter": (
        {"files": {"image": RED}, "params": {"block": "off"}},
        400,
        "unknown_parameter",
        "'block'",
    ),
    "string instead of file": (
        {"files": {"image": (None, "http://127.0.0.1/secret.png")}},
        400,
        "not_a_file",
        "-F image=@x.png",
    ),
    "long string instead of file": ({"files": {"image": (None, "x" * 5000)}}, 400, "bad_form", "1KB"),
    "two files": ({"files": [("image", RED), ("image", RED)]}, 400, "too_many_images", "send 1 at most"),
    "ten files": ({"files": [("image", RED)] * 10}, 400, "bad_form", "Too many files"),
    "file and string": ({"files": [("image", RED), ("image", (None, "x"))]}, 400, "too_many_images", "2"),
    "too many fields": ({"files": [("image", (None, "x"))] * 20}, 400, "bad_form", "Too many fields"),
    "unknown flag": (
        {"files": {"image": RED}, "data": {"self_gradient": "maybe"}},
        400,
        "bad_flag",
        "expected true or false",
    ),
    "empty flag": ({"files": {"image": RED}, "data": {"self_gradient": ""}}, 400, "bad_flag", "expected true or false"),
    "flag as a file": (
        {"files": {"image": RED, "self_gradient": b"true"}},
        400,
        "bad_flag",
        "a file, not text",
    ),
    "top_k of none": ({"files": {"image": RED}, "data": {"top_k": "0"}}, 400, "bad_top_k", "from 1 to 1000"),
    "top_k that is no number": ({"files": {"image": RED}, "params": {"top_k": "1e1"}}, 400, "bad_top_k", "'1e1'"),
    "top_k without end": ({"files": {"image": RED}, "data": {"top_k": "9" * 1000}}, 400, "bad_top_k", "1000"),
    "top_k twice": ({"files": {"image": RED}, "params": {"top_k": ["1", "2"]}}, 400, "bad_top_k", "2 times"),
    "flag twice": (
        {"files": {"image": RED}, "data": {"self_gradient": ["true", "false"]}},
        400,
        "bad_flag",
        "2 times",
    ),
    "JSON body": ({"json": {"image": "aGVsbG8="}}, 415, "wrong_content_type", "application/json"),
    "urlencoded form": ({"data": {"self_gradient": "false"}}, 415, "wrong_content_type", "x-www-form-urlencoded"),
    "bare picture": (
        {"content": RED, "headers": {"content-type": "image/png"}},
        415,
        "wrong_content_type",
        "image/png",
    ),
    "no content type": ({"content": RED}, 415, "wrong_content_type", "no stated type"),
    "BentoML's pickle": (
        {"content": b"x", "headers": {"content-type": "application/vnd.bentoml+pickle"}},
        415,
        "wrong_content_type",
        "vnd.bentoml+pickle",
    ),
    "missing boundary": (
        {"content": multipart((IMAGE_HEADER, RED)), "headers": {"content-type": "multipart/form-data"}},
        400,
        "bad_form",
        "boundary",
    ),
    "wrong boundary": (
        {"content": multipart((IMAGE_HEADER, RED)), "headers": {"content-type": FORM + "x"}},
        400,
        "bad_form",
        "multipart",
    ),
    "part without a name": (
        {"content": multipart(("Content-Disposition: form-data", RED)), "headers": {"content-type": FORM}},
        400,
        "bad_form",
        "name",
    ),
    "part without a header": (
        {"content": multipart(("X: y", RED)), "headers": {"content-type": FORM}},
        400,
        "bad_form",
        "name",
    ),
    "form cut off": (
        {"content": multipart((IMAGE_HEADER, RED), end=b"")[:-30], "headers": {"content-type": FORM}},
        400,
        "no_image",
        "no field 'image'",
    ),
    "unknown charset": (
        {"content": multipart((IMAGE_HEADER, RED)), "headers": {"content-type": FORM + "; charset=martian"}},
        400,
        "bad_form",
        "'martian': send it as UTF-8",
    ),
    "a charset that is not a form's": (
        {"content": multipart((IMAGE_HEADER, RED)), "headers": {"content-type": FORM + '; Charset="utf-16"'}},
        400,
        "bad_form",
        "'utf-16'",
    ),
    "body too large": ({"files": {"image": b"\0" * MAX_BYTES}}, 413, "body_too_large", "100000 bytes"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_requests_are_4xx_and_say_what_is_accepted(client, server, name):
    request, status, code, message = BAD_REQUESTS[name]
    response = client.post("/classify", **request)
    check_error(response, status, code, message)
    assert "Traceback" not in server.log.read_text()
    assert classify(client)["label"] == "red", "the next request is answered as ever"


def check_error(response, status, code, message):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert list(error) == ["code", "message", "request_id"]
    assert error["code"] == code
    assert message in error["message"]
    assert error["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_wrong_method(client, method):
    response = client.request(method, "/classify")
    check_error(response, 405, "method_not_allowed", f"does not take {method}")
    assert response.headers["allow"] == "POST"


def test_without_a_token_nobody_can_reload(client):
    check_error(client.post("/admin/reload"), 403, "admin_closed", "set SGN_API_TOKEN")


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


def test_a_client_that_hangs_up_leaves_no_trace(client, server):
    address = server.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1]))) as connection:
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
            b"Content-Type: multipart/form-data; boundary=edge\r\n\r\n--edge\r\n"
        )
    assert classify(client)["label"] == "red"
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("path", "media_type", "begun"),
    [
        ("/classify", FORM, "--edge\r\n"),
        ("/classify", "text/plain", ""),
        ("/v2/models/self-gradient-network/infer", "application/json", "{"),
    ],
    ids=["form", "no form", "tensors"],
)
def test_a_body_that_does_not_come_is_given_up(client, server, path, media_type, begun):
    address = server.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=60) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
            f"Content-Type: {media_type}\r\n\r\n{begun}".encode()
        )
        answer = b""
        while chunk := connection.recv(10_000):  # until the server closes the connection
            answer += chunk
    head, body = answer.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"too_slow_request" in body
    assert classify(client)["label"] == "red"


def test_requests_at_the_same_time_get_their_own_answers(server):
    colours = ["red", "green", "blue"] * 10
    green = (0, 255, 0)  # Pillow's "green" is half as bright
    files = [encode(Image.new("RGB", (8, 8), green if colour == "green" else colour)) for colour in colours]

    def answer(file):
        return httpx.post(f"{server.url}/classify", files={"image": file}, timeout=30).json()["label"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(answer, files)) == colours


def test_a_heat_map_over_the_picture(client):
    response = client.post("/explain", files={"image": encode(Image.new("RGB", (80, 40), "red"))})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    drawn = Image.open(BytesIO(response.content))
    assert drawn.size == (256, 256)
    check_error(client.post("/explain", files={"image": b"x"}), 415, "not_an_image", "PNG")
    check_error(client.post("/explain", files={"image": RED}, data={"top_k": "1"}), 400, "unknown_field", "'top_k'")
    check_error(client.post("/explain?top_k=1", files={"image": RED}), 400, "unknown_parameter", "no query parameters")


def test_the_model_card(client):
    card = client.get("/model").json()
    assert card["model"] == SHA256
    assert card["classes"] == ["red", "green", "blue"]
    assert card["preprocessing"]["height"] == 8
    assert card["measured"] is None, "nothing is invented"


def test_the_api_describes_itself(client):
    operation = client.get("/docs.json").json()["paths"]["/classify"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["image"]
    assert set(form["properties"]) == {"image", "self_gradient", "top_k"}
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Prediction")


def test_settings_and_a_network_without_a_block(tmp_path):
    model = save_tiny_graph(tmp_path / "plain.onnx", block=False)
    with running_server(tmp_path, SGN_MODEL=str(model)) as server, httpx.Client(base_url=server.url) as client:
        answer = classify(client)
        assert answer["self_gradient"] is False
        response = client.post("/classify", files={"image": RED}, data={"self_gradient": "true"})
        check_error(response, 400, "no_block", "no self-gradient block")
        check_error(client.post("/explain", files={"image": RED}), 400, "no_gradient", "self-gradient")


def test_the_environment_sets_the_flags_default_the_limit_and_the_background(tmp_path):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    settings = {"SGN_MODEL": str(model), "SGN_SELF_GRADIENT": "false", "SGN_MAX_DISAGREEMENT": "0.001"}
    with (
        running_server(tmp_path, **settings, SGN_BACKGROUND="#0000ff") as server,
        httpx.Client(base_url=server.url) as client,
    ):
        assert classify(client)["self_gradient"] is False
        assert classify(client)["suspicious"] is None
        answer = classify(client, self_gradient="true")
        assert answer["self_gradient"] is True
        assert answer["suspicious"] is (answer["disagreement"] > 0.001) is True
        transparent = encode(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))
        assert classify(client, transparent)["label"] == "blue"


@pytest.mark.parametrize(
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
def test_what_cannot_be_served_ends_the_server_with_one_line(tmp_path, settings, complaint):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    save_tiny_graph(tmp_path / "eps.onnx", checkpoint={"epsilon": "8/255"})
    figures = save_tiny_graph(tmp_path / "figures.onnx").with_suffix(".json")
    figures.write_text(json.dumps({**FIGURES, "disagreement": 0.54}))
    bad = settings.get("SGN_MODEL", model.name)
    settings = {**settings, "SGN_MODEL": str(tmp_path / bad) if (tmp_path / bad).exists() else bad}
    environment = serve_environment(tmp_path, **settings)
    ended = subprocess.run(
        serve_command(free_port()), env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert complaint in ended.stderr
    (line,) = (ended.stdout + ended.stderr).strip().splitlines()
    assert line.startswith("error: ")


def test_pictures_are_classified_as_the_array_that_they_hold(client):
    pixels = noise(8, 8, seed=3)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    logits = 10 * (pixels / 255).mean(axis=(0, 1))
    probabilities = np.exp(logits) / np.exp(logits).sum()
    answer = classify(client, file.getvalue(), self_gradient="false")
    assert answer["index"] == probabilities.argmax()
    assert answer["probability"] == pytest.approx(probabilities.max(), abs=1e-5)
