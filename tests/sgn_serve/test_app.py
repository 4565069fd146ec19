"""The application's answers, without a server around it: statuses, JSON, headers and limits."""

import base64
import gzip
import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.testclient import TestClient

from sgn_serve.app import State, create_app
from sgn_serve.http.connections import NEW_CONNECTION
from sgn_serve.pictures.formats import AVAILABLE
from sgn_serve.settings import Settings
from tests.sgn_serve.asking import FORM, RED, check_error, classify
from tests.sgn_serve.conftest import MAX_BYTES
from tests.sgn_serve.sample_pictures import encode, noise, png
from tests.sgn_serve.server import application_client
from tests.sgn_serve.tiny_graph import SHA256, save_tiny_graph


@pytest.fixture
def client(app_client):
    """The application itself, under the name that the tests of a running server use."""
    return app_client


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
    assert client.get("/model", headers={"x-request-id": "x2"}).headers["x-request-id"] == "x2"


def test_any_format_and_size(client):
    for file_format in AVAILABLE:
        assert classify(client, encode(Image.new("RGB", (31, 57), "blue"), file_format))["label"] == "blue"


def multipart(*parts: tuple[str, bytes], end: bytes = b"--edge--\r\n") -> bytes:
    """A form written by hand: (header, content) parts."""
    return b"".join(b"--edge\r\n%s\r\n\r\n%s\r\n" % (header.encode(), data) for header, data in parts) + end


IMAGE_HEADER = 'Content-Disposition: form-data; name="image"; filename="x.png"'

