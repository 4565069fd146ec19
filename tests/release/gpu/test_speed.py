"""The speed of both passes."""

from typing import Any

import pytest

from release.gpu.stage import Settings


def test_the_speed_of_both_passes_is_a_share_of_the_peak(rehearsal: tuple[dict[str, Any], Settings]) -> None:
    figures = rehearsal[0]["stages"]["speed"]["figures"]
    operations = figures["operations_per_picture"]["wrn-10-1"]
    assert 2.5 < operations["both passes"] / operations["one pass"] < 3.5
    row = figures["best"]["wrn-10-1, tf32, batch 2"]["eager, both passes"]
    assert row["tflops"] == pytest.approx(2 * operations["both passes"] / row["best_ms"] / 1e9, abs=1e-3)
    left_out = figures["left_out"]["wrn-10-1, tf32, batch 1"]
    assert set(left_out) == {"graph, CUDA graph", "graph, fused block, CUDA graph"}
    assert all(left_out.values())
