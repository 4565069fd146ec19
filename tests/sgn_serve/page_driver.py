"""Act on the page at /ui as a visitor does, and read what it shows."""

import os
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import axe_playwright_python.sync_playwright as axe_playwright
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

from tests.sgn_serve.browser import Watched
from tests.sgn_serve.server import ROOT

FAILED_TO_LOAD = re.compile("Failed to load resource: the server responded with a status of 4")
SCREENS = {"desktop": (1280, 900), "large": (1920, 1080), "phone": (390, 844)}
"""Width and height of the screens that pictures are kept of."""
SCHEMES = ("light", "dark")
PICTURES_VARIABLE = "UI_PICTURES"
"""Environment variable: the folder for pictures of the page. Without it they go to build/ui."""


def settled(page: Page) -> None:
    """Wait until the page has an answer or an error, or waits for a picture."""
    page.wait_for_function(
        "() => document.getElementById('answers').ariaBusy === 'false' &&"
        " (document.querySelector('.verdict') || !document.getElementById('problem').hidden ||"
        " !document.getElementById('no-answer').hidden)"
    )


def act(page: Page, action: Callable[[], object]) -> None:
    """Do something that makes the page ask the server, and wait for the outcome."""
    page.evaluate("document.getElementById('answers').ariaBusy = 'waiting'")
    action()
    settled(page)


def check(page: Page, name: str) -> None:
    """Choose a radio button: an example, or whom a perturbation is made to fool."""
    radio = page.get_by_role("radio", name=name, exact=True)
    if not radio.is_checked():
        act(page, radio.check)


def set_strength(page: Page, strength: int) -> None:
    """Move the slider."""
    act(page, lambda: page.get_by_role("slider", name="Strength").fill(str(strength)))


def upload(page: Page, path: Path) -> None:
    """Choose a file of one's own."""
    act(page, lambda: page.get_by_label("Your own").set_input_files(path))


def verdicts(page: Page) -> dict[str, str]:
    """Return the label of each verdict by its heading."""
    return {
        verdict.locator(".who").inner_text(): verdict.locator(".label").inner_text()
        for verdict in page.locator(".verdict").all()
    }


def bars(page: Page) -> dict[str, list[str]]:
    """Return the figures of each row by its label."""
    return {
        row.locator("th").inner_text().split()[0]: row.locator(".value").all_inner_texts()
        for row in page.locator("#bars tr").all()
    }


def sent_picture(watched: Watched) -> NDArray[np.uint8]:
    """Return the picture in the last form that the page has sent, (H, W, 3)."""
    return np.asarray(Image.open(BytesIO(bytes(watched.sent()[-1]["image"]))).convert("RGB"))


def set_scheme(page: Page, scheme: str) -> None:
    """Change what the visitor prefers, one of SCHEMES, and wait until the page has followed."""
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.evaluate("() => Promise.all(document.getAnimations().map(animation => animation.finished))")


def violations(page: Page) -> list[str]:
    """Return what axe finds wrong on the page as it is now, in either scheme."""
    told = []
    for scheme in SCHEMES:
        set_scheme(page, scheme)
        found = axe_playwright.Axe().run(page).response["violations"]
        told += [f"{scheme}: {rule['id']}: {node['html']}" for rule in found for node in rule["nodes"]]
    return told


def in_sight(page: Page, selector: str) -> bool:
    """Return whether the whole of an element is on the screen, and nothing lies over its middle."""
    seen: bool = page.evaluate(
        """selector => {
            const element = document.querySelector(selector);
            const box = element.getBoundingClientRect();
            const on_top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
            return box.top >= 0 && box.bottom <= innerHeight && box.left >= 0 && box.right <= innerWidth &&
                element.contains(on_top);
        }""",
        selector,
    )
    return seen


def widest(page: Page) -> int:
    """Return the width that the page takes, in pixels."""
    width: int = page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
    return width


def keep_pictures(page: Page, name: str, full_page: bool = False) -> None:
    """Keep a picture of the page in either scheme for people to look at: NAME-light.png, NAME-dark.png."""
    folder = Path(os.environ.get(PICTURES_VARIABLE, ROOT / "build" / "ui"))
    folder.mkdir(parents=True, exist_ok=True)
    # The tests' machine may be busy with anything: its latency is nobody's to read.
    page.locator("#latency").evaluate("element => element.textContent = element.textContent.replace(/\\d+/g, '…')")
    for scheme in SCHEMES:
        set_scheme(page, scheme)
        path = folder / f"{name}-{scheme}.png"
        page.screenshot(path=path, full_page=full_page, animations="disabled")  # the bars stand
        print(f"a picture of the page: {path}")
