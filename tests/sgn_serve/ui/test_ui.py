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
from sgn_serve.common.graph_format import examples_path
from sgn_serve.settings import BUNDLED_MODEL
from tests.sgn_serve.browser import watched_page
from tests.sgn_serve.page_driver import (
    FAILED_TO_LOAD,
    SCHEMES,
    SCREENS,
    act,
    bars,
    check,
    in_sight,
    keep_pictures,
    sent_picture,
    set_scheme,
    set_strength,
    settled,
    upload,
    verdicts,
    violations,
    widest,
)
from tests.sgn_serve.server import ROOT

expect.set_options(timeout=60_000)  # machines may be busy


@pytest.fixture(scope="module")
def url(browser, bundled_server):
    return bundled_server.url


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
    return {row["label"]: percent(row["probability"]) for row in answer["top_k"]}


def percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def pixels(png: str) -> np.ndarray:
    """Return a picture of the examples' file, (H, W, 3)."""
    return np.asarray(Image.open(BytesIO(base64.b64decode(png))))


def example_where(described, attacked, condition):
    """Return the first example, and its label, whose likeliest class under the full attack meets condition."""
    for example in described["examples"]:
        answer = example["tampered"][attacked]["answers"]["block on"][-1]["label"]
        if condition(answer, example["label"]):
            return example, described["class_names"][example["label"]]
    raise AssertionError("there is no such example")


def test_an_example_is_answered_with_the_block_on_and_off(page, url, described):
    check(page, "ship")
    (example,) = (example for example in described["examples"] if example["name"].startswith("ship"))
    data = base64.b64decode(example["png"])
    on, off = ask(url, data, True), ask(url, data, False)
    assert list(verdicts(page)) == ["Block on live", "Block off live", "Standard recorded"]
    assert list(verdicts(page).values()) == ["ship", "ship", "ship"]
    recorded = example["tampered"]["standard"]["recorded"]["standard"][0]
    for label, (first, second, third) in bars(page).items():
        assert (first, second) == (shares(on)[label], shares(off)[label])
        assert third == percent(recorded[described["class_names"].index(label)])
    widths = page.locator("#bars tr").first.locator(".fill").evaluate_all("all => all.map(one => one.style.width)")
    assert widths[0] == f"{100 * on['probability']:.2f}%"
    expect(page.locator("#disagreement")).to_have_text(f"{on['disagreement']:.4f} bit")
    expect(page.locator("#latency")).to_have_text(re.compile(r"^\d+ ms with the block on, \d+ ms with the block off"))
    expect(page.locator("[role=status]")).to_contain_text("Both models are right.")
    heat_map = page.get_by_role("img", name="Heat map of the self-gradient")
    expect(heat_map).to_be_visible()
    assert heat_map.evaluate("image => image.naturalWidth") == 256


def test_a_first_visitor_is_told_what_to_do(page):
    lead = page.locator(".lead")
    expect(lead).to_contain_text("Choose a picture, then move the slider.")
    expect(lead.locator("#about-block")).to_contain_text("corrects each picture")
    expect(lead.locator("#about-block")).to_be_visible()


def test_the_figures_are_those_of_the_card(page, url, described):
    card = httpx.get(f"{url}/model").json()
    facts = page.locator("#facts")
    for shares_of_state in (card["measured"]["clean"], card["measured"]["auto_attack"], card["measured"]["lowest"]):
        for share in shares_of_state.values():
            expect(facts).to_contain_text(percent(share))
    expect(facts).to_contain_text(f"{card['measured']['pictures']:,} test pictures of {card['data']}")
    expect(facts).to_contain_text("These figures are likely too high")
    page.get_by_text("attacks and settings that were measured").click()
    for row in card["measured"]["rows"]:
        line = facts.get_by_role("row").filter(has=page.get_by_role("rowheader", name=row["attack"], exact=True))
        expect(line.last).to_contain_text(percent(row["accuracy"]))
    for row in described["right_of_all"]["rows"]:
        for count in row["right"].values():
            expect(facts.get_by_role("cell", name=str(count), exact=True).first).to_be_visible()
    attack_name, told = next(iter(card["disagreement"]["attacks"].items()))
    note = page.locator("#disagreement-note")
    expect(note).to_contain_text(f"the ROC curve is {told['area_under_roc']} for {attack_name} pictures")


