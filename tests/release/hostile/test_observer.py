import pytest

from release.hostile import observer
from release.hostile.server import Server

MB = 1e6


def test_a_process_that_ends_during_a_look_hides_no_later_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = observer._Watch(Server("127.0.0.1", 1, 1), "", 1e12)
    # It reads before and after each look. In the second one a process with 210 MB ends.
    cheap = iter([100 * MB, 80 * MB, 300 * MB, 90 * MB, 290 * MB, 280 * MB])
    exact = iter([70 * MB, 80 * MB, 270 * MB])

    def look(pids: list[int]) -> float:
        found = next(exact)
        if found == 270 * MB:
            watch.stop()
        return found

    monkeypatch.setattr(observer, "tree", lambda root: [root])
    monkeypatch.setattr(observer, "upper_bound", lambda pids: next(cheap))
    monkeypatch.setattr(observer, "exact", look)
    monkeypatch.setattr(observer, "EVERY_SECONDS", 0)
    watch.watch_memory()
    assert watch._window.peak == 270
