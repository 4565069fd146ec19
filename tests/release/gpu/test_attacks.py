"""Attacks within the time that is left."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from release.gpu import attacks, pictures
from release.gpu.record import NAME
from release.gpu.stage import Settings
from tests.release.gpu.rehearsals import run_of, settings_in


def test_attacks_end_with_their_time_and_say_how_many_pictures_were_attacked(
    rehearsal: tuple[dict[str, Any], Settings], tmp_path: Path
) -> None:
    settings = replace(settings_in(tmp_path), out=rehearsal[1].out)
    kept = (Path(settings.out) / NAME).read_text()
    try:
        pictures.prepare(run_of("pictures", settings))
        run = run_of("attacks", settings, seconds=0)
        attacks.attack(run)
        accuracy = run.figures_of("attacks")["accuracy"]
    finally:
        (Path(settings.out) / NAME).write_text(kept)
    assert set(accuracy) == {"self-gradient, block on", "self-gradient, block off", "plain"}
    for column in accuracy.values():
        assert list(column) == ["clean", "APGD-CE", "APGD-T"]
        for row in column.values():
            low, high = row["interval_95"]
            assert row["pictures"] == attacks.BATCH[True] < attacks.PICTURES[True]
            assert low <= row["accuracy"] <= high
            assert high - low > 0.2
        assert column["clean"]["accuracy"] >= column["APGD-CE"]["accuracy"] >= column["APGD-T"]["accuracy"]