def test_the_switch_leaves_the_second_pass_out(watched):
    page = watched.page
    before = len(watched.sent())
    expect(page.get_by_role("radiogroup", name="Self-gradient block")).to_be_visible()
    check(page, "off")
    assert list(verdicts(page)) == ["Block off live", "Standard recorded"]
    assert [form.get("self_gradient") for form in watched.sent()[before:]] == ["false", None]  # the latter: explain
    expect(page.locator("#latency")).to_have_text(re.compile(r"^\d+ ms with the block off \("))
    expect(page.locator("#disagreement-row")).to_be_hidden()
    check(page, "on")
    assert "Block on live" in verdicts(page)


def test_a_file_of_ones_own_is_shown_as_the_network_sees_it(watched, url, tmp_path):
    page = watched.page
    path = tmp_path / "wide.png"
    with Image.open(ROOT / "examples" / "frog_01.png") as small:
        small.convert("RGB").resize((320, 160), Image.Resampling.BICUBIC).save(path)
    upload(page, path)
    answer = ask(url, path.read_bytes(), True)
    assert list(verdicts(page)) == ["Block on live", "Block off live"]
    assert verdicts(page)["Block on live"] == answer["label"]
    assert bars(page)[answer["label"]][0] == shares(answer)[answer["label"]]
    expect(page.locator("#outcome")).to_have_text(f"This model says {answer['label']}.")
    seen = httpx.post(f"{url}/preprocess", files={"image": path.read_bytes()}, timeout=60).content
    assert bytes(watched.sent()[-1]["image"]) == seen
    sizes = [
        page.locator(name).evaluate("image => [image.naturalWidth, image.naturalHeight]")
        for name in ("#original", "#picture")
    ]
    assert sizes == [[320, 160], [32, 32]]
    expect(page.locator("#picture-caption")).to_have_text("Input of the network: 32 × 32 pixels, stretched")
    expect(page.get_by_text("Your picture: wide.png")).to_be_visible()
    expect(page.get_by_role("radio", name="cat")).not_to_be_checked()
    check(page, "cat")
    expect(page.locator("#original")).to_be_hidden()
    assert list(verdicts(page)) == ["Block on live", "Block off live", "Standard recorded"]


def test_a_file_of_ones_own_is_tampered_with(watched, described):
    """Noise changes it, and the perturbation of an example does. The pictures have the network's size."""
    page = watched.page
    path = ROOT / "examples" / "frog_01.png"
    clean = np.asarray(Image.open(path).convert("RGB"))
    upload(page, path)
    check(page, "nobody (random noise)")
    expect(page.get_by_role("combobox")).to_be_hidden()
    set_strength(page, 8)
    expect(page.get_by_role("slider")).to_have_attribute("aria-valuetext", "64 of 255")
    change = np.abs(sent_picture(watched).astype(int) - clean)
    assert change.max() == 64
    assert 24 < change.mean() < 34, "uniform, and clipped to what a picture can hold"
    set_strength(page, 1)
    assert np.abs(sent_picture(watched).astype(int) - clean).max() == 8
    expect(page.locator("#outcome")).to_have_text(re.compile("still says|changed from"))
    attack(page, "block-on")
    lent = page.get_by_role("combobox", name="Taken from the example")
    index = 3
    act(page, lambda: lent.select_option(str(index)))
    set_strength(page, 8)
    example = described["examples"][index]
    borrowed = pixels(example["tampered"]["block-on"]["png"]).astype(int) - pixels(example["png"])
    np.testing.assert_array_equal(sent_picture(watched), np.clip(clean + borrowed, 0, 255))
    expect(page.locator("#strip-body th")).to_have_count(1)  # nobody has recorded another model's answers
    expect(page.locator("#strip-body td").last).to_have_text(re.compile("same|changed"))


def test_a_file_that_only_the_server_can_show(watched, url):
    page = watched.page
    expect(page.locator("#file")).to_have_attribute("accept", re.compile(r"^image/\*,\.apng,\.png,.*\.qoi,.*\.tga,"))
    with Image.open(ROOT / "examples" / "frog_01.png") as picture:
        data = BytesIO()
        picture.convert("RGB").save(data, "TGA")
    file: FilePayload = {"name": "frog.tga", "mimeType": "", "buffer": data.getvalue()}
    act(page, lambda: page.get_by_label("Your own").set_input_files(file))
    assert verdicts(page)["Block on live"] == ask(url, data.getvalue(), True)["label"]
    expect(page.locator("#original")).to_be_hidden()
    expect(page.locator("#picture")).to_be_visible()
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
    example, label = example_where(described, "standard", lambda answer, truth: answer == truth)
    check(page, label)
    attack(page, "standard")
    set_strength(page, 5)
    clean, full = pixels(example["png"]), pixels(example["tampered"]["standard"]["png"])
    np.testing.assert_array_equal(sent_picture(watched), scaled(clean, full, 5, described["steps"]))
    set_strength(page, 8)
    np.testing.assert_array_equal(sent_picture(watched), full)
    assert verdicts(page)["Block on live"] == label
    assert verdicts(page)["Standard recorded"] != label
    expect(page.locator("#outcome")).to_have_text("The standard model is fooled, this model is not.")
    live, standard = page.locator("#strip-body tr").all()
    expect(standard.locator("td").last).to_have_text("✗wrong")
    expect(live.locator("td").last).to_have_text("✓right")
    expect(live.locator("td").nth(3)).to_have_text("·not asked yet")


