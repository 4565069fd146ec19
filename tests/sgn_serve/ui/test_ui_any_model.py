"""The page at /ui with other models than the bundled one: it says what the server says of them, and nothing else."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from export.examples import scaled
from tests.sgn_serve.browser import watched_page
from tests.sgn_serve.page_driver import (
    SCREENS,
    bars,
    check,
    keep_pictures,
    sent_picture,
    set_strength,
    settled,
    upload,
    verdicts,
    violations,
    widest,
)
from tests.sgn_serve.server import Server, application_server
from tests.sgn_serve.tiny_examples import STEPS, example_pictures, save_tiny_examples, save_tiny_figures
from tests.sgn_serve.tiny_graph import CLASS_NAMES, save_tiny_graph

pytestmark = pytest.mark.thorough  # test_ui.py shows the same page with the bundled model

expect.set_options(timeout=60_000)  # machines may be busy

WIDE = (48, 64)
"""(height, width) of the pictures of one of the models."""
BUNDLED_NAMES = ("CIFAR", "wrn-16-2", "9d59d4cc", "PGD-20", "CW-20", "AutoAttack", "standard model")


@pytest.fixture(scope="module")
def plain_url(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model without a block, with examples of its own and without figures."""
    home = tmp_path_factory.mktemp("plain")
    model = save_tiny_graph(home / "plain.onnx", block=False)
    save_tiny_examples(model, (8, 8), {"block-off": "this model"})
    with application_server(SGN_MODEL=str(model), SGN_THREADS="1") as url:
        yield url


