"""Test the files of the pages and their security headers over HTTP. See test_ui for the browser."""

import re

import pytest

from sgn_serve.api.page import FOLDER, STATIC

HTML = ("page.html", "api.html")


def policy(response) -> dict[str, str]:
    return dict(directive.split(" ", 1) for directive in response.headers["content-security-policy"].split("; "))


@pytest.mark.parametrize("path", ["/", "/ui"])
def test_a_page_may_load_nothing_from_elsewhere(app_client, path):
    response = app_client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    allowed = policy(response)
    assert allowed["default-src"] == "'none'"
    assert allowed["script-src"] == "'self'"
    assert allowed["style-src"] == "'self'"
    assert allowed["connect-src"] == "'self'"
    assert allowed["frame-ancestors"] == "'none'"
    assert allowed["base-uri"] == "'none'"


def test_nothing_on_the_page_is_trusted_but_its_files(app_client):
    allowed = policy(app_client.get("/ui"))
    assert "unsafe" not in str(allowed)
    assert allowed["require-trusted-types-for"] == "'script'"


@pytest.mark.parametrize("path", ["/", "/ui", "/ui/static/main.js"])
def test_every_file_has_the_security_headers(app_client, path):
    headers = app_client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]
    assert "content-security-policy" in headers
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("name", HTML)
def test_scripts_and_styles_are_files(name):
    text = (FOLDER / name).read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:|https?://", text)


def test_every_file_that_is_named_is_there(client):  # needs a server: BentoML brings Swagger UI along
    named = {reference for name in HTML for reference in re.findall(r"(?:src|href)=\"([^#\"]+)\"", _text(name))}
    assert {"ui/static/main.js", "ui/static/page.css", "./", "ui"} <= named
    for reference in named:
        assert client.get(f"/{reference}").is_success, reference


def _text(name: str) -> str:
    return (FOLDER / name).read_text()


def test_what_was_loaded_once_is_only_asked_for_again(app_client):
    first = app_client.get("/ui/static/page.css")
    assert first.headers["content-type"].startswith("text/css")
    assert first.headers["cache-control"] == "no-cache"
    again = app_client.get("/ui/static/page.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/ui/static/page.html",
        "/ui/static/..%2fpage.html",
        "/ui/static/%2e%2e%2f%2e%2e%2fservice.py",
        "/ui/static/nothing.js",
        "/ui/static/%00",
        "/ui/x",
    ],
)
def test_nothing_else_is_there(client, path):  # needs a server, which decodes paths itself
    response = client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


def test_a_page_only_answers(app_client):
    assert app_client.post("/ui").status_code == 405
    assert app_client.head("/ui").status_code == 200
    redirect = app_client.get("/ui/", follow_redirects=False)
    assert redirect.status_code == 307
    assert redirect.headers["location"] == "../ui"  # behind a proxy's prefix too


def test_the_files_are_those_of_the_page():
    # The server serves every file in these folders, so nothing else may lie there.
    assert {name.rsplit(".", 1)[1] for name in STATIC} == {"css", "js", "svg"}
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.*")) < 100_000
