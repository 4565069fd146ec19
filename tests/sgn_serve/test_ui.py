"""The page at /ui in headless Chromium, against a real server with the bundled model.

Pictures of the page are left in build/ui, or in the folder UI_PICTURES; docs/ui.png is a copy of desktop-light.png.
See test_ui_any_model for other models.
"""

import base64
import json
import re
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Route, expect

from export.examples import scaled
from sgn_serve.graph_format import examples_path
from sgn_serve.settings import BUNDLED_MODEL
from tests.sgn_serve.browser import running_browser, watched_page
from tests.sgn_serve.page_driver import (
    FAILED_TO_LOAD,
    SCHEMES,
    SCREENS,
    act,
    bars,
    check,
    in_sight,
    keep_picture,
    sent_picture,
    set_strength,
    settled,
    upload,
    verdicts,
    violations,
    widest,
)
from tests.sgn_serve.server import ROOT, running_server

expect.set_options(timeout=60_000)  # for machines that are busy


@pytest.fixture(scope="module")
def browser():
    with running_browser() as started:
        yield started


@pytest.fixture(scope="module")
def url(browser, tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("home"), SGN_THREADS="1") as started:
        yield started.url


@pytest.fixture(scope="module")
def described():
    return json.loads(examples_path(BUNDLED_MODEL).read_text())


@pytest.fixture
def watched(browser, url):
    with watched_page(browser, url, viewport={"width": 1280, "height": 900}) as opened:
        opened.page.goto("/ui")
        settled(opened.page)
        yield opened


@pytest.fixture
def page(watched):
    return watched.page


def attack(page, title: str) -> None:
    check(page, {"standard": "a standard model", "block-on": "this model"}[title])


def ask(url: str, data: bytes, block: bool) -> dict:
    fields = {"self_gradient": str(block).lower(), "top_k": "10"}
    return httpx.post(f"{url}/classify", files={"image": data}, data=fields, timeout=60).json()


def shares(answer: dict) -> dict[str, str]:
    return {row["label"]: f"{100 * row['probability']:.1f} %" for row in answer["top_k"]}


def sent_picture(watched: Watched) -> np.ndarray:
    """Return the picture in the last form that the page has sent, (H, W, 3)."""
    return np.asarray(Image.open(BytesIO(bytes(watched.sent()[-1]["image"]))).convert("RGB"))


def example_where(described, attacked, condition):
    """Return the first example, and its label, that meets condition(example, record of the attack)."""
    for example in described["examples"]:
        if condition(example, example["tampered"][attacked]):
            return example, described["class_names"][example["label"]]
    raise AssertionError("there is no such example")


def test_an_example_is_answered_with_the_block_on_and_off(page, url, described):
    choose(page, "ship")
    example, _ = example_where(described, "standard", lambda example, _: example["name"].startswith("ship"))
    data = (FOLDER / example["file"]).read_bytes()
    on, off = ask(url, data, True), ask(url, data, False)
    assert list(verdicts(page)) == ["Block on live", "Block off live", "Standard recorded"]
    assert list(verdicts(page).values()) == ["ship", "ship", "ship"]
    recorded = example["tampered"]["standard"]["standard"][0]
    for label, (first, second, third) in bars(page).items():
        assert (first, second) == (shares(on)[label], shares(off)[label])
        assert third == f"{100 * recorded[described['class_names'].index(label)]:.1f} %"
    widths = page.locator("#bars tr").first.locator(".fill").evaluate_all("all => all.map(one => one.style.width)")
    assert widths[0] == f"{100 * on['probability']:.2f}%"
    expect(page.locator("#disagreement")).to_have_text(f"{on['disagreement']:.4f} bit")
    expect(page.locator("#latency")).to_have_text(re.compile(r"^\d+ ms with the block on, \d+ ms with the block off"))
    expect(page.locator("[role=status]")).to_contain_text("Both models are right.")
    heat_map = page.get_by_role("img", name="Heat map of the self-gradient")
    expect(heat_map).to_be_visible()
    assert heat_map.evaluate("image => image.naturalWidth") == 256


