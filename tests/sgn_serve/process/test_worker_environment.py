"""Workers inherit what their libraries read from the environment."""

import os

from sgn_serve.process.worker_environment import MALLOC, set_worker_environment


def test_a_value_of_the_users_own_stays_and_the_proxies_are_those_of_the_settings(monkeypatch):
    for name in (*MALLOC, "FORWARDED_ALLOW_IPS"):
        monkeypatch.setenv(name, "before")
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    set_worker_environment(("10.0.0.1", "10.0.0.2"))
    assert os.environ["MALLOC_ARENA_MAX"] == "1"
    assert os.environ["MALLOC_TRIM_THRESHOLD_"] == "before"
    assert os.environ["FORWARDED_ALLOW_IPS"] == "10.0.0.1,10.0.0.2"