JSON = {"content-type": "application/json"}
PACKED = {"content-type": "image/png", "content-encoding": "gzip"}
BAD_REQUESTS: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "not an image": ({"files": {"image": b"hello"}}, 415, "not_an_image", "PNG, JPEG"),
    "text file called png": ({"files": {"image": ("x.png", b"hello", "image/png")}}, 415, "not_an_image", "PNG"),
    "a format not listed": ({"files": {"image": encode(Image.new("L", (8, 8)), "PCX")}}, 415, "not_an_image", "PNG"),
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
    "long string instead of file": ({"files": {"image": (None, "x" * 5000)}}, 400, "not_a_file", "-F image=@x.png"),
    "long option": ({"files": {"image": RED, "top_k": (None, "1" * 5000)}}, 400, "bad_form", "1KB"),
    "two files": ({"files": [("image", RED), ("image", RED)]}, 400, "too_many_images", "send 1 at most"),
    "ten files": ({"files": [("image", RED)] * 10}, 400, "bad_form", "Too many files"),
    "file and string": ({"files": [("image", RED), ("image", (None, "x"))]}, 400, "too_many_images", "2"),
    "too many fields": ({"files": [("top_k", (None, "1"))] * 20}, 400, "bad_form", "Too many fields"),
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
    "JSON without a picture": ({"json": {"top_k": 1}}, 400, "no_image", "no field 'image'"),
    "JSON that is no object": ({"json": ["aGVsbG8="]}, 400, "bad_json", '{"image": "..."}'),
    "JSON that is none": ({"content": b"{", "headers": JSON}, 400, "bad_json", "not JSON"),
    "JSON in UTF-16": ({"content": '{"image": ""}'.encode("utf-16"), "headers": JSON}, 400, "bad_json", "not UTF-8"),
    "JSON with a key twice": ({"content": b'{"top_k":1,"top_k":2}', "headers": JSON}, 400, "bad_json", "a key twice"),
    "JSON with NaN": ({"content": b'{"top_k":NaN}', "headers": JSON}, 400, "bad_json", "NaN is no number"),
    "JSON with a long number": (
        {"content": b'{"top_k":' + b"9" * 5000 + b"}", "headers": JSON},
        400,
        "bad_json",
        "too many digits",
    ),
    "JSON with a number of many digits": (
        {"content": b'{"image":"","top_k":' + b"9" * 4000 + b"}", "headers": JSON},
        400,
        "bad_json",
        "'top_k' must be a short text",
    ),
    "JSON in JSON": (
        {"content": b'{"top_k":' + b"[" * 9000 + b"]" * 9000 + b"}", "headers": JSON},
        400,
        "bad_json",
        "nested too deeply",
    ),
    "JSON of many values": ({"content": b"[" + b"[]," * 9000, "headers": JSON}, 400, "bad_json", "10000 values"),
    "JSON with a list": ({"json": {"image": ["aGVsbG8="]}}, 400, "bad_json", "base64, in a string"),
    "JSON with an address": ({"json": {"image": "http://127.0.0.1/x.png"}}, 400, "bad_json", "no base64"),
    "JSON with no text": ({"content": rb'{"image":"\ud800"}', "headers": JSON}, 400, "bad_json", "no base64"),
    "JSON with nothing": ({"json": {"image": ""}}, 400, "empty_file", "empty"),
    "JSON with hello": ({"json": {"image": "aGVsbG8="}}, 415, "not_an_image", "PNG"),
    "JSON with an unknown field": ({"json": {"image": "", "x": 1}}, 400, "unknown_field", "'x'"),
    "JSON with a wrong option": ({"json": {"image": "aGVsbG8=", "top_k": 0}}, 400, "bad_top_k", "from 1 to 1000"),
    "JSON with half a number": ({"json": {"image": "aGVsbG8=", "top_k": 1.5}}, 400, "bad_json", "a whole number"),
    "JSON of nothing": ({"content": b"", "headers": JSON}, 400, "empty_body", "no body"),
    "urlencoded form": ({"data": {"self_gradient": "false"}}, 415, "wrong_content_type", "x-www-form-urlencoded"),
    "text": ({"content": RED, "headers": {"content-type": "text/plain"}}, 415, "wrong_content_type", "text/plain"),
    "bare text": ({"content": b"hello", "headers": {"content-type": "image/png"}}, 415, "not_an_image", "PNG"),
    "packed by brotli": (
        {"content": RED, "headers": {"content-type": "image/png", "content-encoding": "br"}},
        415,
        "unsupported_encoding",
        "is packed as br: send it plain, or as gzip",
    ),
    "packed twice": (
        {"content": RED, "headers": {"content-type": "image/png", "content-encoding": "gzip, gzip"}},
        415,
        "unsupported_encoding",
        "gzip, gzip",
    ),
    "not packed": ({"content": RED, "headers": PACKED}, 400, "damaged_encoding", "cannot be unpacked"),
    "packed and cut off": ({"content": gzip.compress(RED)[:-1], "headers": PACKED}, 400, "damaged_encoding", "cut off"),
    "packed and more": (
        {"content": gzip.compress(RED) + b"xy", "headers": PACKED},
        400,
        "damaged_encoding",
        "unpacked",
    ),
    "packed nothing": ({"content": gzip.compress(b""), "headers": PACKED}, 400, "empty_body", "no body"),
    "packed nothing without end": (
        {"content": gzip.compress(b"") * 2000, "headers": PACKED},
        400,
        "damaged_encoding",
        "1000 members",
    ),
    "a bomb": ({"content": gzip.compress(bytes(20_000_000)), "headers": PACKED}, 413, "body_too_large", "100000 bytes"),
    "a bomb in a form": (
        {
            "content": gzip.compress(multipart((IMAGE_HEADER, bytes(20_000_000)))),
            "headers": {"content-type": FORM, "content-encoding": "gzip"},
        },
        413,
        "body_too_large",
        "100000 bytes",
    ),
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
        "bad_form",
        "cut off before its last boundary",
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


# Starlette leaves the file of a form that was cut off to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. .*SpooledTemporaryFile")
@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_requests_are_4xx_and_say_what_is_accepted(client, caplog, name):
    request, status, code, message = BAD_REQUESTS[name]
    response = client.post("/classify", **request)
    check_error(response, status, code, message)
    assert [record for record in caplog.records if record.exc_info] == []
    assert classify(client)["label"] == "red", "the next request is answered as ever"


