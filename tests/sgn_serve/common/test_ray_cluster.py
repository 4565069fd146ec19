"""`--ray auto` is the cluster that Ray has written down on this machine."""

import importlib.util
import socket

import pytest

from sgn_serve.common.ray_cluster import AUTO, Cluster, RayError, _last_head

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture
def written_down(tmp_path, monkeypatch):
    """The file in which `ray start` writes the address of the head. It is not there."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_the_last_head_is_the_one_that_ray_has_written_down(written_down, monkeypatch):
    from ray._private import utils

    assert _last_head() == AUTO
    utils.write_ray_address("head.example:6379")
    assert written_down.read_text() == "head.example:6379"
    assert _last_head() == "head.example:6379"
    monkeypatch.delattr(utils, "read_ray_address")
    assert _last_head() == AUTO, "a later Ray may not have it"


def test_a_head_that_is_written_down_and_gone_is_told_at_once(written_down):
    """Ray itself would try for two minutes to reach it."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{closed.getsockname()[1]}"
        written_down.write_text(nowhere)
        with pytest.raises(RayError, match=rf"^--ray {nowhere}: the head of the cluster cannot be reached \(Conn"):
            Cluster(AUTO).__enter__()


def test_a_machine_of_no_cluster_is_told_how_to_start_one(written_down, monkeypatch):
    from ray._private import services

    # Ray looks among the processes too, and other tests may have clusters.
    monkeypatch.setattr(services, "_find_address_from_flag", lambda flag: set())
    with pytest.raises(RayError, match=r"^--ray auto: this machine belongs to no running Ray cluster; start one with"):
        Cluster(AUTO).__enter__()
