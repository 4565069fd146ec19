import re
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from sgn_serve.decoder_processes.decoder import LARGE_MEMORY, SMALL_MEMORY
from sgn_serve.decoder_processes.large_pictures import MAX_WAITING
from sgn_serve.pictures import formats
from sgn_serve.setting_types import parse_flag
from sgn_serve.settings import BUNDLED_MODEL, Settings, SettingsError, settings_table


def test_defaults():
    settings = Settings.from_environment({"PATH": "/bin", "SGN_SELF_GRADIENT": ""})
    assert settings == Settings()
    assert settings.model_path == BUNDLED_MODEL
    assert settings.self_gradient


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), (" AUTO ", "auto"), ("1", True), ("no", False)])
def test_the_block_may_be_left_to_the_picture(text, value):
    assert Settings.from_environment({"SGN_SELF_GRADIENT": text}).self_gradient == value


def test_every_setting_can_be_set():
    values = {
        "SGN_MODEL": ("m.onnx", Path("m.onnx")),
        "SGN_MODEL_NAME": ("sgn-2", "sgn-2"),
        "SGN_SELF_GRADIENT": ("off", False),
        "SGN_AUTO_MARGIN": ("0.08", 0.08),
        "SGN_TOP_K": ("1", 1),
        "SGN_MAX_DISAGREEMENT": ("0.25", 0.25),
        "SGN_ENGINE": ("openvino", "openvino"),
        "SGN_PROVIDERS": ("cuda, cpu", ("cuda", "cpu")),
        "SGN_THREADS": ("3", 3),
        "SGN_DECODERS": ("4", 4),
        "SGN_MAX_BATCH": ("5", 5),
        "SGN_BATCH_MS": ("6.5", 6.5),
        "SGN_MAX_WAIT_MS": ("0", 0.0),
        "SGN_MAX_QUEUE": ("7", 7),
        "SGN_MAX_IMAGES": ("2", 2),
        "SGN_MAX_BYTES": ("1000", 1000),
        "SGN_MAX_PIXELS": ("500", 500),
        "SGN_DECODE_SECONDS": ("0.5", 0.5),
        "SGN_RECEIVE_SECONDS": ("9", 9.0),
        "SGN_BACKGROUND": ("#00ff80", (0, 255, 128)),
        "SGN_FORMATS": ("jpeg,PNG", ("PNG", "JPEG")),
        "SGN_API_TOKEN": ("0123456789abcdef, fedcba9876543210", ("0123456789abcdef", "fedcba9876543210")),
        "SGN_RATE_LIMIT": ("2.5", 2.5),
        "SGN_RATE_BURST": ("8", 8),
        "SGN_TRUSTED_PROXIES": ("127.0.0.1, 10.0.0.0/8,::1", ("127.0.0.1", "10.0.0.0/8", "::1")),
        "SGN_ROOT_PATH": ("/a/b/", "/a/b"),
        "SGN_ALLOWED_HOSTS": ("example.org,*.example.net", ("example.org", "*.example.net")),
        "SGN_CORS_ORIGINS": (
            "https://example.org, http://localhost:8080",
            ("https://example.org", "http://localhost:8080"),
        ),
        "SGN_MAX_CONNECTIONS": ("9", 9),
        "SGN_DRAIN_SECONDS": ("5", 5.0),
        "SGN_TRIAL_SECONDS": ("90.5", 90.5),
        "SGN_TRIAL_MB": ("8000", 8000),
        "SGN_ACCESS_LOG": ("false", False),
    }
    by_variable = {str(field.validation_alias): name for name, field in Settings.model_fields.items()}
    assert values.keys() == by_variable.keys()
    settings = Settings.from_environment({variable: text for variable, (text, _) in values.items()})
    for variable, (_, value) in values.items():
        assert getattr(settings, by_variable[variable]) == value
        assert getattr(settings, by_variable[variable]) != getattr(Settings(), by_variable[variable])