BASE64 = base64.b64encode(RED).decode()
SENT: dict[str, dict[str, Any]] = {
    "bare": {"content": RED, "headers": {"content-type": "image/png"}},
    "bare of another type": {"content": RED, "headers": {"content-type": "IMAGE/JPEG; q=1"}},
    "curl --data-binary": {"content": RED, "headers": {"content-type": "application/x-www-form-urlencoded"}},
    "octets": {"content": RED, "headers": {"content-type": "application/octet-stream"}},
    "no content type": {"content": RED},
    "JSON": {"json": {"image": BASE64}},
    "JSON without padding": {"json": {"image": BASE64.rstrip("=")}},
    "JSON in lines": {"json": {"image": base64.encodebytes(RED).decode()}},
    "JSON for URLs": {"json": {"image": base64.urlsafe_b64encode(RED).decode()}},
    "a data URL": {"json": {"image": "data:image/png;base64," + BASE64, "top_k": None}},
    "no file name": {"files": {"image": (None, RED)}},
    "an empty file name": {"files": {"image": ("", RED)}},
    "filename*": {
        "content": multipart(("Content-Disposition: form-data; name=image; filename*=UTF-8''%C3%A4.png", RED)),
        "headers": {"content-type": FORM},
    },
    "packed": {"content": gzip.compress(RED), "headers": PACKED},
    "packed in two members": {"content": gzip.compress(RED[:50]) + gzip.compress(RED[50:]), "headers": PACKED},
    "a packed form": {
        "content": gzip.compress(multipart((IMAGE_HEADER, RED))),
        "headers": {"content-type": FORM, "content-encoding": "x-gzip"},
    },
    "packed JSON": {
        "content": gzip.compress(json.dumps({"image": BASE64}).encode()),
        "headers": {**JSON, "content-encoding": "GZIP"},
    },
    "encoded as it is": {"content": RED, "headers": {"content-type": "image/png", "content-encoding": "identity"}},
}


@pytest.mark.parametrize("name", SENT)
def test_a_picture_is_taken_however_it_is_sent(client, name):
    wanted = classify(client)
    response = client.post("/classify", **SENT[name])
    assert response.status_code == 200, response.text
    assert response.json() == wanted
    drawn = client.post("/explain", **SENT[name])
    assert (drawn.status_code, drawn.headers["content-type"]) == (200, "image/png")
    if "files" not in SENT[name] and "multipart" not in str(SENT[name]) and "json" not in str(SENT[name]):
        assert client.post("/classify_batch", **SENT[name]).json()["predictions"] == [wanted]
        one = client.post("/classify?top_k=1&self_gradient=off", **SENT[name]).json()
        assert (len(one["top_k"]), one["self_gradient"]) == (1, False)


def test_json_carries_options_and_several_pictures(client):
    for options in ({"top_k": 1, "self_gradient": False}, {"top_k": "1", "self_gradient": "off"}):
        one = client.post("/classify", json={"image": BASE64, **options}).json()
        assert (len(one["top_k"]), one["self_gradient"]) == (1, False)
        several = client.post("/classify_batch", json={"images": [BASE64, "aGVsbG8=", BASE64], **options}).json()
        first, second, third = several["predictions"]
        assert first == third == one
        assert second["error"]["code"] == "not_an_image"
    many = client.post("/classify_batch", json={"images": [BASE64] * 9})
    check_error(many, 400, "too_many_images", "send 8 at most")
    assert client.post("/classify_batch", json={"images": BASE64}).json()["predictions"][0]["label"] == "red"


def test_large_pictures_are_taken_however_they_are_sent(client):
    def commented(size):
        comment = PngInfo()
        comment.add_text("Comment", "x" * size)
        return encode(Image.fromarray(noise(80, 80)), pnginfo=comment)

    large = commented(70_000)  # more than is kept in memory
    wanted = classify(client, large)
    assert client.post("/classify", content=large).json() == wanted
    assert client.post("/classify", content=gzip.compress(large), headers=PACKED).json() == wanted
    in_json = client.post("/classify", json={"image": base64.b64encode(commented(50_000)).decode()})
    assert in_json.json() == wanted


def test_tensors_may_be_packed(client):
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0.5] * 192}
    body = json.dumps({"inputs": [tensor]}).encode()
    path = "/v2/models/self-gradient-network/infer"
    packed = client.post(path, content=gzip.compress(body), headers={"content-encoding": "gzip"})
    assert packed.json() == client.post(path, content=body).json()
    bomb = client.post(path, content=gzip.compress(bytes(20_000_000)), headers={"content-encoding": "gzip"})
    assert (bomb.status_code, bomb.json()["code"]) == (413, "body_too_large")


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
    with application_client(Settings(model_path=model)) as client:
        answer = classify(client)
        assert answer["self_gradient"] is False
        response = client.post("/classify", files={"image": RED}, data={"self_gradient": "true"})
        check_error(response, 400, "no_block", "no self-gradient block")
        check_error(client.post("/explain", files={"image": RED}), 400, "no_gradient", "self-gradient")