def test_this_model_can_be_fooled_too(page, described):
    example, label = example_where(described, "block-on", lambda answer, truth: answer != truth)
    check(page, label)
    attack(page, "block-on")
    set_strength(page, 8)
    recorded = example["tampered"]["block-on"]["answers"]["block on"][-1]
    assert verdicts(page)["Block on live"] == described["class_names"][recorded["label"]] != label
    expect(page.locator("#outcome")).to_have_text(re.compile("^This model is fooled|^Both models are fooled"))
    expect(page.get_by_role("heading", name="More robust does not mean invulnerable")).to_be_visible()


def test_noise_is_aimed_at_nobody(page):
    check(page, "nobody (random noise)")
    assert list(verdicts(page)) == ["Block on live", "Block off live", "Standard recorded"], "of the clean picture"
    set_strength(page, 2)
    assert list(verdicts(page)) == ["Block on live", "Block off live"], "nobody has recorded it"
    expect(page.locator("#perturbation-caption")).to_have_text("The noise, amplified ×2")


def test_play_walks_through_every_strength(page, described):
    act(page, lambda: page.get_by_role("button", name="Play").click())
    expect(page.get_by_role("slider")).to_have_value(str(described["steps"]))
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    assert "not asked yet" not in page.locator("#strip-body").inner_text()


def test_a_file_that_is_no_picture_is_refused_in_the_servers_words(watched):
    page = watched.page
    file = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
    act(page, lambda: page.get_by_label("Your own").set_input_files(file))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("the file is none of the accepted formats")
    expect(alert).to_contain_text(re.compile(r"not_an_image, request \w+"))
    expect(page.locator("#details")).to_be_hidden()
    expect(page.locator("#pictures")).to_be_hidden()
    expect(page.get_by_role("slider")).to_be_hidden()
    act(page, lambda: page.get_by_role("radio", name="dog").check())
    expect(alert).to_be_hidden()
    expect(page.get_by_role("slider")).to_be_visible()
    assert len(watched.complaints) == 1  # the browser's own
    assert FAILED_TO_LOAD.match(watched.complaints.pop())


def test_a_server_that_is_gone(browser, url):
    with watched_page(browser, url) as watched:
        watched.page.route("**/classify", lambda route: route.abort())
        watched.page.goto("/ui")
        expect(watched.page.get_by_role("alert")).to_contain_text("The server cannot be reached")
        assert {text.split(": ")[0] for text in watched.complaints} == {"Failed to load resource"}
        watched.complaints.clear()


def test_a_file_that_is_chosen_before_the_model_is_known(browser, url):
    with watched_page(browser, url) as watched:
        page = watched.page
        held: list[Route] = []
        page.route("**/model", lambda route: held.append(route))
        page.goto("/ui")
        page.get_by_label("Your own").set_input_files(ROOT / "examples" / "frog_01.png")
        expect(page.get_by_text("Your picture: frog_01.png")).to_be_visible()
        held[0].continue_()
        settled(page)
        assert list(verdicts(page)) == ["Block on live", "Block off live"]
        expect(page.get_by_role("radio", name="airplane")).not_to_be_checked()


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
    assert focused() == "block-on"
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
    assert focused() == "on"
    act(page, lambda: page.keyboard.press("ArrowLeft"))
    assert focused() == "auto"
    assert list(verdicts(page))[:2] == ["Block auto live", "Block off live"]


@pytest.mark.parametrize("own", [False, True])
def test_the_slider_and_the_verdict_are_on_one_screen(page, own):
    """1280 x 900, as the page opens: nothing is scrolled."""
    if own:
        upload(page, ROOT / "examples" / "frog_01.png")
    set_strength(page, 8)
    assert page.evaluate("scrollY") == 0
    for selector in ("#gallery input", "#picture", "#strength", "#play", "#outcome", "#verdicts"):
        assert in_sight(page, selector), selector


