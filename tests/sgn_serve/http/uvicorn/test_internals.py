"""The parts of uvicorn that are not documented and that the service needs are there."""

import inspect

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sgn_serve.http.uvicorn import internals
from sgn_serve.http.uvicorn.internals import RunningServer, missing_parts


def test_every_part_is_there():
    assert missing_parts() == [], "pin uvicorn to the version before, or adapt sgn_serve/http/uvicorn/internals.py"


@pytest.mark.parametrize("name", ["on_body", "on_headers_complete"])
def test_a_method_that_is_gone_is_named(monkeypatch, name):
    monkeypatch.delattr(HttpToolsProtocol, name)
    (told,) = missing_parts()
    assert told.startswith(f"uvicorn's HttpToolsProtocol has no {name} any more, which is overridden")


def test_a_method_with_other_parameters_is_named(monkeypatch):
    monkeypatch.setattr(HttpToolsProtocol, "on_body", lambda self, body, more: None)
    (told,) = missing_parts()
    assert told == "uvicorn's HttpToolsProtocol.on_body takes ['self', 'body', 'more'] now, which Connection overrides"


def test_an_attribute_that_is_gone_is_named(monkeypatch):
    class Renamed(RequestResponseCycle):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.started = self.__dict__.pop("response_started")

    monkeypatch.setattr(Renamed, "__signature__", inspect.signature(RequestResponseCycle), raising=False)
    monkeypatch.setattr(internals, "RequestResponseCycle", Renamed)
    (told,) = missing_parts()
    assert "has no response_started any more" in told


def test_without_uvicorn_there_is_no_server():
    assert RunningServer.find() is None