def test_values_that_exclude_each_other():
    with pytest.raises(SettingsError, match="SGN_MAX_IMAGES=9 is more than SGN_MAX_QUEUE=8"):
        Settings.from_environment({"SGN_MAX_IMAGES": "9", "SGN_MAX_QUEUE": "8"})


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("SGN_SELF_GRADIENT", "maybe", "true, false or auto"),
        ("SGN_ENGINE", "abacus", "expected auto, onnxruntime or openvino"),
        ("SGN_THREADS", "many", "a whole number from 0 to 4096"),
        ("SGN_THREADS", "-1", "from 0 to 4096"),
        ("SGN_MAX_BYTES", "0", "from 1 to 1073741824"),
        ("SGN_MAX_PIXELS", "1e6", "a whole number from 1 to"),
        ("SGN_TOP_K", "0", "from 1 to 1000"),
        ("SGN_MAX_DISAGREEMENT", "nan", "from 0 to 1"),
        ("SGN_MAX_DISAGREEMENT", "2", "from 0 to 1"),
        ("SGN_BATCH_MS", "0", "from 1 to 60000"),
        ("SGN_BACKGROUND", "white", "#ffffff"),
        ("SGN_FORMATS", "PNG,EPS", "expected formats separated by commas, of PNG, JPEG, WEBP"),
        ("SGN_FORMATS", ",", "expected formats separated by commas, of PNG, JPEG, WEBP"),
        ("SGN_MODEL_NAME", "a/b", "part of a URL"),
        ("SGN_PROVIDERS", " , ", "cuda,cpu"),
        ("SGN_RATE_LIMIT", "-1", "from 0"),
        ("SGN_TRUSTED_PROXIES", "my-proxy", "127.0.0.1,10.0.0.0/8"),
        ("SGN_CORS_ORIGINS", "example.org", "https://example.org"),
        ("SGN_PROVIDER", "cpu", "SGN_PROVIDERS"),
    ],
)
def test_a_bad_value_is_one_line_that_names_variable_and_fix(variable, value, fix):
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment({variable: value})
    message = str(raised.value)
    assert variable in message
    assert fix in message
    assert "\n" not in message


ODD_VALUES = (" ", ",", "\n", "\udcff", "a\nb", "a\udcff", "\0", "nan", "1e-320", "-0", "\u0663")
TAKEN = {
    **{row.variable: ["\u0663"] for row in settings_table() if "a whole number from 1 to" in row.accepts},
    "SGN_MAX_QUEUE": [],  # a request may have more pictures than 3
    "SGN_THREADS": ["-0", "\u0663"],
    "SGN_AUTO_MARGIN": ["1e-320", "-0"],
    "SGN_MAX_DISAGREEMENT": ["1e-320", "-0"],
    "SGN_MAX_WAIT_MS": ["1e-320", "-0", "\u0663"],
    "SGN_RATE_LIMIT": ["1e-320", "-0", "\u0663"],
    "SGN_DRAIN_SECONDS": ["1e-320", "-0", "\u0663"],
    "SGN_BATCH_MS": ["\u0663"],
    "SGN_DECODE_SECONDS": ["\u0663"],
    "SGN_RECEIVE_SECONDS": ["\u0663"],
    "SGN_TRIAL_SECONDS": ["\u0663"],
    "SGN_MODEL": [" ", ",", "nan", "1e-320", "-0", "\u0663"],
    "SGN_MODEL_NAME": ["nan", "1e-320"],
    "SGN_PROVIDERS": ["nan"],
    "SGN_ALLOWED_HOSTS": ["a\nb", "nan", "1e-320", "-0"],  # two hosts in two lines
}
"""Odd values that a setting takes. It refuses the others: a list, for one, all that names nothing."""


@pytest.mark.parametrize("value", ODD_VALUES)
@pytest.mark.parametrize("variable", [row.variable for row in settings_table()])
def test_an_odd_value_is_taken_where_it_means_something_and_else_refused_in_one_line(variable, value):
    if value not in TAKEN.get(variable, []):
        with pytest.raises(SettingsError, match=variable) as raised:
            Settings.from_environment({variable: value})
        assert str(raised.value).encode().decode().isprintable()
        return
    settings = Settings.from_environment({variable: value})
    settings.model_dump_json()
    (field,) = (name for name, made in Settings.model_fields.items() if made.validation_alias == variable)
    taken = getattr(settings, field)
    assert taken not in (None, "", ())
    for item in taken if isinstance(taken, tuple) else (taken,):
        assert str(item).isprintable()


@pytest.mark.parametrize("code", [0x20, 0xA0, 0xAD, 0x200D, 0x202F, 0x3000, 0xFEFF, 0x1F3FD])
def test_a_path_may_have_every_character_of_a_name(tmp_path, code):
    """Such as U+202F in macOS's names of screenshots, and U+200D in emoji."""
    path = tmp_path / f"a{chr(code)}b.onnx"
    path.touch()
    assert Settings.from_environment({"SGN_MODEL": str(path)}).model_path.exists()


@pytest.mark.parametrize(
    ("code", "kind"),
    [(0, "control"), (9, "control"), (0x1B, "control"), (0x85, "control"), (0x2028, "line"), (0x2029, "paragraph")],
)
def test_a_path_of_several_lines_or_that_controls_a_terminal_is_refused(code, kind):
    with pytest.raises(SettingsError, match=f"SGN_MODEL=.* cannot be used: the path has U\\+{code:04X}, a {kind} "):
        Settings.from_environment({"SGN_MODEL": f"a{chr(code)}b.onnx"})


