"""Where `python -m sgn_serve` listens."""

import warnings
from collections.abc import Callable

import pytest

from sgn_serve import command


@pytest.fixture
def served(monkeypatch) -> Callable[..., list[str]]:
    """Return what a command line hands to BentoML after the service's name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a package that BentoML imports
        import bentoml_cli.cli

    handed: list[list[str]] = []
    monkeypatch.setattr(command, "end_server_quietly", lambda: None)
    monkeypatch.setattr(bentoml_cli.cli, "cli", lambda arguments, **_: handed.append(arguments))
    monkeypatch.setenv("BENTOML_DO_NOT_TRACK", "True")

    def serve(*arguments: str) -> list[str]:
        assert command.main([*arguments]) == 0
        return handed.pop()[2:]

    return serve


def test_it_listens_where_options_or_variables_say(served, monkeypatch):
    monkeypatch.delenv("BENTOML_HOST", raising=False)
    monkeypatch.delenv("BENTOML_PORT", raising=False)
    assert served() == []
    assert served("--host", "localhost", "--port", "80") == ["--host", "127.0.0.1", "--port", "80"]
    monkeypatch.setenv("BENTOML_HOST", "::1")
    monkeypatch.setenv("BENTOML_PORT", "8080")
    assert served() == ["--host", "::1", "--port", "8080"]
    assert served("--port", "81", "--", "--timeout", "9") == ["--host", "::1", "--port", "81", "--timeout", "9"]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("BENTOML_PORT", "70000", "'70000' is not a port; give a number from 1 to 65535"),  # BentoML would take 4464
        ("BENTOML_PORT", "http", "'http' is not a port; give a number from 1 to 65535"),
        ("BENTOML_HOST", "example.org", "'example.org' is not an address of this machine; give its number, such as "),
    ],
)
def test_variables_that_cannot_be_are_refused(served, monkeypatch, capsys, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit, match="2"):
        served()
    assert f"BENTOML_HOST and BENTOML_PORT: {message}" in capsys.readouterr().err
