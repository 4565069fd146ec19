"""Every Range header is ignored: files come whole, and nothing is refused for it."""

import pytest

RANGES = (
    "bytes=0-0",
    "bytes=5-2",
    "bytes=-0",
    "bytes=999999999-",
    "bytes=",
    "bytes=a-b",
    "bytes=0-1,5-6,2-3",
    "bytes=" + ",".join(["0-"] * 1000),
    "items=0-5",
    "bytes",
    "\u0661-",
    "",
    "bytes=" + "9" * 5000 + "-",
)
PATHS = (
    "/",
    "/ui",
    "/ui/static/answers.js",
    "/ui/static/icon.svg",
    "/static_content/swagger-ui-bundle.js",
    "/model",
    "/livez",
)


@pytest.mark.parametrize("path", PATHS)
def test_files_come_whole(client, path):
    whole = client.get(path)
    assert whole.status_code == 200
    assert whole.headers.get("accept-ranges", "none") == "none"
    for value in RANGES:
        for headers in ({"range": value}, {"range": value, "if-range": '"x"'}, {"range": value, "if-range": value}):
            encoded = {name: text.encode() for name, text in headers.items()}
            answer = client.get(path, headers=encoded)
            assert (answer.status_code, answer.content) == (200, whole.content), headers
            assert "content-range" not in answer.headers


@pytest.mark.parametrize("header", ["if-modified-since", "if-none-match", "if-match", "if-unmodified-since"])
@pytest.mark.parametrize("path", PATHS)
def test_conditions_that_cannot_be_read_are_ignored(client, path, header):
    for value in ("", "x", "Thu, 99 Foo 9999 99:99:99 GMT", "9" * 1000, '"', "Mon, 01 Jan 0000 00:00:00 +9999"):
        answer = client.get(path, headers={header: value})
        assert answer.status_code == 200, (value, answer.text)


def test_no_file_and_no_method_have_another_form(client):
    for path in ("/ui/static/nothing.js", "/ui/static/..%2fpage.html", "/ui/static/", "/static_content/x"):
        answer = client.get(path, headers={"range": "bytes=0-1"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    for path in ("/ui", "/ui/static/answers.js", "/static_content/swagger-ui-bundle.js"):
        answer = client.post(path)
        assert answer.json()["error"]["code"] == "method_not_allowed"
        assert answer.status_code == 405
