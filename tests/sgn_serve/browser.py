"""Run a headless Chromium with pages that record their errors."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

# Playwright does not see files in forms, so the page notes down what it sends.
_NOTE_FORMS = """
    window.sent = [];
    const fetchIt = window.fetch;
    window.fetch = async (path, options = {}) => {
        if (options.body) {
            const fields = {};
            for (const [name, value] of options.body) {
                fields[name] = value instanceof Blob ? Array.from(new Uint8Array(await value.arrayBuffer())) : value;
            }
            window.sent.push({ path, ...fields });
        }
        return fetchIt(path, options);
    };
"""
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """Return the path of Chromium, or skip the test if it is not installed."""
    for name in NAMES:
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("there is no Chromium: install it to test the page (Debian: apt-get install chromium)")


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run a browser until the block ends. Playwright's event loop runs in this thread, so asyncio.run fails in it."""
    path = chromium()
    # Chromium refuses its own sandbox to root, whom CI runs as; it only loads what these tests serve.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page and its errors.

    Attributes:
        page: Playwright's page.
        complaints: Errors and warnings on the console, and uncaught exceptions.
        elsewhere: Requested addresses that are not on the server.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def sent(self) -> list[dict[str, Any]]:
        """Return the forms that the page has sent, in order: path and fields of each, files as lists of bytes."""
        forms: list[dict[str, Any]] = self.page.evaluate("window.sent")
        return forms


@contextmanager
def watched_page(browser: Browser, url: str, **options: Any) -> Iterator[Watched]:
    """Open a new page; any complaint fails the test.

    Args:
        browser: The browser.
        url: The server, with the prefix of its paths where it has one. Requests for anything else are complained of.
        options: See Browser.new_context.
    """
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    context = browser.new_context(base_url=url, **options)
    context.add_init_script(_NOTE_FORMS)
    page = context.new_page()
    page.set_default_timeout(60_000)
    watched = Watched(page)

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            watched.complaints.append(message.text)

    def on_request(request: Request) -> None:
        if not request.url.startswith((f"{url}/", f"blob:{origin}/", "data:")):
            watched.elsewhere.append(request.url)

    page.on("console", on_console)
    page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    page.on("request", on_request)
    yield watched
    context.close()
    assert watched.complaints == []
    assert watched.elsewhere == []
