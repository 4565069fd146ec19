"""Requests that hardly any client sends: each gets a right answer or one clear error in the service's form, at once."""

import base64
import gzip
import json
import zlib

import pytest

from tests.sgn_serve.hammer import RED
from tests.sgn_serve.http.test_smuggling import INFER, talk

FORM = b"Content-Type: multipart/form-data; boundary=edge\r\n"
JSON = b"Content-Type: application/json\r\n"
END = b"--edge--\r\n"


def request(method="POST", path="/classify", head=b"", body=b"", version="1.1"):
    first = f"{method} {path} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n".encode("latin-1")
    return first + head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def part(disposition, content=RED, head=b""):
    return b"--edge\r\nContent-Disposition: form-data; " + disposition + b"\r\n" + head + b"\r\n" + content + b"\r\n"


def chunked(body, head=b"", trailers=b"", version="1.1"):
    first = f"POST /classify HTTP/{version}\r\nHost: x\r\nConnection: close\r\n".encode()
    chunk = b"%x\r\n%s\r\n0\r\n" % (len(body), body)
    return first + FORM + head + b"\r\n" + chunk + trailers + b"\r\n"


GOOD = part(b'name="image"; filename="x.png"') + END
PICTURE = base64.b64encode(RED)
PACKED = gzip.compress(GOOD)
TENSOR = json.dumps(
    {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0.5] * 192}]}
).encode()


def get(path, head=b"", **options):
    return request("GET", path, head, **options)


def form(body, content_type=None, head=b""):
    said = FORM if content_type is None else b"Content-Type: " + content_type + b"\r\n"
    return request(head=said + head, body=body)


