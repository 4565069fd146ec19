"""Compare the quick reader of plain forms with the general parser, on plain forms and on thousands that are not."""

import asyncio
import gc
import random
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.datastructures import UploadFile
from starlette.requests import Request

from sgn_serve.api.form import IMAGE, IMAGES, _parse, _parse_parts
from sgn_serve.api.whole_form import first_line, read_whole_form
from sgn_serve.common.refusals import Refusal
from tests.sgn_serve.asking import RED
from tests.sgn_serve.forms import IMAGE_HEADER, multipart

# Starlette's parser leaves a file without a name open where what follows is damaged. It is in memory.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Such files are collected here, where their warning is expected, and not in a test that comes later."""
    yield
    gc.collect()


BOUNDARY = "edge"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
FIRST = f"--{BOUNDARY}\r\n".encode()
TOP_K = 'Content-Disposition: form-data; name="top_k"'
PLAIN = {
    "a file": multipart((IMAGE_HEADER, RED)),
    "a file of a type": multipart((f"{IMAGE_HEADER}\r\nContent-Type: image/png", RED)),
    "options before": multipart((TOP_K, b"3"), (IMAGE_HEADER, RED)),
    "options behind": multipart((IMAGE_HEADER, RED), (TOP_K, b"3"), (TOP_K.replace("top_k", "self_gradient"), b"auto")),
    "several files": multipart(*[(IMAGE_HEADER.replace('"image"', '"images"'), RED[:number]) for number in (0, 1, 50)]),
    "no file at all": multipart((TOP_K, b"")),
    "an empty file": multipart((IMAGE_HEADER, b"")),
    "no line behind the last boundary": multipart((IMAGE_HEADER, RED), end=b"--edge--"),
    "a file that ends with a line": multipart((IMAGE_HEADER, RED + b"\r\n")),
    "a file with a boundary in a line": multipart((IMAGE_HEADER, b"a--edge\r\n--edg\n--edge--")),
    "small letters": multipart((IMAGE_HEADER.lower(), RED)),
}
OTHER = {
    "a boundary that goes on": multipart((IMAGE_HEADER, b"a\r\n--edgeX\r\nb")),
    "a boundary in the file": multipart((IMAGE_HEADER, b"a\r\n--edge--\r\nb")),
    "no boundary at the end": multipart((IMAGE_HEADER, RED), end=b""),
    "something before": b"preamble\r\n" + multipart((IMAGE_HEADER, RED)),
    "something behind": multipart((IMAGE_HEADER, RED)) + b"epilogue",
    "no file name": multipart(('Content-Disposition: form-data; name="image"', RED)),
    "another header": multipart((f"{IMAGE_HEADER}\r\nX: y", RED)),
    "a folded header": multipart((f"{IMAGE_HEADER}\r\n Content-Type: image/png", RED)),
    "escapes": multipart((IMAGE_HEADER.replace("x.png", 'a\\"b.png'), RED)),
    "a path": multipart((IMAGE_HEADER.replace("x.png", "C:\\x.png"), RED)),
    "a name in UTF-8": multipart((IMAGE_HEADER.replace("x.png", "ä.png"), RED)),
    "a value in UTF-8": multipart((TOP_K, "ä".encode())),
    "a long value": multipart((TOP_K, b"1" * 2000)),
    "many parts": multipart(*[(TOP_K, b"1")] * 12),
    "no head": multipart(("", RED)),
    "nothing": b"",
    "the end only": b"--edge--\r\n",
}


def request_of(body, content_type=FORM, size=1 << 20):
    pieces = [body[at : at + size] for at in range(0, len(body), size)] or [b""]

    async def receive():
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    headers = [(b"content-type", content_type.encode("latin-1"))]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}, receive)


def told(form):
    """Return a form as names with texts, or with the names and contents of files. It is read as the service does."""
    items: list[Any] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            items.append((name, value.filename, value.size, value.file.read()))
            value.file.close()
        else:
            items.append((name, value))
    return items


def read(parse, *arguments):
    """Return what a parser makes of a form: its items, or the code and the message of its refusal."""
    try:
        return told(asyncio.run(parse(*arguments)))
    except Refusal as refusal:
        return refusal.code, str(refusal)


def general(body, field, content_type=FORM):
    request = request_of(body, content_type)
    return read(_parse_parts, request, request.stream(), field, 16)


def test_the_first_line_of_a_form():
    assert first_line(FORM) == FIRST


def field_of(body):
    return IMAGES if b'"images"' in body else IMAGE


@pytest.mark.parametrize("name", PLAIN)
def test_plain_forms_are_read_at_once_and_as_the_general_parser_reads_them(name):
    body = PLAIN[name]
    form = read_whole_form(FIRST, body, field_of(body))
    assert form is not None
    assert told(form) == general(body, field_of(body))


@pytest.mark.parametrize("name", OTHER)
def test_other_forms_are_left_to_the_general_parser(name):
    body = OTHER[name]
    assert read_whole_form(FIRST, body, IMAGE) is None
    assert read(_parse, request_of(body), IMAGE, 16) == general(body, IMAGE)


@pytest.mark.parametrize("size", [1, 7, 50])
@pytest.mark.parametrize("name", [*PLAIN, *OTHER])
def test_pieces_of_any_size_are_read_as_the_whole_is(name, size):
    body = {**PLAIN, **OTHER}[name]
    assert read(_parse, request_of(body, size=size), field_of(body), 16) == general(body, field_of(body))


def test_a_form_that_is_not_small_is_read_by_the_general_parser():
    body = multipart((IMAGE_HEADER, bytes(300_000)))
    for size in (10_000, 60_000, 1 << 20):
        ((name, _, length, content),) = read(_parse, request_of(body, size=size), IMAGE, 1)
        assert (name, length, content) == ("image", 300_000, bytes(300_000))


def mutated(rng, body):
    """Return a body with some bytes removed, doubled or replaced by those that mean something in a form."""
    changed = bytearray(body)
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(changed) + 1), rng.randint(0, 4)
        new = rng.choice(
            [
                b"",
                b"\r\n",
                b"--edge",
                b"\r\n--edge",
                b"--",
                b'"',
                b";",
                b"\\",
                b"=",
                b"\r",
                b"\n",
                b"\x00",
                b"\xe4",
                b":",
            ]
        )
        changed[at : at + length] = new
    return bytes(changed)


def test_no_mutation_of_a_form_is_read_in_another_way():
    rng = random.Random(0)
    small = [body.replace(RED, b"\x89PNG\r\n1") for body in PLAIN.values()]
    quick = 0
    for _ in range(6000):
        body = mutated(rng, rng.choice(small))
        form = read_whole_form(FIRST, body, field_of(body))
        if form is not None:
            quick += 1
            assert told(form) == general(body, field_of(body)), body
    assert quick > 100, "mutations of a picture's bytes leave a form plain"


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        'multipart/form-data; boundary="edge"',
        "multipart/form-data; boundary=edge; charset=utf-8",
        "multipart/form-data; charset=utf-16; boundary=edge",
        "multipart/form-data; boundary=ed'ge",
        "Multipart/Form-Data; boundary=edge",
        "multipart/form-data; boundary*=edge",
        f"multipart/form-data; boundary={'x' * 71}",
    ],
)
def test_a_content_type_that_is_not_plain_is_left_to_the_general_parser(content_type):
    assert first_line(content_type) is None
    body = PLAIN["a file"]
    assert read(_parse, request_of(body, content_type), IMAGE, 1) == general(body, IMAGE, content_type)
