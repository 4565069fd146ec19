"""Requests that the application refuses: a status, a code, and a message that says what is accepted."""

import gzip
from typing import Any

import pytest
from PIL import Image

from tests.sgn_serve.asking import FORM, RED, check_error, classify
from tests.sgn_serve.conftest import MAX_BYTES
from tests.sgn_serve.forms import IMAGE_HEADER, JSON, PACKED, multipart
from tests.sgn_serve.sample_pictures import encode, noise, png

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
        "expected true, false or auto",
    ),
    "empty flag": (
        {"files": {"image": RED}, "data": {"self_gradient": ""}},
        400,
        "bad_flag",
        "expected true, false or auto",
    ),
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
    "JSON with several pictures": (
        {"json": {"images": ["aGVsbG8=" * 1000] * 2}},
        400,
        "unknown_field",
        "send one picture as 'image', or several as 'images' to /classify_batch",
    ),
    "a form with several pictures": (
        {"files": [("images", RED), ("images", RED)]},
        400,
        "unknown_field",
        "send one picture as 'image', or several as 'images' to /classify_batch",
    ),
    "a form with many pictures": (
        {"files": [("images", RED)] * 6},
        400,
        "unknown_field",
        "send one picture as 'image', or several as 'images' to /classify_batch",
    ),
    "a form with pictures without a file name": (
        {"files": [("images", (None, RED * 20))] * 2},
        400,
        "unknown_field",
        "send one picture as 'image', or several as 'images' to /classify_batch",
    ),
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
def test_bad_requests_are_4xx_and_say_what_is_accepted(app_client, caplog, name):
    request, status, code, message = BAD_REQUESTS[name]
    response = app_client.post("/classify", **request)
    check_error(response, status, code, message)
    assert [record for record in caplog.records if record.exc_info] == []
    assert classify(app_client)["label"] == "red", "the next request is answered as ever"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_wrong_method(app_client, method):
    response = app_client.request(method, "/classify")
    check_error(response, 405, "method_not_allowed", f"does not take {method}")
    assert response.headers["allow"] == "POST"


def test_without_a_token_nobody_can_reload(app_client):
    check_error(app_client.post("/admin/reload"), 403, "admin_closed", "set SGN_API_TOKEN")


@pytest.mark.parametrize("path", ["/nothing", "/classify/x"])
def test_wrong_path(app_client, path):
    check_error(app_client.post(path, files={"image": RED}), 404, "not_found", "nothing at /")
