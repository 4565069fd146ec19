"""The middleware that formats errors, around applications that misbehave."""

import asyncio
import errno
import json
import pickle

import pytest
from starlette.formparsers import MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse

from sgn_serve.api.form import read_form
from sgn_serve.common.refusals import CODES, Overloaded, Refusal
from sgn_serve.http import error_form
from sgn_serve.http.error_form import FormatErrors
from sgn_serve.http.errors import STATUS, RequestError, refusal_rows
from sgn_serve.http.request_id import AssignRequestIds
from sgn_serve.settings import Settings


def answer(app, path="/x", headers=(), reading_seconds=0.0):
    """Status, headers and JSON that `app` within FormatErrors answers a GET with.

    reading_seconds: that the client takes over each part of the answer
    """
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        await asyncio.sleep(reading_seconds)
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"x-request-id", b"me"), *headers]}
    asyncio.run(AssignRequestIds(FormatErrors(app))(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], dict(sent[0]["headers"]), json.loads(body)


def test_a_failure_is_logged_and_not_told(caplog):
    async def app(scope, receive, send):
        raise RuntimeError("secret")

    status, headers, told = answer(app)
    assert status == 500
    assert headers[b"x-request-id"] == b"me"
    assert told["error"]["code"] == "internal_error"
    assert told["error"]["request_id"] == "me"
    assert "secret" not in str(told)
    assert "secret" in caplog.text
    assert "request me failed" in caplog.text


def test_an_answer_that_does_not_come_is_a_504(monkeypatch):
    monkeypatch.setattr(error_form, "ANSWER_SECONDS", 0.05)

    async def app(scope, receive, send):
        await asyncio.sleep(10)

    assert answer(app)[0] == 504
    assert answer(app)[2]["error"]["code"] == "timeout"


@pytest.mark.parametrize("status", [200, 404], ids=["answer", "somebody else's error"])
def test_an_answer_that_is_read_slowly_is_read_to_the_end(monkeypatch, status):
    monkeypatch.setattr(error_form, "ANSWER_SECONDS", 0.05)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": []})
        for part in (b"[", b"1", b"]"):
            await send({"type": "http.response.body", "body": part, "more_body": part != b"]"})

    assert answer(app, reading_seconds=0.06)[0] == status


def test_an_error_that_does_not_end_is_a_504(monkeypatch):
    monkeypatch.setattr(error_form, "ANSWER_SECONDS", 0.05)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await asyncio.sleep(10)

    assert answer(app)[0] == 504, "nothing of it was sent yet"


def test_somebody_elses_errors_are_rewritten():
    status, _, told = answer(PlainTextResponse("Too bad", status_code=404))
    assert (status, told["error"]["code"], told["error"]["message"]) == (404, "not_found", "there is nothing at /x")
    _, headers, told = answer(JSONResponse([{"error": "no"}], status_code=429, headers={"retry-after": "3"}))
    assert (told["error"]["code"], told["error"]["message"]) == ("too_many_requests", "no")
    assert headers[b"retry-after"] == b"3"
    assert answer(PlainTextResponse("no", status_code=404), "/v2/x")[2] == {
        "error": "there is nothing at /v2/x",
        "code": "not_found",
        "request_id": "me",
    }


def test_a_form_that_there_is_no_room_for_is_a_503(monkeypatch, caplog):
    async def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    async def app(scope, receive, send):
        async with read_form(Request(scope, receive), Settings()):
            pass

    monkeypatch.setattr(MultiPartParser, "parse", full)
    status, headers, told = answer(app, headers=[(b"content-type", b"multipart/form-data; boundary=edge")])
    assert (status, told["error"]["code"], headers[b"retry-after"]) == (503, "overloaded", b"1")
    assert "No space left" in caplog.text


def test_every_code_has_a_status_and_a_meaning():
    assert STATUS.keys() == CODES.keys()
    rows = refusal_rows()
    assert {row.code: row.status for row in rows} == STATUS
    assert {row.code: row.meaning for row in rows} == CODES
    assert [row.status for row in rows] == sorted(row.status for row in rows)


def test_a_code_that_is_not_listed_cannot_be_raised():
    with pytest.raises(LookupError, match=r"'misspelt' is missing from sgn_serve\.common\.refusals\.CODES"):
        Refusal("misspelt", "x")


@pytest.mark.parametrize(
    ("refusal", "status", "headers"),
    [
        (Refusal("no_block", "no block"), 400, {}),
        (Overloaded(7), 503, {b"retry-after": b"7"}),
        (RequestError("body_too_large", "too large", {"connection": "close"}), 413, {b"connection": b"close"}),
        (Refusal("not_an_image", "no picture"), 415, {}),
        (Refusal("unsupported_pixels", "odd"), 415, {}),
        (Refusal("too_many_pixels", "too many"), 413, {}),
        (Refusal("too_slow_to_decode", "too slow"), 413, {}),
        (Refusal("damaged_image", "damaged"), 400, {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Refusal) else "",
)
def test_a_refusal_is_answered_with_its_status_and_headers(refusal, status, headers):
    async def app(scope, receive, send):
        raise refusal

    answered, told_headers, told = answer(app)
    assert (answered, told["error"]["code"], told["error"]["message"]) == (status, refusal.code, str(refusal))
    assert headers.items() <= told_headers.items()
    assert (b"retry-after" in told_headers) is (refusal.retry_after is not None)
    sent = pickle.loads(pickle.dumps(refusal))
    assert (type(sent), sent.code, str(sent), sent.retry_after) == (
        type(refusal),
        refusal.code,
        refusal.message,
        refusal.retry_after,
    )