HEADS = {
    "expects to go on, and is refused": (
        request(head=b"Expect: 100-continue\r\nContent-Type: text/plain\r\n", body=b"x"),
        "wrong_content_type",
    ),
    "expects to go on with too much": (
        b"POST /classify HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 20000000\r\n\r\n",
        "body_too_large",
    ),
    "expects to go on to nowhere": (
        b"POST /nothing HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 20\r\n\r\n",
        "not_found",
    ),
    "expects to go on without a body": (get("/livez", b"Expect: 100-continue\r\n"), None),
    "expects something else": (form(GOOD, head=b"Expect: magic\r\n"), None),
    "trailers": (
        chunked(GOOD, b"Transfer-Encoding: chunked\r\nTrailer: X-A\r\n", b"X-A: b\r\nContent-Type: text/plain\r\n"),
        None,
    ),
    "a folded header": (form(GOOD, head=b"X-A: b\r\n c\r\n"), "bad_http"),
    "a folded content type": (form(GOOD, b"multipart/form-data;\r\n boundary=edge"), "bad_http"),
    "the same length twice": (form(GOOD, head=b"Content-Length: %d\r\n" % len(GOOD)), "bad_http"),
    "two lengths": (form(GOOD, head=b"Content-Length: 3\r\n"), "bad_http"),
    "no host": (b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n", "bad_http"),
    "no host in HTTP/1.0": (b"GET /livez HTTP/1.0\r\n\r\n", None),
    "two hosts": (b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: x\r\nConnection: close\r\n\r\n", "bad_http"),
    "a host that is none": (b"GET /livez HTTP/1.1\r\nHost: a b/<>@\r\nConnection: close\r\n\r\n", "bad_http"),
    "a host with a user": (b"GET /livez HTTP/1.1\r\nHost: u@x\r\nConnection: close\r\n\r\n", "bad_http"),
    "an empty host": (b"GET /livez HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", None),
    "an address of version 6": (b"GET /livez HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n", None),
    "two hosts in HTTP/1.0": (b"GET /livez HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", "bad_http"),
    "an upgrade without a host": (
        b"GET /livez HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "bad_http",
    ),
    "an absolute target": (get("http://x/model"), None),
    "an absolute target of another server": (get("https://example.org:99/livez"), None),
    "an absolute target with a query": (request("POST", "http://x/classify?top_k=1", FORM, GOOD), None),
    "an absolute target without a path": (get("http://x"), "bad_http"),
    "a target that is a host": (get("x:80"), "bad_http"),
    "a target without a slash": (get("livez"), "bad_http"),
    "two slashes": (get("//livez"), "not_found"),
    "a space": (get("/a b"), "bad_http"),
    "no ASCII": (get("/\xc3\xa4"), "bad_http"),
    "a bad escape": (get("/%zz"), "not_found"),
    "an escaped null": (get("/%00"), "not_found"),
    "escapes that are no UTF-8": (get("/%ff%fe"), "not_found"),
    "half a character": (get("/v2/models/%ed%a0%80"), "unknown_model"),
    "an escaped line break": (get("/v2/models/%0d%0aX:y"), "unknown_model"),
    "an escaped slash": (get("/v2/models/a%2fb"), "not_found"),
    "an escaped dash": (get("/v2/models/self%2Dgradient-network"), None),
    "a way out of a folder": (get("/ui/static/../../settings.py"), "not_found"),
    "an escaped way out": (get("/static_content/..%2f..%2f..%2fetc/passwd"), "not_found"),
    "OPTIONS of all": (request("OPTIONS", "*"), "not_found"),
    "OPTIONS": (request("OPTIONS"), "method_not_allowed"),
    "TRACE": (request("TRACE"), "method_not_allowed"),
    "TRACE of all": (request("TRACE", "*"), "not_found"),
    "CONNECT": (request("CONNECT", "x:443"), "method_not_allowed"),
    "CONNECT to a path": (request("CONNECT", "/classify"), "method_not_allowed"),
    "QUERY": (request("QUERY", head=FORM, body=GOOD), "method_not_allowed"),
    "an unknown method": (request("BREW"), "bad_http"),
    "a small method": (request("get", "/livez"), "bad_http"),
    "the begin of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "bad_http"),
    "HTTP/3.0": (get("/livez", version="3.0"), "bad_http"),
    "HTTP/1.0 without a length": (b"POST /classify HTTP/1.0\r\n" + FORM + b"\r\n" + GOOD, "no_image"),
    "HTTP/1.0 that keeps alive": (b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", None),
    "HTTP/1.0 in chunks": (chunked(GOOD, head=b"Transfer-Encoding: chunked\r\n", version="1.0"), None),
    "a long path": (get("/" + "a" * 8000), "not_found"),
    "a path of nearly a head": (get("/livez?" + "a" * 32_000), None),
    "a path longer than a head that arrives at once": (get("/livez?" + "a" * 40_000), "head_too_large"),
    "a header longer than a head that arrives at once": (get("/livez", b"X: " + b"a" * 40_000), "head_too_large"),
    "a path longer than a head": (get("/" + "a" * 200_000), "head_too_large"),
    "a long query": (request(path="/classify?x=" + "a" * 8000, head=FORM, body=GOOD), "unknown_parameter"),
    "many parameters": (request(path="/classify?" + "&".join("a" * 1500), head=FORM, body=GOOD), "unknown_parameter"),
    "wants HTML": (get("/nothing", b"Accept: text/html\r\n"), "not_found"),
    "wants HTML of a refusal": (form(END, head=b"Accept: text/html\r\n"), "no_image"),
    "wants nothing that there is": (get("/model", b"Accept: application/x-none\r\n"), None),
    "wants it packed": (get("/model", b"Accept-Encoding: gzip, br\r\n"), None),
}

FORMS = {
    "no boundary": (form(GOOD, b"multipart/form-data"), "bad_form"),
    "an empty boundary": (form(GOOD, b"multipart/form-data; boundary="), "bad_form"),
    "a quoted boundary": (form(GOOD, b'multipart/form-data; boundary="edge"'), None),
    "capitals": (form(GOOD, b"Multipart/Form-Data ;  BOUNDARY = edge"), None),
    "two boundaries": (form(GOOD, b"multipart/form-data; boundary=a; boundary=edge"), None),
    "a long boundary": (form(GOOD, b"multipart/form-data; boundary=" + b"e" * 300), "bad_form"),
    "a boundary that is no ASCII": (form(GOOD, b"multipart/form-data; boundary=\xe4"), "bad_form"),
    "another boundary": (form(GOOD, b"multipart/form-data; boundary=other"), "bad_form"),
    "an open quote": (form(GOOD, b'multipart/form-data; boundary="edge'), "bad_form"),
    "multipart/mixed": (form(GOOD, b"multipart/mixed; boundary=edge"), "wrong_content_type"),
    "two types": (form(GOOD, b"text/plain\r\nContent-Type: multipart/form-data; boundary=edge"), "wrong_content_type"),
    "another charset": (form(GOOD, b"multipart/form-data; boundary=edge; charset=utf-16"), "bad_form"),
    "a preamble": (form(b"preamble\r\n" + GOOD), "bad_form"),
    "an empty preamble": (form(b"\r\n" + GOOD), None),
    "an epilogue": (form(GOOD + b"epilogue\r\n--edge\r\nmore"), None),
    "cut off": (form(GOOD[:-10]), "bad_form"),
    "cut off in a part": (form(GOOD[:100]), "bad_form"),
    "cut off in a part's head": (form(GOOD[:30]), "bad_form"),
    "only the end": (form(END), "no_image"),
    "nothing": (form(b""), "no_image"),
    "bare line feeds": (form(GOOD.replace(b"\r\n", b"\n")), "bad_form"),
    "a part without a head": (form(b"--edge\r\n\r\n" + RED + b"\r\n" + END), "bad_form"),
    "a part without a name": (form(part(b'filename="x.png"') + END), "bad_form"),
    "a name in RFC 5987's form": (form(part(b"name*=UTF-8''image; filename=\"x.png\"") + END), "bad_form"),
    "a file name in that form": (form(part(b"name=\"image\"; filename*=UTF-8''%e4%f6.png") + END), None),
    "a damaged file name in that form": (form(part(b"name=\"image\"; filename*=none'%%'%ff") + END), None),
    "two such pictures": (form(part(b"name=\"image\"; filename*=UTF-8''a.png") * 2 + END), "too_many_images"),
    "two pictures": (form(part(b'name="image"; filename="a.png"') * 2 + END), "too_many_images"),
    "an empty file": (form(part(b'name="image"; filename="a.png"', b"") + END), "empty_file"),
    "an empty part": (form(part(b'name="image"', b"") + END), "empty_file"),
    "a file name that is no ASCII": (form(part(b'name="image"; filename="\xe4\xff.png"') + END), None),
    "a file name with a quote": (form(part(b'name="image"; filename="a\\"b;c.png"') + END), None),
    "a part as base64": (
        form(part(b'name="image"; filename="x"', PICTURE, b"Content-Transfer-Encoding: base64\r\n") + END),
        "not_an_image",
    ),
    "a part that says it is text": (
        form(part(b'name="image"; filename="x"', RED, b"Content-Type: text/plain; charset=utf-16\r\n") + END),
        None,
    ),
    "a part with many headers": (
        form(part(b'name="image"; filename="x"', RED, b"X: y\r\n" * 200) + END),
        "bad_form",
    ),
    "a field named _charset_": (form(part(b'name="_charset_"', b"utf-16") + GOOD), "unknown_field"),
    "an option that is a file": (form(part(b'name="top_k"; filename="x"', b"1") + GOOD), "bad_top_k"),
    "an option that is no UTF-8": (form(part(b'name="top_k"', b"\xff\xfe") + GOOD), "bad_top_k"),
    "a long option": (form(part(b'name="top_k"', b"1" * 5000) + GOOD), "bad_form"),
    "many options": (form(part(b'name="top_k"', b"1") * 20 + GOOD), "bad_form"),
}


def as_json(body, content_type=b"application/json"):
    return request(head=b"Content-Type: " + content_type + b"\r\n", body=body)


PICTURE_JSON = b'{"image": "' + PICTURE + b'"}'
JSONS = {
    "a charset": (as_json(PICTURE_JSON, b'application/json; charset="utf-8"'), None),
    "another charset, which JSON has not": (as_json(PICTURE_JSON, b"application/json; charset=utf-16"), None),
    "text/json": (as_json(PICTURE_JSON, b"text/json"), "wrong_content_type"),
    "problem+json": (as_json(PICTURE_JSON, b"application/problem+json"), "wrong_content_type"),
    "a byte order mark": (as_json(b"\xef\xbb\xbf" + PICTURE_JSON), None),
    "UTF-16": (as_json(PICTURE_JSON.decode().encode("utf-16")), "bad_json"),
    "nothing": (as_json(b""), "empty_body"),
    "spaces": (as_json(b"   "), "bad_json"),
    "more behind it": (as_json(PICTURE_JSON + b"x"), "bad_json"),
    "null": (as_json(b'{"image": null}'), "bad_json"),
    "an empty picture": (as_json(b'{"image": ""}'), "empty_file"),
    "a tensor with a byte order mark": (request("POST", INFER, JSON, b"\xef\xbb\xbf" + TENSOR), None),
    "a tensor as text": (request("POST", INFER, b"Content-Type: text/plain\r\n", TENSOR), None),
    "two header lengths": (
        request("POST", INFER, b"Inference-Header-Content-Length: 3\r\n" * 2, TENSOR),
        "bad_tensor_request",
    ),
}


def packed(encoding, body):
    return form(body, head=b"Content-Encoding: " + encoding + b"\r\n")


ENCODINGS = {
    "gzip": (packed(b"gzip", PACKED), None),
    "x-gzip": (packed(b"x-gzip", PACKED), None),
    "capitals": (packed(b" GZip ", PACKED), None),
    "gzip and identity": (packed(b"identity, gzip", PACKED), None),
    "two headers": (packed(b"identity\r\nContent-Encoding: gzip", PACKED), None),
    "identity": (packed(b"identity", GOOD), None),
    "an empty one": (packed(b"", GOOD), None),
    "an empty list": (packed(b", ,", GOOD), None),
    "deflate": (packed(b"deflate", zlib.compress(GOOD)), "unsupported_encoding"),
    "br": (packed(b"br", b"x"), "unsupported_encoding"),
    "zstd": (packed(b"zstd", b"x"), "unsupported_encoding"),
    "gzip twice": (packed(b"gzip, gzip", gzip.compress(PACKED)), "unsupported_encoding"),
    "an unknown one": (packed(b"a b c", GOOD), "unsupported_encoding"),
    "cut off": (packed(b"gzip", PACKED[:-5]), "damaged_encoding"),
    "more behind it": (packed(b"gzip", PACKED + b"xx"), "damaged_encoding"),
    "nothing": (packed(b"gzip", b""), "no_image"),
    "gzip in chunks": (chunked(PACKED, b"Transfer-Encoding: gzip, chunked\r\n"), None),
    "deflate in chunks": (chunked(PACKED, b"Transfer-Encoding: deflate, chunked\r\n"), "unsupported_encoding"),
}
CASES = {
    f"{kind}: {name}": case
    for kind, cases in {"head": HEADS, "form": FORMS, "JSON": JSONS, "encoding": ENCODINGS}.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_an_odd_request(server, name):
    sent, code = CASES[name]
    answer = talk(server, sent).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    if code is None:
        assert head.startswith(b"HTTP/1.1 200 OK"), answer
        return
    assert head.startswith(b"HTTP/1.1 4"), answer
    assert b"content-type: application/json" in head
    told = json.loads(body)
    error = told if isinstance(told["error"], str) else told["error"]
    assert error["code"] == code, answer
    message = told["error"] if error is told else error["message"]
    assert 10 < len(message) < 400
    assert "\n" not in message


def test_http_1_0_gets_no_100_continue(server):
    answer = talk(server, request(head=FORM + b"Expect: 100-continue\r\n", body=GOOD, version="1.0"))
    assert answer.startswith(b"HTTP/1.1 200 OK"), answer


@pytest.mark.parametrize(
    "path", ["/nothing", "/classify", "/v2/", "/v2x", "/model", "/metrics", "/ui", "/livez", INFER]
)
def test_head_has_the_head_of_the_answer_and_no_body(client, path):
    asked = client.head(path)
    assert asked.content == b""
    got = client.get(path)
    assert asked.status_code == got.status_code < 500
    for name in ("content-type", "allow"):
        assert asked.headers.get(name) == got.headers.get(name)


def test_paths_that_only_begin_as_the_protocol_s_have_the_usual_form(client):
    assert isinstance(client.get("/v2x").json()["error"], dict)
    assert isinstance(client.get("/v2/x").json()["error"], str)


def test_nothing_failed_in_the_server(server):
    assert "Traceback" not in server.log.read_text()
