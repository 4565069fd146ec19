"""Pages of other sites cannot use a server without a token; its own page, and every program, can."""

import pytest

from sgn_serve.common.refusals import Refusal
from sgn_serve.http.cross_site import RefuseOtherSites
from sgn_serve.settings import Settings
from tests.sgn_serve.asgi import ask
from tests.sgn_serve.asking import RED, check_error
from tests.sgn_serve.server import application_client
from tests.sgn_serve.tiny_graph import save_tiny_graph

POSTS = (
    "/classify",
    "/classify_batch",
    "/explain",
    "/preprocess",
    "/v2/models/self-gradient-network/infer",
    "/admin/reload",
    "/x",
)
OTHERS = {
    "a form": {"sec-fetch-site": "cross-site", "origin": "https://example.org"},
    "a page of another port": {"sec-fetch-site": "same-site", "origin": "http://localhost:8000"},
    "a file": {"sec-fetch-site": "cross-site", "origin": "null"},
    "no origin": {"sec-fetch-site": "cross-site"},
    "an old browser": {"origin": "https://example.org"},
    "an old browser on another port": {"origin": "http://localhost:8000"},
    "an old browser's file": {"origin": "null"},
    "a longer name": {"origin": "http://localhost.example.org:3000"},
    "no URL": {"origin": "http://[::1"},
}
OWN = {
    "curl": {},
    "the page": {"sec-fetch-site": "same-origin", "origin": "http://localhost:3000"},
    "the page, old browser": {"origin": "http://localhost:3000"},
    "the user": {"sec-fetch-site": "none"},
    "the page behind a proxy": {"origin": "https://example.org", "x-forwarded-host": "example.org"},
    "the page behind a proxy that leaves the port out": {"origin": "http://localhost:8080", "host": "localhost"},
    "the page at the default port": {"origin": "https://example.org", "host": "example.org:443"},
}


async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})


def guard(*origins, has_tokens=False):
    return RefuseOtherSites(application, origins, has_tokens)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("name", OTHERS)
def test_pages_of_other_sites_are_refused(name, path):
    headers = {"host": "localhost:3000", **OTHERS[name]}
    with pytest.raises(Refusal) as refused:
        ask(guard("https://example.net"), path, headers=headers)
    assert refused.value.code == "cross_origin_refused"
    for method in ("PUT", "DELETE", "PATCH"):
        with pytest.raises(Refusal):
            ask(guard(), path, method, headers=headers)
    for method in ("GET", "HEAD", "OPTIONS"):
        assert ask(guard(), path, method, headers=headers)[0]["status"] == 200
    for open_to_all in (guard("*"), guard(has_tokens=True)):
        assert ask(open_to_all, path, headers=headers)[0]["status"] == 200


@pytest.mark.parametrize("name", OWN)
def test_the_own_page_and_programs_are_answered(name):
    assert ask(guard(), headers={"host": "localhost:3000", **OWN[name]})[0]["status"] == 200


def test_a_site_that_the_settings_name_is_answered():
    headers = {"sec-fetch-site": "cross-site", "origin": "https://example.org", "host": "localhost:3000"}
    assert ask(guard("https://example.org"), headers=headers)[0]["status"] == 200


def test_a_form_of_another_site_is_not_processed(tmp_path):
    settings = Settings(model_path=save_tiny_graph(tmp_path / "tiny.onnx"))
    with application_client(settings) as client:
        posted = client.post("/classify", files={"image": RED}, headers=OTHERS["a form"])
        check_error(posted, 403, "cross_origin_refused", "set SGN_API_TOKEN")
        assert client.post("/classify", files={"image": RED}).status_code == 200
        read = client.get("/model", headers={**OTHERS["a form"], "host": "localhost:3000"})
        assert read.status_code == 200, "no browser lets the page read this"
        assert "403" in client.get("/docs.json").json()["paths"]["/classify"]["post"]["responses"]
