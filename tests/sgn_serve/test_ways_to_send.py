"""Every way to send a picture: bare, in a form, in JSON, packed, several at once."""

import asyncio
import base64
import gzip
import json
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sgn_serve.api import form
from tests.sgn_serve.asking import FORM, RED, check_error, classify
from tests.sgn_serve.forms import JSON, PACKED, multipart
from tests.sgn_serve.sample_pictures import encode, noise

BASE64 = base64.b64encode(RED).decode()
SENT_BARE: dict[str, dict[str, Any]] = {
    "bare": {"content": RED, "headers": {"content-type": "image/png"}},
    "bare of another type": {"content": RED, "headers": {"content-type": "IMAGE/JPEG; q=1"}},
    "curl --data-binary": {"content": RED, "headers": {"content-type": "application/x-www-form-urlencoded"}},
    "octets": {"content": RED, "headers": {"content-type": "application/octet-stream"}},
    "no content type": {"content": RED},
    "packed": {"content": gzip.compress(RED), "headers": PACKED},
    "packed in two members": {"content": gzip.compress(RED[:50]) + gzip.compress(RED[50:]), "headers": PACKED},
    "encoded as it is": {"content": RED, "headers": {"content-type": "image/png", "content-encoding": "identity"}},
}


def sent_in_field(field: str) -> dict[str, dict[str, Any]]:
    """Return the ways to send one picture in a field of a form or of JSON."""
    form = {"content-type": FORM}
    in_json = json.dumps({field: BASE64}).encode()
    return {
        "JSON": {"json": {field: BASE64}},
        "JSON without padding": {"json": {field: BASE64.rstrip("=")}},
        "JSON in lines": {"json": {field: base64.encodebytes(RED).decode()}},
        "JSON for URLs": {"json": {field: base64.urlsafe_b64encode(RED).decode()}},
        "a data URL with parameters": {"json": {field: "data:image/png;charset=utf-8;name=x.png;base64," + BASE64}},
        "a data URL": {"json": {field: "data:image/png;base64," + BASE64, "top_k": None}},
        "no file name": {"files": {field: (None, RED)}},
        "an empty file name": {"files": {field: ("", RED)}},
        "filename*": {"content": a_form(field, "; filename*=UTF-8''%C3%A4.png"), "headers": form},
        "a packed form": {
            "content": gzip.compress(a_form(field, "; filename=x.png")),
            "headers": {**form, "content-encoding": "x-gzip"},
        },
        "a packed form without a file name": {
            "content": gzip.compress(a_form(field)),
            "headers": {**form, "content-encoding": "gzip"},
        },
        "packed JSON": {"content": gzip.compress(in_json), "headers": {**JSON, "content-encoding": "GZIP"}},
    }


def a_form(field: str, rest: str = "", pictures: int = 1) -> bytes:
    """Return a form of red pictures. rest: further parameters of each part's header."""
    return multipart(*[(f"Content-Disposition: form-data; name={field}{rest}", RED)] * pictures)


SENT = SENT_BARE | sent_in_field("image")
SENT_TO_BATCH = SENT_BARE | sent_in_field("images")