def test_the_switch_leaves_the_second_pass_out(watched):
    page = watched.page
    before = len(watched.sent())
    act(page, page.get_by_role("switch", name="Self-gradient block").uncheck)
    assert list(verdicts(page)) == ["Block off live", "Standard recorded"]
    assert [form.get("self_gradient") for form in watched.sent()[before:]] == ["false", None]  # the latter: explain
    expect(page.locator("#latency")).to_have_text(re.compile(r"^\d+ ms with the block off \("))
    expect(page.locator("#disagreement-row")).to_be_hidden()
    act(page, page.get_by_role("switch", name="Self-gradient block").check)
    assert "Block on live" in verdicts(page)


def test_a_file_of_ones_own(watched, url):
    page = watched.page
    path = ROOT / "examples" / "frog_01.png"
    act(page, lambda: page.get_by_label("Your own").set_input_files(path))
    answer = ask(url, path.read_bytes(), True)
    assert list(verdicts(page)) == ["Block on live", "Block off live"]
    assert verdicts(page)["Block on live"] == answer["label"]
    assert bytes(watched.sent()[-1]["image"]) == path.read_bytes()  # as it is
    expect(page.get_by_role("slider")).to_be_hidden()
    expect(page.get_by_text("Your picture: frog_01.png")).to_be_visible()
    expect(page.get_by_role("radio", checked=True)).to_have_count(0)
    choose(page, "cat")
    expect(page.get_by_role("slider")).to_be_visible()


def test_a_file_that_only_the_server_can_show(watched, url):
    page = watched.page
    expect(page.locator("#file")).to_have_attribute("accept", re.compile(r"^image/\*,\.apng,\.png,.*\.qoi,.*\.tga,"))
    with Image.open(ROOT / "examples" / "frog_01.png") as picture:
        data = BytesIO()
        picture.convert("RGB").save(data, "TGA")
    file: FilePayload = {"name": "frog.tga", "mimeType": "", "buffer": data.getvalue()}
    act(page, lambda: page.get_by_label("Your own").set_input_files(file))
    assert verdicts(page)["Block on live"] == ask(url, data.getvalue(), True)["label"]
    expect(page.locator("#picture")).to_be_hidden()
    expect(page.locator("#heat-map")).to_be_visible()


