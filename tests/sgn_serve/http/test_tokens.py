import hmac

import pytest
from starlette.responses import PlainTextResponse

from sgn_serve.http.errors import STATUS, RequestError
from sgn_serve.http.tokens import RequireToken
from tests.sgn_serve.asgi import ask

TOKENS = ("0123456789abcdef", "fedcba9876543210", "00000000aaaaaaaa")


def code(path="/classify", tokens=TOKENS, **headers):
    """Return the error that refuses a request, or None where it is accepted."""
    try:
        ask(RequireToken(PlainTextResponse("in"), tokens), path, headers=headers)
    except RequestError as error:
        return STATUS[error.code], error.code, error.headers.get("www-authenticate", "")
    return None


@pytest.mark.parametrize("token", TOKENS)
def test_any_of_the_tokens_opens(token):
    assert code(authorization=f"Bearer {token}") is None
    assert code(authorization=f"bearer {token}") is None


@pytest.mark.parametrize(
    "path",
    ["/", "/classify", "/metrics", "/docs.json", "/schema.json", "/model", "/v2", "/admin/reload", "/uix", "/nowhere"],
)
def test_without_a_token_everything_is_closed(path):
    status, name, challenge = code(path)
    assert (status, name) == (401, "no_token")
    assert challenge.startswith("Bearer realm=")


@pytest.mark.parametrize(
    "path", ["/livez", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/ui", "/ui/x.js"]
)
def test_but_probes_and_the_page(path):
    assert code(path) is None


@pytest.mark.parametrize(
    "sent", ["Basic 0123456789abcdef", "Bearer", "Bearer ", "0123456789abcdef", "Bearer\t0123456789abcdef"]
)
def test_what_is_no_bearer_token(sent):
    assert code(authorization=sent)[:2] == (401, "no_token")


@pytest.mark.parametrize(
    "token", ["0123456789abcdeF", "0123456789abcde", "0123456789abcdef0", "0123456789abcdef, fedcba9876543210"]
)
def test_a_wrong_token(token):
    status, name, challenge = code(authorization=f"Bearer {token}")
    assert (status, name) == (401, "wrong_token")
    assert challenge.endswith('error="invalid_token"')


def test_every_token_is_compared_to_the_end_whichever_is_sent(monkeypatch):
    compared = []
    real = hmac.compare_digest

    def counted(first, second):
        compared.append((len(first), len(second)))
        return real(first, second)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    for sent in (*TOKENS, "wrong"):
        compared.clear()
        code(authorization=f"Bearer {sent}")
        assert compared == [(32, 32)] * len(TOKENS), "digests of one length, all of them"


def test_a_service_without_tokens_is_open():
    assert code(tokens=()) is None
    assert code("/metrics", tokens=()) is None