@pytest.mark.parametrize("name", SENT)
def test_a_picture_is_taken_however_it_is_sent(app_client, name):
    wanted = classify(app_client)
    response = app_client.post("/classify", **SENT[name])
    assert response.status_code == 200, response.text
    assert response.json() == wanted
    drawn = app_client.post("/explain", **SENT[name])
    assert (drawn.status_code, drawn.headers["content-type"]) == (200, "image/png")
    seen = app_client.post("/preprocess", **SENT[name])
    assert (seen.status_code, seen.headers["content-type"]) == (200, "image/png")
    batch = app_client.post("/classify_batch", **SENT_TO_BATCH[name])
    assert batch.status_code == 200, batch.text
    assert batch.json()["predictions"] == [wanted]
    if name in SENT_BARE:
        one = app_client.post("/classify?top_k=1&self_gradient=off", **SENT[name]).json()
        assert (len(one["top_k"]), one["self_gradient"]) == (1, False)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (a_form("images", "; filename=x.png", pictures=3), FORM),
        (a_form("images", pictures=3), FORM),
        (a_form("images", "; filename*=UTF-8''%C3%A4.png", pictures=3), FORM),
        (json.dumps({"images": [BASE64] * 3}).encode(), JSON["content-type"]),
    ],
    ids=["file names", "no file names", "filename*", "JSON"],
)
def test_several_pictures_are_taken_however_they_are_sent(app_client, content, kind, packed):
    headers = {"content-type": kind, **({"content-encoding": "gzip"} if packed else {})}
    sent = gzip.compress(content) if packed else content
    answer = app_client.post("/classify_batch", content=sent, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == [classify(app_client)] * 3


def test_json_carries_options_and_several_pictures(app_client):
    for options in ({"top_k": 1, "self_gradient": False}, {"top_k": "1", "self_gradient": "off"}):
        one = app_client.post("/classify", json={"image": BASE64, **options}).json()
        assert (len(one["top_k"]), one["self_gradient"]) == (1, False)
        several = app_client.post("/classify_batch", json={"images": [BASE64, "aGVsbG8=", BASE64], **options}).json()
        first, second, third = several["predictions"]
        assert first == third == one
        assert second["error"]["code"] == "not_an_image"
    many = app_client.post("/classify_batch", json={"images": [BASE64] * 9})
    check_error(many, 400, "too_many_images", "send 8 at most")
    assert app_client.post("/classify_batch", json={"images": BASE64}).json()["predictions"][0]["label"] == "red"


def test_the_field_of_one_picture_is_refused_where_several_are_taken(app_client):
    for request in ({"json": {"image": BASE64 * 10}}, {"files": {"image": RED}}):
        refused = app_client.post("/classify_batch", **request)
        check_error(refused, 400, "unknown_field", "send the pictures as 'images', or one as 'image' to /classify")


@pytest.mark.parametrize(("size", "beside"), [(2000, False), (5 * 1024, True)])
def test_json_of_a_few_kilobytes_is_parsed_beside_the_event_loop(app_client, monkeypatch, size, beside):
    parsed_on_loop = []
    parse = form._parse_json_form

    def watched(*arguments):
        parsed_on_loop.append(asyncio._get_running_loop() is not None)
        return parse(*arguments)

    monkeypatch.setattr(form, "_parse_json_form", watched)
    picture = encode(Image.fromarray(noise(8, 8)), "JPEG")
    text = base64.b64encode(picture + bytes(3 * size // 4 - len(picture))).decode()
    assert app_client.post("/classify", json={"image": text}).status_code == 200
    assert parsed_on_loop == [not beside]


def test_large_pictures_are_taken_however_they_are_sent(app_client):
    def commented(size):
        comment = PngInfo()
        comment.add_text("Comment", "x" * size)
        return encode(Image.fromarray(noise(80, 80)), pnginfo=comment)

    large = commented(70_000)  # more than is kept in memory
    wanted = classify(app_client, large)
    assert app_client.post("/classify", content=large).json() == wanted
    assert app_client.post("/classify", content=gzip.compress(large), headers=PACKED).json() == wanted
    in_json = app_client.post("/classify", json={"image": base64.b64encode(commented(50_000)).decode()})
    assert in_json.json() == wanted


def test_tensors_may_be_packed(app_client):
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0.5] * 192}
    body = json.dumps({"inputs": [tensor]}).encode()
    path = "/v2/models/self-gradient-network/infer"
    packed = app_client.post(path, content=gzip.compress(body), headers={"content-encoding": "gzip"})
    assert packed.json() == app_client.post(path, content=body).json()
    bomb = app_client.post(path, content=gzip.compress(bytes(20_000_000)), headers={"content-encoding": "gzip"})
    assert (bomb.status_code, bomb.json()["code"]) == (413, "body_too_large")
