import dataclasses
import re
from pathlib import Path

import pytest

from sgn_serve.settings import BUNDLED_MODEL, Settings, SettingsError, parse_flag


def test_defaults():
    settings = Settings.from_environment({"PATH": "/bin", "SGN_SELF_GRADIENT": ""})
    assert settings == Settings()
    assert settings.model_path == BUNDLED_MODEL
    assert settings.self_gradient


def test_every_setting_can_be_set():
    settings = Settings.from_environment(
        {
            "SGN_MODEL": "m.onnx",
            "SGN_SELF_GRADIENT": "off",
            "SGN_PROVIDERS": "cuda, cpu",
            "SGN_THREADS": "3",
            "SGN_MAX_BYTES": "1000",
            "SGN_MAX_PIXELS": "500",
            "SGN_TOP_K": "1",
        }
    )
    assert settings == Settings(Path("m.onnx"), False, ("cuda", "cpu"), 3, 1000, 500, 1)


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("SGN_SELF_GRADIENT", "maybe", "true or false"),
        ("SGN_THREADS", "many", "0 or more"),
        ("SGN_THREADS", "-1", "0 or more"),
        ("SGN_MAX_BYTES", "0", "1 or more"),
        ("SGN_MAX_PIXELS", "1e6", "1 or more"),
        ("SGN_TOP_K", "0", "1 or more"),
        ("SGN_PROVIDERS", " , ", "cuda,cpu"),
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


def test_the_docstring_documents_every_variable():
    documented = set(re.findall(r"SGN_[A-Z_]+", Settings.__doc__ or ""))
    assert documented == {item.metadata["variable"] for item in dataclasses.fields(Settings)}


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("ON", True), (" 1", True), ("False", False), ("no", False)]
)
def test_flags(text, value):
    assert parse_flag(text) is value
