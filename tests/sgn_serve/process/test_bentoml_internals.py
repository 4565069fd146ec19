"""The parts of BentoML and circus that are not documented and that the service needs are there."""

import pytest
from circus.arbiter import Arbiter as CircusArbiter
from circus.sockets import CircusSockets

from sgn_serve.process import bentoml_internals
from sgn_serve.process.bentoml_internals import missing_parts


def test_every_part_is_there():
    assert missing_parts() == [], "pin BentoML to the version before, or adapt sgn_serve/process/bentoml_internals.py"


@pytest.mark.parametrize(("owner", "name"), [(CircusSockets, "close_all"), (CircusArbiter, "iter_watchers")])
def test_a_part_that_is_gone_is_named(monkeypatch, owner, name):
    monkeypatch.delattr(owner, name)
    (told,) = missing_parts()
    assert f"has no {name} any more, which is " in told


def test_a_parameter_that_is_gone_is_named(monkeypatch):
    monkeypatch.setitem(bentoml_internals.ENDPOINTS, "commands", "where it takes them")
    assert missing_parts() == ["circus's Arbiter has no parameter commands any more, which says where it takes them"]


def test_an_attribute_that_is_gone_is_named(monkeypatch):
    monkeypatch.setitem(bentoml_internals.WATCHER_ATTRIBUTES, "reaper", "read: an example")
    assert missing_parts() == ["circus.watcher.Watcher has no attribute reaper any more, which is read: an example"]


@pytest.mark.parametrize("program", [("bentoml_cli.cli", "main"), ("bentoml_cli.program", "cli")])
def test_a_program_that_is_gone_is_named(monkeypatch, program):
    monkeypatch.setattr(bentoml_internals, "PROGRAM", program)
    assert missing_parts() == [f"{program[0]} has no {program[1]} any more, which is called: the program bentoml"]
