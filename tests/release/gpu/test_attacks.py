"""Attacks within the time that is left."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from release.gpu import attacks, pictures
from release.gpu.record import NAME
from release.gpu.stage import Settings
from tests.release.gpu.rehearsals import run_of, settings_in
from training.attacks.base import block_state


@pytest.mark.thorough
def test_attacks_end_with_their_time_and_say_how_many_pictures_were_attacked(
    rehearsal: tuple[dict[str, Any], Settings], tmp_path: Path
) -> None:
    settings = replace(settings_in(tmp_path), out=rehearsal[1].out)
    kept = (Path(settings.out) / NAME).read_text()
    try:
        pictures.prepare(run_of("pictures", settings))
        run = run_of("attacks", settings, seconds=0)
        attacks.attack(run)
        rows = run.figures_of("attacks")["rows"]
    finally:
        (Path(settings.out) / NAME).write_text(kept)
    assert set(rows) == {"self-gradient, block on", "self-gradient, block off", "plain"}
    for name, column in rows.items():
        state = block_state(name.endswith("block on"))
        assert [row["id"] for row in column] == [
            {"state": state, "family": family} for family in ("clean", "apgd-ce", "apgd-t")
        ]
        for row in column:
            low, high = row["interval_95"]
            assert row["pictures"] == attacks.BATCH[True] < attacks.PICTURES[True]
            assert low <= row["accuracy"] <= high
            assert high - low > 0.2
        left = [row["accuracy"] for row in column]
        assert left == sorted(left, reverse=True)