def test_the_formats_are_those_that_are_installed_unless_told(monkeypatch):
    settings = Settings.from_environment({"SGN_FORMATS": "tga, png"})
    assert settings.formats == ("PNG", "TGA"), "a format without a signature is tried last"
    assert Settings.from_environment({}).formats == formats.AVAILABLE
    assert {"PNG", "JPEG", "TIFF", "PPM", "ICO", "QOI", "DDS", "TGA"} <= {*formats.AVAILABLE} <= {*formats.KNOWN}
    monkeypatch.setattr("PIL.features.check", lambda name: name != "avif")
    monkeypatch.setitem(sys.modules, "pillow_heif.HeifImagePlugin", None)  # importing it fails
    formats.lacking.cache_clear()
    try:
        with pytest.raises(SettingsError, match=r"SGN_FORMATS='AVIF' cannot be used: AVIF .* has no avif; install"):
            Settings.from_environment({"SGN_FORMATS": "AVIF"})
        with pytest.raises(SettingsError, match=r'HEIF cannot be read here: .*; install it: pip install ".\[heic\]"'):
            Settings.from_environment({"SGN_FORMATS": "PNG,HEIF"})
    finally:
        formats.lacking.cache_clear()


@pytest.mark.parametrize(
    "tokens", ["short", "0123456789abcdef,tiny", "0123456789abcde\N{LATIN SMALL LETTER E WITH ACUTE}f", "\n", ",", " "]
)
def test_a_bad_token_is_refused_and_not_told(tokens):
    with pytest.raises(SettingsError, match=r"SGN_API_TOKEN cannot be used: .*openssl rand") as raised:
        Settings.from_environment({"SGN_API_TOKEN": tokens})
    assert len(tokens) == 1 or tokens not in str(raised.value)


def test_tokens_are_not_shown():
    settings = Settings.from_environment({"SGN_API_TOKEN": "0123456789abcdef"})
    assert "0123456789abcdef" not in repr(settings)


def test_settings_built_in_code_read_no_environment(monkeypatch):
    monkeypatch.setenv("SGN_TOP_K", "7")
    monkeypatch.setenv("SGN_COLOUR", "red")
    assert Settings().top_k == 5
    assert Settings(top_k=6).top_k == 6
    with pytest.raises(ValidationError):
        Settings(top_k=0)
    with pytest.raises(ValidationError):
        Settings().top_k = 1  # type: ignore[misc]


def test_names_count_as_they_are_written():
    assert Settings.from_environment({"sgn_top_k": "7"}).top_k == 5


def test_the_table_tells_every_setting_and_its_default():
    rows = {row.variable: row for row in settings_table()}
    assert rows.keys() == {str(field.validation_alias) for field in Settings.model_fields.values()}
    assert rows["SGN_SELF_GRADIENT"][1:3] == ("true, false or auto", "true")
    assert rows["SGN_TOP_K"][1:3] == ("a whole number from 1 to 1000", "5")
    assert rows["SGN_RATE_LIMIT"][1:3] == ("a number from 0 to 1000000", "0: any number")
    assert rows["SGN_DECODE_SECONDS"][1:3] == ("a number from 0.01 to 600", "3.5")
    assert rows["SGN_API_TOKEN"].default.startswith("none")
    assert all(text and "\n" not in text and "|" not in text for row in rows.values() for text in row[:4])
    assert [row.variable for row in rows.values() if row.secret] == ["SGN_API_TOKEN"]
    for variable, field in (
        (row.variable, field) for row, field in zip(rows.values(), Settings.model_fields, strict=True)
    ):
        written = rows[variable].default
        value = getattr(Settings(), field)
        if isinstance(value, int | float) and written.replace(".", "").isdigit():
            assert float(written) == value, "as the code has it"


def test_the_table_tells_what_the_code_does():
    """Sentences of it that other modules decide."""
    rows = {row.variable: row.meaning for row in settings_table()}
    assert f"at most {MAX_WAITING} of different requests" in rows["SGN_DECODERS"]
    assert f"with {SMALL_MEMORY >> 20} MiB of memory" in rows["SGN_DECODERS"]
    for variable in ("SGN_DECODERS", "SGN_MAX_PIXELS"):
        assert f"{LARGE_MEMORY >> 20} MiB" in rows[variable]


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("ON", True), (" 1", True), ("False", False), ("no", False)]
)
def test_flags(text, value):
    assert parse_flag(text) is value


@pytest.mark.parametrize(
    ("variable", "meant"),
    [("SGN_THREDS", "did you mean SGN_THREADS? "), ("SGN_HOST", ""), ("SGN_engine", "did you mean SGN_ENGINE? ")],
)
def test_a_wrong_name_is_answered_with_the_nearest_setting(variable, meant):
    with pytest.raises(
        SettingsError, match=re.escape(f"{variable} is not a setting; {meant}the settings are: SGN_MODEL")
    ):
        Settings.from_environment({variable: "2"})
