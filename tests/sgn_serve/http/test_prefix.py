"""Prefixes of paths, without a server. See tests/deploy/test_prefix.py for nginx."""

import pytest

from sgn_serve.http.connections import PEER
from sgn_serve.http.prefix import TakePrefix, prefix_of
from sgn_serve.settings import Settings, SettingsError
from tests.sgn_serve.asgi import ask


def seen(path="/model", root_path="", proxies=("192.0.2.0/24",), **options):
    """Return the path and the prefix that the application sees, or the redirect."""
    told = []

    async def application(scope, receive, send):
        told.append((scope["path"], prefix_of(scope)))

    sent = ask(TakePrefix(application, root_path, proxies), path, **options)
    return dict(sent[0]["headers"])[b"location"].decode() if sent else told[0]


def said(prefix):
    return {"headers": {"x-forwarded-prefix": prefix}}


def test_a_trusted_proxy_says_the_prefix():
    assert seen(**said("/a/b")) == ("/model", "/a/b")
    assert seen("/a/b/model", **said("/a/b/")) == ("/model", "/a/b")
    assert seen("/a/bc", **said("/a/b")) == ("/a/bc", "/a/b")
    assert seen("/a/b", **said("/a/b")) == "/a/b/"
    assert seen(root_path="/other", **said("/a")) == ("/model", "/a")
    assert seen(root_path="/other", **said("/")) == ("/model", "")


def test_nobody_else_does():
    assert seen(client="198.51.100.1", **said("/a")) == ("/model", "")
    assert seen(proxies=(), **said("/a")) == ("/model", "")
    assert seen(client="a made-up name", **said("/a")) == ("/model", "")


def test_the_other_end_of_the_connection_counts_and_not_who_it_says_it_speaks_for():
    found = []

    async def application(scope, receive, send):
        found.append(prefix_of(scope))

    async def behind_uvicorn(scope, receive, send):
        await TakePrefix(application, "", ("127.0.0.1",))({**scope, PEER: ("127.0.0.1", 5)}, receive, send)

    ask(behind_uvicorn, "/model", client="203.0.113.9", headers={"x-forwarded-prefix": "/a"})
    assert found == ["/a"]


@pytest.mark.parametrize(
    "prefix",
    [
        "a",
        "//evil.example",
        "/a b",
        '/a"><script>',
        "/a?b",
        "/" + "a" * 65,
        "/a" * 9,
        "/a, /b",
        "/a//b",
        "/%2e",
        "/..",
        "/a/../b",
        "/.",
    ],
)
def test_what_is_no_path_is_not_believed(prefix):
    assert seen(root_path="/x", **said(prefix)) == ("/model", "/x")
    with pytest.raises(SettingsError, match=r"SGN_ROOT_PATH=.* expected a path of letters"):
        Settings.from_environment({"SGN_ROOT_PATH": prefix})


def test_the_setting():
    assert Settings.from_environment({"SGN_ROOT_PATH": "/a/b/"}).root_path == "/a/b"
    assert Settings.from_environment({"SGN_ROOT_PATH": "/"}).root_path == ""
    assert seen(root_path="/a") == ("/model", "/a")
    assert seen("/a/model", root_path="/a") == ("/model", "/a")
