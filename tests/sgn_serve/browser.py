"""A headless Chromium, and pages in it that remember what went wrong in them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

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
    """Where Chromium is; skips the test where it is not."""
    for name in NAMES:
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("there is no Chromium: install it to test the page (Debian: apt-get install chromium)")


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Until the block ends. No asyncio.run works meanwhile in this thread, for Playwright's loop runs in it."""
    path = chromium()
    # Chromium refuses its own sandbox to root, whom CI runs as; it only loads what these tests serve.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page.

    page:      Playwright's
    complaints: what it wrote to the console as errors or warnings, and exceptions that nobody caught
    elsewhere: addresses outside of the server that it asked for
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def sent(self) -> list[dict[str, Any]]:
        """The forms that it has sent, in order: the path and the fields of each, files as lists of bytes."""
        forms: list[dict[str, Any]] = self.page.evaluate("window.sent")
        return forms


@contextmanager
def watched_page(browser: Browser, url: str, **options: Any) -> Iterator[Watched]:
    """A new page, of which every complaint is a failure; url: of the server; options: of Browser.new_context"""
    context = browser.new_context(base_url=url, **options)
    context.add_init_script(_NOTE_FORMS)
    page = context.new_page()
    page.set_default_timeout(60_000)
    watched = Watched(page)

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            watched.complaints.append(message.text)

    def on_request(request: Request) -> None:
        if not request.url.startswith((f"{url}/", f"blob:{url}/", "data:")):
            watched.elsewhere.append(request.url)

    page.on("console", on_console)
    page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    page.on("request", on_request)
    yield watched
    context.close()
    assert watched.complaints == []
    assert watched.elsewhere == []