def test_the_verdict_stays_in_sight_while_the_page_is_scrolled(browser, url):
    """A low window, and phones: wherever the slider is on the screen, so is the verdict."""
    for width, height in ((1280, 560), (390, 844), (320, 640)):
        with watched_page(browser, url, viewport={"width": width, "height": height}) as watched:
            page = watched.page
            page.goto("/ui")
            settled(page)
            check(page, "auto")  # its verdict has one line more
            top = page.locator("#strength").evaluate("element => element.getBoundingClientRect().top + scrollY")
            seen = 0
            for scrolled in range(0, 1600, 40):
                page.evaluate("y => scrollTo(0, y)", scrolled)
                if in_sight(page, "#strength"):
                    seen += 1
                    assert in_sight(page, "#outcome"), (width, scrolled, top)
                    assert in_sight(page, "#verdicts"), (width, scrolled, top)
            assert seen > 3
            page.evaluate("scrollTo(0, 0)")
            page.get_by_role("slider").focus()  # the browser scrolls it into sight, and not under the verdict
            assert in_sight(page, "#strength")


def test_on_a_phone_nothing_is_wider_than_the_screen(browser, url):
    with watched_page(browser, url, viewport={"width": 375, "height": 800}, is_mobile=True, has_touch=True) as watched:
        page = watched.page
        page.goto("/ui")
        settled(page)
        set_strength(page, 8)
        page.get_by_text("attacks and settings that were measured").click()
        for width in (320, 375, 430):
            page.set_viewport_size({"width": width, "height": 800})
            assert widest(page) <= width
        page.set_viewport_size({"width": 320, "height": 800})
        upload(page, ROOT / "examples" / "frog_01.png")
        assert widest(page) <= 320
        file: FilePayload = {"name": "a" * 200 + ".txt", "mimeType": "text/plain", "buffer": b"no picture"}
        act(page, lambda: page.get_by_label("Your own").set_input_files(file))
        assert widest(page) <= 320
        watched.complaints.clear()  # the 415


@pytest.mark.thorough
@pytest.mark.parametrize("screen", SCREENS)
def test_pictures_of_the_page(browser, url, screen):
    """The pictures are for people to look at."""
    width, height = SCREENS[screen]
    mobile = {"is_mobile": True, "has_touch": True} if screen == "phone" else {}
    viewport = {"width": width, "height": height}
    with watched_page(browser, url, viewport=viewport, **mobile) as watched:
        page = watched.page
        page.goto("/ui")
        settled(page)
        if screen == "phone":
            keep_pictures(page, "phone-top")
            page.get_by_role("slider").scroll_into_view_if_needed()
        act(page, page.get_by_role("button", name="Play").click)
        expect(page.get_by_role("button", name="Play")).to_be_visible()
        settled(page)
        keep_pictures(page, screen)
        upload(page, ROOT / "examples" / "frog_01.png")
        set_strength(page, 8)
        keep_pictures(page, f"{screen}-own")
        for scheme in SCHEMES:
            set_scheme(page, scheme)
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (max(map(int, re.findall(r"\d+", ground)[:3])) < 60) == (scheme == "dark")


@pytest.mark.thorough
def test_axe_finds_nothing(browser: Browser, url: str) -> None:
    # axe is not the page's: the policy, which keeps scripts from doing what axe does, is not applied here.
    with watched_page(
        browser,
        url,
        bypass_csp=True,
        reduced_motion="reduce",
        viewport={"width": 1280, "height": 900},
    ) as watched:
        page = watched.page
        page.goto("/ui")
        settled(page)
        set_strength(page, 6)
        page.get_by_text("attacks and settings that were measured").click()
        found = [violations(page)]
        upload(page, ROOT / "examples" / "frog_01.png")
        found.append(violations(page))
        file: FilePayload = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
        act(page, lambda: page.get_by_label("Your own").set_input_files(file))
        found.append(violations(page))
        page.evaluate("document.getElementById('token-form').hidden = false")
        found.append(violations(page))
        page.set_viewport_size({"width": 375, "height": 800})
        check(page, "truck")
        found.append(violations(page))
        assert found == [[], [], [], [], []]
        watched.complaints.clear()  # the 415
        transition = page.evaluate("getComputedStyle(document.querySelector('.fill')).transition")
        assert transition.startswith("none")


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
        for path in ("**/model", "**/model/examples", "**/classify", "**/explain"):
            page.route(path, guard)
        page.goto("/ui")
        field = page.get_by_label("Token", exact=True)
        expect(field).to_be_focused()
        expect(page.get_by_role("heading", name="Choose a picture")).to_be_visible()  # the page itself is there
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