def test_a_dropped_file(page, url):
    data = (ROOT / "examples" / "truck_01.png").read_bytes()
    transfer = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
            return transfer;
        }""",
        list(data),
    )
    page.dispatch_event("#drop", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_have_class("drop over")
    act(page, lambda: page.dispatch_event("#drop", "drop", {"dataTransfer": transfer}))
    expect(page.locator("#drop")).to_have_class("drop")
    assert verdicts(page)["Block on live"] == ask(url, data, True)["label"]
    expect(page.get_by_text("Your picture: dropped.png")).to_be_visible()


def test_the_standard_model_is_fooled_and_this_one_is_not(watched, described):
    page = watched.page
    example, label = example_where(
        described, "standard", lambda example, told: told["bundled"][-1]["label"] == example["label"]
    )
    choose(page, label)
    attack(page, "standard")
    set_strength(page, 5)
    clean, full = (
        np.asarray(Image.open(FOLDER / file)) for file in (example["file"], example["tampered"]["standard"]["file"])
    )
    np.testing.assert_array_equal(sent_picture(watched), scaled(clean, full, 5, described["steps"]))
    set_strength(page, 8)
    np.testing.assert_array_equal(sent_picture(watched), full)
    assert verdicts(page)["Block on live"] == label
    assert verdicts(page)["Standard recorded"] != label
    expect(page.locator("#outcome")).to_have_text("The standard model is fooled, this model is not.")
    expect(page.locator("#strip-standard td").last).to_have_text("✗wrong")
    expect(page.locator("#strip-live td").last).to_have_text("✓right")
    expect(page.locator("#strip-live td").nth(3)).to_have_text("·not asked yet")


def test_this_model_can_be_fooled_too(page, described):
    example, label = example_where(
        described, "bundled", lambda example, told: told["bundled"][-1]["label"] != example["label"]
    )
    choose(page, label)
    attack(page, "bundled")
    set_strength(page, 8)
    recorded = example["tampered"]["bundled"]["bundled"][-1]
    assert verdicts(page)["Block on live"] == described["class_names"][recorded["label"]] != label
    expect(page.locator("#outcome")).to_have_text(re.compile("^This model is fooled|^Both models are fooled"))
    expect(page.get_by_role("heading", name="More robust does not mean invulnerable")).to_be_visible()


def test_play_walks_through_every_strength(page, described):
    act(page, lambda: page.get_by_role("button", name="Play").click())
    expect(page.get_by_role("slider")).to_have_value(str(described["steps"]))
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    assert "not asked yet" not in page.locator("#strip-live").inner_text()
    keep_picture(page, "desktop")


def test_a_file_that_is_no_picture_is_refused_in_the_servers_words(watched):
    page = watched.page
    file = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
    act(page, lambda: page.get_by_label("Your own").set_input_files(file))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("the file is none of the accepted formats")
    expect(alert).to_contain_text(re.compile(r"not_an_image, request \w+"))
    expect(page.locator("#said")).to_be_hidden()
    expect(page.locator("#heat-map")).to_be_hidden()
    act(page, lambda: page.get_by_role("radio", name="dog").check())
    expect(alert).to_be_hidden()
    assert len(watched.complaints) == 1  # of the browser itself
    assert FAILED_TO_LOAD.match(watched.complaints.pop())


def test_a_server_that_is_gone(browser, url):
    with watched_page(browser, url) as watched:
        watched.page.route("**/classify", lambda route: route.abort())
        watched.page.goto("/ui")
        expect(watched.page.get_by_role("alert")).to_contain_text("The server cannot be reached")
        assert {text.split(": ")[0] for text in watched.complaints} == {"Failed to load resource"}
        watched.complaints.clear()


def test_by_keyboard_alone(page):
    def focused() -> str:
        return page.evaluate("document.activeElement.id || document.activeElement.value || ''")

    page.locator("body").press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")  # the link to the API
    page.keyboard.press("Tab")
    first = focused()
    act(page, lambda: page.keyboard.press("ArrowRight"))
    assert focused() != first
    assert page.evaluate("document.activeElement.checked")
    page.keyboard.press("Tab")
    assert focused() == "file"
    page.keyboard.press("Tab")
    assert focused() == "standard"
    act(page, lambda: page.keyboard.press("ArrowRight"))
    assert focused() == "bundled"
    page.keyboard.press("Tab")
    assert focused() == "strength"
    act(page, lambda: page.keyboard.press("End"))
    slider = page.get_by_role("slider")
    expect(slider).to_have_value("8")
    expect(slider).to_have_attribute("aria-valuetext", "8 of 255")
    outline = slider.evaluate("element => getComputedStyle(element).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Tab")
    assert focused() == "play"
    page.keyboard.press("Tab")
    assert focused() == "block"
    act(page, lambda: page.keyboard.press("Space"))
    assert "Block on live" not in verdicts(page)


def test_on_a_phone_nothing_is_wider_than_the_screen(browser, url):
    with watched_page(browser, url, viewport={"width": 375, "height": 800}, is_mobile=True, has_touch=True) as watched:
        page = watched.page
        page.goto("/ui")
        settled(page)
        set_strength(page, 8)
        keep_picture(page, "phone", full_page=True)

        def widest() -> int:
            return page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")

        for width in (320, 375, 430):
            page.set_viewport_size({"width": width, "height": 800})
            assert widest() <= width
        page.set_viewport_size({"width": 320, "height": 800})
        file: FilePayload = {"name": "a" * 200 + ".txt", "mimeType": "text/plain", "buffer": b"no picture"}
        act(page, lambda: page.get_by_label("Your own").set_input_files(file))
        assert widest() <= 320
        watched.complaints.clear()  # the 415


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, url: str, scheme: str) -> None:
    # axe is not the page's: the policy, which keeps scripts from doing what axe does, is not applied here.
    with watched_page(
        browser,
        url,
        color_scheme=scheme,
        bypass_csp=True,
        reduced_motion="reduce",
        viewport={"width": 1280, "height": 900},
    ) as watched:
        page = watched.page
        page.goto("/ui")
        settled(page)
        set_strength(page, 6)
        found = [violations(page)]
        file: FilePayload = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
        act(page, lambda: page.get_by_label("Your own").set_input_files(file))
        found.append(violations(page))
        page.evaluate("document.getElementById('token-form').hidden = false")
        found.append(violations(page))
        page.set_viewport_size({"width": 375, "height": 800})
        choose(page, "truck")
        found.append(violations(page))
        assert found == [[], [], [], []]
        watched.complaints.clear()  # the 415
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        transition = page.evaluate("getComputedStyle(document.querySelector('.fill')).transition")
        assert (max(map(int, re.findall(r"\d+", ground)[:3])) < 60) == (scheme == "dark")
        assert transition.startswith("none")


def violations(page: Page) -> list[str]:
    found = axe_playwright.Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html']}" for rule in found for node in rule["nodes"]]


def test_the_policy_holds_in_the_browser(watched):
    page = watched.page
    script = """address => new Promise(resolve => {
        const tell = event => resolve(event.effectiveDirective);
        document.addEventListener("securitypolicyviolation", tell, { once: true });
        ACT
    })"""
    elsewhere = "http://127.0.0.1:9/x.png"
    acts = {
        "new Image().src = address;": "img-src",
        "fetch(address).catch(() => 0);": "connect-src",
        "document.body.append(document.createElement('style')); document.querySelector('style').append('a {}');": (
            "style-src-elem"
        ),
        "try { document.body.innerHTML = '<b>x</b>'; } catch {}": "require-trusted-types-for",
    }
    for act_, directive in acts.items():
        assert page.evaluate(script.replace("ACT", act_), elsewhere) == directive
    watched.complaints.clear()
    watched.elsewhere.clear()


def test_a_token_is_asked_for_only_when_the_server_wants_one(browser, url):
    """The server's answer to a request without a token is faked here; the page's part is real."""
    seen = []

    def guard(route: Route) -> None:
        authorization = route.request.headers.get("authorization")
        seen.append(authorization)
        if authorization == "Bearer right":
            route.continue_()
        else:
            message = "send a token" if authorization is None else "this token is not known"
            body = {"error": {"code": "no_token", "message": message, "request_id": "1"}}
            route.fulfill(status=401, json=body)

    with watched_page(browser, url) as watched:
        page = watched.page
        for path in ("**/model", "**/classify", "**/explain"):
            page.route(path, guard)
        page.goto("/ui")
        field = page.get_by_label("Token", exact=True)
        expect(field).to_be_focused()
        expect(page.get_by_role("img").first).to_be_attached()  # the page itself is there
        expect(page.get_by_text("send a token")).to_be_visible()
        field.fill("wrong")
        field.press("Enter")
        expect(page.get_by_text("this token is not known")).to_be_visible()
        field.fill("right")
        page.get_by_role("button", name="Use it").click()
        settled(page)
        expect(field).to_be_hidden()
        assert seen[:2] == [None, "Bearer wrong"]
        assert set(seen[2:]) == {"Bearer right"}
        assert all(FAILED_TO_LOAD.match(text) for text in watched.complaints)
        watched.complaints.clear()


def test_another_model_than_the_bundled_one(browser, server):
    with watched_page(browser, server.url) as watched:
        page = watched.page
        page.goto("/ui")
        settled(page)
        expect(page.locator("#other-model")).to_contain_text("The server serves model 01234567, but")
        expect(page.locator("#served")).to_contain_text("3 classes")
        assert verdicts(page)["Block on live"] in ("red", "green", "blue")
        expect(page.locator(".chip")).to_have_count(0)  # an airplane is no colour


def test_the_api_page_leads_to_it(browser, url):
    with watched_page(browser, url) as watched:
        page = watched.page
        page.goto("/")
        expect(page.get_by_text("/classify_batch")).to_be_visible()
        page.get_by_role("link", name="Try it in the browser").click()
        settled(page)
        assert page.url == f"{url}/ui"
        page.goto("/ui/")
        assert page.url == f"{url}/ui"


def keep_picture(page: Page, name: str, full_page: bool = False) -> None:
    folder = ROOT / "build" / "ui"
    folder.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(300)  # until the bars stand
    # The tests' machine may be busy with anything: its latency is nobody's to read.
    page.locator("#latency").evaluate("element => element.textContent = element.textContent.replace(/\\d+/g, '…')")
    page.screenshot(path=folder / f"{name}.png", full_page=full_page)
    print(f"a picture of the page: {folder / name}.png")
