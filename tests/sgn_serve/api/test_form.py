"""Read forms without a server."""

import asyncio
import base64
import encodings
import random

import pytest
from starlette.requests import Request

from sgn_serve.api.form import _BASE64_BYTES, _from_base64, read_form
from sgn_serve.http.errors import STATUS, RequestError
from sgn_serve.settings import Settings

FORM = "multipart/form-data; boundary=edge"


def read(content_type, part_headers="", name="image"):
    """Return the content of the only file of a form."""
    body = (
        f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n{part_headers}\r\n'
        "picture\r\n--edge--\r\n"
    ).encode()

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def content():
        headers = [(b"content-type", content_type.encode())]
        scope = {"type": "http", "method": "POST", "path": "/classify", "query_string": b"", "headers": headers}
        async with read_form(Request(scope, receive), Settings()) as form:
            return form.files[0].read()

    return asyncio.run(content())


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "utf8", "us-ascii", "US-ASCII"])
def test_charsets_that_clients_name(charset):
    assert read(f"{FORM}; charset={charset}") == b"picture"


def test_python_remembers_no_charset_that_a_client_made_up():
    read(FORM)
    before = dict(encodings._cache)
    for number in range(3):
        with pytest.raises(RequestError, match="send it as UTF-8") as refused:
            read(f"{FORM}; charset=made-up-{number}")
        assert (STATUS[refused.value.code], refused.value.code) == (400, "bad_form")
        for hidden in (f"charset*=utf-8''made-up-{number}", f"charset*=made-up-{number}''utf-8"):
            assert read(f"{FORM}; {hidden}") == b"picture", "a form has no such parameters"
        assert read(FORM, f"Content-Type: text/plain; charset=made-up-{number}\r\n") == b"picture"
        with pytest.raises(RequestError, match="_charset_"):
            read(FORM, name="_charset_")
    assert encodings._cache == before


@pytest.mark.parametrize("size", [0, 1, 2, 3, _BASE64_BYTES, _BASE64_BYTES + 1, 3 * _BASE64_BYTES + 5])
def test_base64_in_parts_is_the_same(size):
    content = random.Random(size).randbytes(size)
    text = base64.b64encode(content).decode()
    lines = "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    for written in (text, text.rstrip("="), lines, text.replace("+", "-").replace("/", "_")):
        assert _from_base64(written, "image").file.read() == content
    if size > 3:
        for damaged in (text[:1] + "=" + text[2:], text[:-5] + "\u00e4" + text[-4:], text[:2] + "!" + text[3:]):
            with pytest.raises(RequestError, match="is no base64"):
                _from_base64(damaged, "image")