def test_the_environment_sets_the_flags_default_the_limit_and_the_background(tmp_path):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    settings = {"SGN_MODEL": str(model), "SGN_SELF_GRADIENT": "false", "SGN_MAX_DISAGREEMENT": "0.001"}
    with application_client(Settings.from_environment({**settings, "SGN_BACKGROUND": "#0000ff"})) as client:
        assert classify(client)["self_gradient"] is False
        assert classify(client)["suspicious"] is None
        answer = classify(client, self_gradient="true")
        assert answer["self_gradient"] is True
        assert answer["suspicious"] is (answer["disagreement"] > 0.001) is True
        transparent = encode(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))
        assert classify(client, transparent)["label"] == "blue"


def test_the_formats_that_are_taken_are_told_everywhere(tmp_path):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    with application_client(Settings(model_path=model, formats=("PNG", "TGA"))) as client:
        for file_format in ("PNG", "TGA"):
            classify(client, encode(Image.new("RGB", (8, 8), "red"), file_format))
        gif = client.post("/classify", files={"image": encode(Image.new("RGB", (8, 8), "red"), "GIF")})
        check_error(gif, 415, "not_an_image", "none of the accepted formats (PNG, TGA)")
        told = client.get("/model").json()["preprocessing"]
        assert told["formats"] == ["PNG", "TGA"]
        assert {".png", ".tga"} <= {*told["suffixes"]}
        assert ".jpg" not in told["suffixes"]
        route = client.get("/docs.json").json()["paths"]["/classify"]["post"]
        assert route["description"].startswith("Formats: PNG, TGA; at most")
        encoding = route["requestBody"]["content"]["multipart/form-data"]["encoding"]
        assert encoding["image"]["contentType"] == "image/png, image/x-tga"


def test_pictures_are_classified_as_the_array_that_they_hold(client):
    pixels = noise(8, 8, seed=3)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    logits = 10 * (pixels / 255).mean(axis=(0, 1))
    probabilities = np.exp(logits) / np.exp(logits).sum()
    answer = classify(client, file.getvalue(), self_gradient="false")
    assert answer["index"] == probabilities.argmax()
    assert answer["probability"] == pytest.approx(probabilities.max(), abs=1e-5)


def test_a_request_that_no_route_matches_goes_to_the_fallback(tmp_path):
    async def fallback(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    settings = Settings(model_path=save_tiny_graph(tmp_path / "tiny.onnx"))
    with application_client(settings, fallback=fallback) as client:
        answer = client.get("/livez")
        assert (answer.text, len(answer.headers["x-request-id"])) == ("/livez", 32)
        assert client.get("/ui/").url.path == "/ui"
        assert client.get("/model/").text == "/model/", "no redirects that hide what a client asked for"
        assert client.get("/model").json()["model"] == SHA256


def test_middleware_stands_in_the_order_of_its_list(tmp_path):
    """A refusal has an id and the headers for other origins; a guess of a token counts towards the rate limit."""
    settings = Settings.from_environment(
        {
            "SGN_MODEL": str(save_tiny_graph(tmp_path / "tiny.onnx")),
            "SGN_API_TOKEN": "0123456789abcdef",
            "SGN_RATE_LIMIT": "0.01",
            "SGN_RATE_BURST": "1",
            "SGN_MAX_BYTES": "10",
            "SGN_CORS_ORIGINS": "https://example.org",
        }
    )
    with application_client(settings) as client:
        answers = [
            client.post("/classify", content=b"x" * 11, headers={"origin": "https://example.org", "x-request-id": "a"})
            for _ in range(2)
        ]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        (401, "no_token"),
        (429, "rate_limited"),
    ]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        assert answer.headers["x-request-id"] == "a"


def test_at_the_end_answers_close_their_connections_and_new_ones_are_refused(tmp_path):
    settings = Settings(model_path=save_tiny_graph(tmp_path / "tiny.onnx"))
    state = State()
    app = create_app(settings, state)

    async def on_a_new_connection(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/model":
            scope[NEW_CONNECTION] = True
        await app(scope, receive, send)

    with TestClient(on_a_new_connection) as client:
        assert "connection" not in client.get("/v2/health/ready").headers
        state.shutdown.begun = True
        ready = client.get("/v2/health/ready")
        assert (ready.status_code, ready.json()["code"]) == (503, "not_ready")
        assert ready.headers["connection"] == "close"
        assert classify(client)["label"] == "red", "what is there is still answered"
        refused = client.get("/model")
        check_error(refused, 503, "shutting_down", "about to end")
        assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