@pytest.fixture(scope="module")
def wide_url(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model with a block, of another size and aspect, with examples and figures of its own."""
    home = tmp_path_factory.mktemp("wide")
    model = save_tiny_graph(home / "wide.onnx", image_size=WIDE, checkpoint={"resize": "pad", "dataset": "walls"})
    save_tiny_examples(model, WIDE, {"block-on": "this model, block on", "block-off": "this model, block off"})
    save_tiny_figures(model)
    with application_server(SGN_MODEL=str(model), SGN_THREADS="1") as url:
        yield url


@pytest.fixture(scope="module")
def bare_url(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model that nothing is known of: no block, no figures, no examples. The file beside it is another model's."""
    home = tmp_path_factory.mktemp("bare")
    model = save_tiny_graph(home / "bare.onnx", block=False, image_size=WIDE, checkpoint={"resize": "crop"})
    model.with_suffix(".json").write_text('{"setting": {"checkpoint_sha256": "99"}}')
    with application_server(SGN_MODEL=str(model), SGN_THREADS="1") as url:
        yield url


@pytest.fixture(scope="module")
def behind_url(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model behind a prefix: the setting's, or another one that a proxy says."""
    home = tmp_path_factory.mktemp("behind")
    model = save_tiny_graph(home / "behind.onnx")
    save_tiny_examples(model, (8, 8), {"block-on": "this model, block on"})
    settings = {"SGN_ROOT_PATH": "/behind/it", "SGN_TRUSTED_PROXIES": "127.0.0.1"}
    with application_server(SGN_MODEL=str(model), SGN_THREADS="1", **settings) as url:
        yield url


@pytest.fixture(scope="module")
def bundled_figures(browser: Browser, bundled_server: Server) -> set[str]:
    """Every figure that the page shows of the bundled model's measurements and examples, as it writes them."""
    with watched_page(browser, bundled_server.url) as watched:
        text = shown(opened(watched.page))
    return set(re.findall(r"\d+\.\d+|\b\d{2,}(?:,\d+)?\b", text))


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """Pictures of one's own: red, and wider and higher than any network's."""
    made = {}
    for name, size in {"broad": (300, 100), "tall": (90, 270)}.items():
        made[name] = tmp_path / f"{name}.png"
        Image.new("RGB", size, "red").save(made[name])
    return made


def shown(page: Page) -> str:
    """Return what the page says of the model and its figures, folded text too, but not what the model answers."""
    page.evaluate("for (const folded of document.querySelectorAll('details')) folded.open = true")
    return "\n".join(
        page.locator(name).inner_text() for name in ("header", ".tamper .note", ".note >> nth=-1", "#facts")
    )


def opened(page: Page) -> Page:
    page.goto("/ui")
    settled(page)
    return page


@pytest.mark.parametrize("name", ["plain", "wide", "bare", "auto"])
def test_nothing_of_the_bundled_model_is_shown(browser, request, name, bundled_figures, paths):
    with watched_page(browser, request.getfixturevalue(f"{name}_url")) as watched:
        page = opened(watched.page)
        upload(page, paths["broad"])
        set_strength(page, 3)
        text = shown(page)
        assert len(bundled_figures) > 30
        said = set(re.findall(r"\d+\.\d+|\b\d{2,}(?:,\d+)?\b", text))
        own = {"255", "64", "48", "01234567", "95"} | set(map(str, range(STEPS * 8 + 1)))
        assert said & bundled_figures <= own, said & bundled_figures
        for word in BUNDLED_NAMES:
            assert word not in page.locator("body").inner_text()


@pytest.mark.parametrize(
    ("prefix", "headers"), [("/behind/it", {}), ("/taken/off", {"x-forwarded-prefix": "/taken/off"})]
)
def test_the_page_behind_a_prefix_asks_under_it_alone(browser, behind_url, paths, prefix, headers):
    """That it asks nowhere else is checked by watched_page."""
    with watched_page(browser, f"{behind_url}{prefix}", extra_http_headers=headers) as watched:
        watched.page.goto(f"{behind_url}{prefix}/ui")
        settled(watched.page)
        for name in CLASS_NAMES:  # the examples
            check(watched.page, name)
            assert name in verdicts(watched.page).values()
        upload(watched.page, paths["broad"])
        assert "red" in verdicts(watched.page).values()
        expect(watched.page.get_by_role("img", name="Heat map of the self-gradient")).to_be_visible()
        assert len(watched.sent()) > len(CLASS_NAMES)


def test_a_model_without_a_block_has_no_switch_and_no_heat_map(browser, plain_url):
    with watched_page(browser, plain_url) as watched:
        page = opened(watched.page)
        assert list(verdicts(page)) == ["This model live"]
        expect(page.locator("#about-block")).to_be_hidden()
        expect(page.locator("#switch")).to_be_hidden()
        expect(page.locator("#heat-map-figure")).to_be_hidden()
        expect(page.locator("#disagreement-row")).to_be_hidden()
        expect(page.locator("#latency")).to_have_text(re.compile(r"^\d+ ms \(from"))
        assert not re.search("block|gradient", page.locator("body").inner_text(), re.IGNORECASE)
        assert {form["path"] for form in watched.sent()} == {"classify"}, "no heat map is asked for"
        assert {form["self_gradient"] for form in watched.sent()} == {"false"}


def test_the_examples_are_the_models_own(browser, plain_url):
    clean, perturbed = example_pictures((8, 8))
    with watched_page(browser, plain_url) as watched:
        page = opened(watched.page)
        expect(page.get_by_role("radio", name=re.compile("red|green|blue"))).to_have_count(len(CLASS_NAMES))
        check(page, "green")
        np.testing.assert_array_equal(sent_picture(watched), clean[1])
        expect(page.locator("#outcome")).to_have_text("This model is right.")
        assert page.get_by_role("slider").get_attribute("max") == str(STEPS)
        set_strength(page, 1)
        np.testing.assert_array_equal(sent_picture(watched), scaled(clean[1], perturbed[1], 1, STEPS))
        expect(page.locator("#outcome")).to_have_text("This model is not fooled.")
        set_strength(page, STEPS)
        np.testing.assert_array_equal(sent_picture(watched), perturbed[1])
        expect(page.locator("#outcome")).to_have_text("This model is fooled.")
        assert verdicts(page) == {"This model live": "blue"}
        expect(page.locator("#strip-body tr")).to_have_count(1)
        expect(page.locator("#strip-body td").last).to_have_text("✗wrong")
        expect(page.locator("#strength-note")).to_contain_text("Found by PGD-7.")
        expect(page.locator("#facts")).to_contain_text(f"at most {STEPS} of 255")
        expect(page.locator("#facts")).to_contain_text("plain colours")
        expect(page.get_by_role("heading", name="nobody has measured")).to_be_visible()


def test_another_size_and_its_figures(browser, wide_url):
    with watched_page(browser, wide_url) as watched:
        page = opened(watched.page)
        expect(page.locator("#served")).to_have_text("Serving walls · 3 classes · 64 × 48 pixels · model 01234567")
        facts = page.locator("#facts")
        for figure in ("91.1", "92.2", "61.5", "62.6"):
            expect(facts).to_contain_text(f"{figure}\N{NO-BREAK SPACE}%")
        expect(facts).to_contain_text("777 validation pictures of painted walls")
        expect(facts).to_contain_text(f"at most {STEPS} of 255 (L-inf), measured on 2026-01-02")
        expect(facts).to_contain_text("All 2 attacks and settings")
        assert list(verdicts(page)) == ["Block on live", "Block off live"]
        check(page, "this model, block off")
        size = page.locator("#perturbation").evaluate("canvas => [canvas.width, canvas.height]")
        box = page.locator("#perturbation").bounding_box()
        assert size == [WIDE[1], WIDE[0]]
        assert box is not None
        assert box["width"] / box["height"] == pytest.approx(WIDE[1] / WIDE[0], abs=0.02)


@pytest.mark.parametrize("shape", ["broad", "tall"])
def test_an_own_picture_is_padded_as_the_model_says(browser, wide_url, paths, shape):
    with watched_page(browser, wide_url) as watched:
        page = opened(watched.page)
        upload(page, paths[shape])
        expect(page.locator("#picture-caption")).to_have_text("Input of the network: 64 × 48 pixels, padded")
        seen = sent_picture(watched)
        assert seen.shape == (*WIDE, 3)
        assert seen[0, 0].tolist() == [255, 255, 255]
        assert seen[WIDE[0] // 2, WIDE[1] // 2].tolist() == [255, 0, 0]
        check(page, "this model, block off")
        set_strength(page, STEPS)
        clean, perturbed = example_pictures(WIDE)
        change = perturbed[0].astype(int) - clean[0]
        np.testing.assert_array_equal(sent_picture(watched), np.clip(seen + change, 0, 255))


def test_a_model_without_anything_asks_for_a_picture_first(browser, bare_url, paths):
    with watched_page(browser, bare_url) as watched:
        page = opened(watched.page)
        expect(page.get_by_text("Choose a picture first.")).to_be_visible()
        expect(page.get_by_text("The answer will be here.")).to_be_visible()
        expect(page.locator("#examples")).to_be_hidden()
        expect(page.get_by_role("slider")).to_be_hidden()
        expect(page.locator("#facts")).to_contain_text("sgn export --examples")
        expect(page.locator("#facts")).to_contain_text("bare.json: the figures are of another checkpoint")
        assert watched.sent() == []
        upload(page, paths["broad"])
        assert list(verdicts(page)) == ["This model live"]
        expect(page.locator("#outcome")).to_have_text("This model says red.")
        expect(page.locator("#picture-caption")).to_have_text(
            "Input of the network: 64 × 48 pixels, its middle, cropped"
        )
        assert np.ptp(sent_picture(watched).reshape(-1, 3), axis=0).tolist() == [0, 0, 0], "no padding"
        expect(page.get_by_role("radiogroup")).to_be_hidden()  # there is nothing but noise
        set_strength(page, 8)
        assert noise_of(sent_picture(watched)) > 20
        expect(page.locator("#outcome")).to_have_text("This model still says red.")
        expect(page.locator("#strip-body td").last).to_have_text("✓same")
        assert set(bars(page)) == set(CLASS_NAMES)


def noise_of(picture: NDArray[np.uint8]) -> float:
    """Return the standard deviation of the red channel."""
    return float(picture[..., 0].astype(float).std())


def test_a_perturbation_that_changes_the_answer(browser, bare_url, tmp_path):
    """Half of the red values are at their largest: noise can only lower those, so green and blue get the upper hand."""
    fragile = np.full((*WIDE, 3), 180, np.uint8)
    fragile[..., 0] = 110
    fragile[::2, :, 0] = 255
    Image.fromarray(fragile).save(tmp_path / "fragile.png")
    with watched_page(browser, bare_url) as watched:
        page = opened(watched.page)
        upload(page, tmp_path / "fragile.png")
        cells = page.locator("#strip-body td")
        set_strength(page, 1)
        expect(page.locator("#outcome")).to_have_text("This model still says red.")
        set_strength(page, 8)
        (answer,) = verdicts(page).values()
        assert answer in ("green", "blue")
        expect(page.locator("#outcome")).to_have_text(f"The answer changed from red to {answer}.")
        assert cells.all_text_contents() == ["✓same", "✓same", *["·not asked yet"] * 6, "✗changed"]


@pytest.fixture(scope="module")
def auto_url(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model that has a threshold of auto, which is the service's default."""
    home = tmp_path_factory.mktemp("auto")
    model = save_tiny_graph(home / "auto.onnx", checkpoint={"auto_margin": 0.5})
    with application_server(SGN_MODEL=str(model), SGN_THREADS="1", SGN_SELF_GRADIENT="auto") as url:
        yield url


@pytest.mark.parametrize(
    ("colour", "label", "needed"), [((250, 10, 10), "red", False), ((120, 119, 118), "blue", True)]
)
def test_auto_says_whether_the_second_pass_was_needed(browser, auto_url, tmp_path, colour, label, needed):
    path = tmp_path / "plain.png"
    Image.new("RGB", (8, 8), colour).save(path)
    with watched_page(browser, auto_url) as watched:
        page = opened(watched.page)
        expect(page.get_by_role("radio", name="auto", exact=True)).to_be_checked()
        upload(page, path)
        assert verdicts(page) == {"Block auto live": label, "Block off live": "red"}
        assert [form["self_gradient"] for form in watched.sent() if form["path"] == "classify"] == ["auto", "false"]
        said = "was needed" if needed else "was not needed"
        expect(page.locator("[role=status]")).to_contain_text(f"auto: the second pass {said}")
        expect(page.locator("#disagreement-row")).to_be_visible(visible=needed)
        expect(page.locator("#latency")).to_have_text(re.compile(r"^\d+ ms with auto, \d+ ms with the block off"))
        check(page, "on")
        assert list(verdicts(page)) == ["Block on live", "Block off live"]
        expect(page.locator("#passes")).to_be_empty()
        expect(page.locator("#disagreement-row")).to_be_visible()


def test_the_switch_begins_as_the_service_does(browser, tmp_path):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    save_tiny_examples(model, (8, 8), {"block-on": "this model"})
    settings = {"SGN_MODEL": str(model), "SGN_SELF_GRADIENT": "false", "SGN_FORMATS": "JPEG"}
    with application_server(**settings) as url, watched_page(browser, url) as watched:
        page = opened(watched.page)
        expect(page.get_by_role("radio", name="off", exact=True)).to_be_checked()
        expect(page.get_by_role("radio", name="auto", exact=True)).to_be_hidden()  # the model has no threshold
        expect(page.locator("#examples")).to_be_hidden()  # they are PNG files, which this service does not take
        path = tmp_path / "red.jpg"
        Image.new("RGB", (20, 20), "red").save(path)
        upload(page, path)
        assert list(verdicts(page)) == ["Block off live"]
        assert bytes(watched.sent()[-1]["image"]) == path.read_bytes()
        expect(page.get_by_role("slider")).to_be_hidden()
        expect(page.locator("#strength-note")).to_contain_text("takes no PNG files")
        check(page, "on")
        assert list(verdicts(page)) == ["Block on live", "Block off live"]


@pytest.mark.parametrize("name", ["plain", "wide", "bare", "auto"])
def test_axe_finds_nothing(browser, request, paths, name):
    url = request.getfixturevalue(f"{name}_url")
    with watched_page(browser, url, bypass_csp=True, viewport={"width": 1280, "height": 900}) as one:
        page = opened(one.page)
        found = [violations(page)]
        upload(page, paths["broad"])
        set_strength(page, 4)
        found.append(violations(page))
        page.set_viewport_size({"width": 375, "height": 800})
        found.append(violations(page))
        assert found == [[], [], []]
        assert widest(page) <= 375


@pytest.mark.parametrize("screen", [pytest.param("desktop", marks=pytest.mark.thorough), "phone"])
@pytest.mark.parametrize(
    "name", ["plain", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("wide", "bare")), "auto"]
)
def test_pictures_of_the_page(browser, request, paths, name, screen):
    """The pictures are for people to look at."""
    width, height = SCREENS[screen]
    options: dict[str, Any] = {"is_mobile": True, "has_touch": True} if screen == "phone" else {}
    options |= {"viewport": {"width": width, "height": height}}
    with watched_page(browser, request.getfixturevalue(f"{name}_url"), **options) as watched:
        page = opened(watched.page)
        keep_pictures(page, f"{name}-{screen}")
        upload(page, paths["tall"])
        set_strength(page, 4)
        keep_pictures(page, f"{name}-{screen}-own", full_page=True)
        assert widest(page) <= width
