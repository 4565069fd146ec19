"""A page whose name leads to this machine (DNS rebinding) cannot use a server without a token; programs can."""

import socket

import httpx
import pytest

from sgn_serve.common.refusals import Refusal
from sgn_serve.http.connections import PEER
from sgn_serve.http.foreign_hosts import RefuseForeignHosts
from sgn_serve.http.paths import PROBES
from sgn_serve.settings import Settings, SettingsError
from tests.sgn_serve.asgi import ask
from tests.sgn_serve.asking import RED, check_error
from tests.sgn_serve.server import application_client
from tests.sgn_serve.tiny_graph import save_tiny_graph

BROWSERS = {
    "a form or fetch": {"origin": "http://evil.example:3000"},
    "a fetch of the same site": {"sec-fetch-site": "same-origin"},
    "a link": {"referer": "http://evil.example:3000/"},
    "an address that was typed": {"user-agent": "Mozilla/5.0 (X11; Linux x86_64)"},
    "a page without a referrer": {"user-agent": "Mozilla/5.0 (Macintosh)", "accept-language": "en"},
}
PROGRAMS = {
    "curl": {"user-agent": "curl/8.5.0", "accept": "*/*"},
    "Node.js": {"user-agent": "node", "accept-language": "*", "sec-fetch-mode": "cors"},
    "an unnamed one": {},
}
FOREIGN = (
    "evil.example",
    "evil.example:3000",
    "localhost.evil.example",
    "notlocalhost",
    "127.0.0.1.evil.example",
    "127.0.0.1@evil.example",
    "2130706433",
    "x.",
    "",
    "[::1",
    "a b",
    "sgn-serve.default.svc",
)
OWN = (
    "127.0.0.1",
    "127.0.0.1:3000",
    "[::1]:3000",
    "192.168.1.5:80",
    "localhost",
    "LocalHost.:3000",
    "demo.localhost:3000",
    socket.gethostname(),
    f"{socket.gethostname()}.local:3000",
)


async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})


def guard(*hosts, proxies=(), is_open=False):
    return RefuseForeignHosts(application, hosts, proxies, is_open)


def status(app, host, headers, path="/classify", method="POST", client="127.0.0.1"):
    return ask(app, path, method, client, {"host": host, **headers})[0]["status"]


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("browser", BROWSERS)
def test_browsers_are_refused_under_other_names(browser, host):
    for method, path in (("POST", "/classify"), ("GET", "/model"), ("GET", "/ui"), ("HEAD", "/metrics")):
        with pytest.raises(Refusal, match="SGN_ALLOWED_HOSTS") as refused:
            status(guard("example.org"), host, BROWSERS[browser], path, method)
        assert refused.value.code == "host_refused"
    for path in PROBES:
        assert status(guard(), host, BROWSERS[browser], path, "GET") == 200


@pytest.mark.parametrize("host", OWN)
@pytest.mark.parametrize("browser", BROWSERS)
def test_browsers_are_answered_under_the_own_names(browser, host):
    assert status(guard(), host, BROWSERS[browser]) == 200


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_may_use_any_name(program, host):
    assert status(guard(), host, PROGRAMS[program]) == 200


def test_names_that_the_settings_allow():
    browser = BROWSERS["a form or fetch"]
    for host in ("pictures.example.org", "A.Example.net:80", "deep.below.example.net"):
        assert status(guard("pictures.example.org", "*.example.net"), host, browser) == 200
    for host in ("example.net", "badexample.net", "example.org"):
        with pytest.raises(Refusal):
            status(guard("pictures.example.org", "*.example.net"), host, browser)
    assert status(guard("*"), "evil.example", browser) == 200
    assert status(guard(is_open=True), "evil.example", browser) == 200


def test_a_trusted_proxy_knows_its_names():
    browser = BROWSERS["a form or fetch"]
    app = guard(proxies=("127.0.0.1", "10.0.0.0/8"))
    assert status(app, "pictures.example.org", browser) == 200
    with pytest.raises(Refusal):
        status(app, "pictures.example.org", browser, client="192.0.2.1")

    async def behind_uvicorn(scope, receive, send):
        await app({**scope, PEER: ("10.1.2.3", 5)}, receive, send)

    assert status(behind_uvicorn, "pictures.example.org", browser, client="203.0.113.9") == 200


@pytest.mark.parametrize("hosts", ["http://example.org", "example.org:80", "*.*", "*x", "a..b", ".example.org", "a/b"])
def test_what_is_no_name_is_not_taken(hosts):
    with pytest.raises(SettingsError, match=r"SGN_ALLOWED_HOSTS=.* expected host names separated by commas"):
        Settings.from_environment({"SGN_ALLOWED_HOSTS": hosts})
    assert Settings.from_environment({"SGN_ALLOWED_HOSTS": "a.b, *.c"}).allowed_hosts == ("a.b", "*.c")


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({}, True),
        ({"api_tokens": ("0123456789abcdef",)}, False),
        ({"cors_origins": ("*",)}, False),
        ({"cors_origins": ("https://example.org",)}, True),
        ({"allowed_hosts": ("evil.example",)}, False),
    ],
)
def test_the_service_without_a_token(tmp_path, settings, refused):
    made = Settings(model_path=save_tiny_graph(tmp_path / "tiny.onnx"), **settings)
    rebound = {"host": "evil.example:3000", "origin": "http://evil.example:3000", "sec-fetch-site": "same-origin"}
    rebound |= {"authorization": "Bearer 0123456789abcdef"}
    with application_client(made) as client:
        posted = client.post("/classify", files={"image": RED}, headers=rebound)
        if refused:
            check_error(posted, 403, "host_refused", "'evil.example:3000'")
            told = client.get("/v2/models/stats", headers=rebound)
            assert (told.status_code, told.json()["code"]) == (403, "host_refused")
        else:
            assert posted.json()["label"] == "red"


def test_a_real_server(server):
    rebound = {"host": "evil.example:3000", "user-agent": "Mozilla/5.0"}
    for path in ("/", "/ui", "/docs.json", "/metrics", "/static_content/swagger-ui-bundle.js", "/nothing"):
        check_error(httpx.get(f"{server.url}{path}", headers=rebound), 403, "host_refused", "SGN_API_TOKEN")
        assert httpx.get(f"{server.url}{path}", headers={"user-agent": "Mozilla/5.0"}).status_code in (200, 404)
    assert httpx.get(f"{server.url}/livez", headers=rebound).status_code == 200
