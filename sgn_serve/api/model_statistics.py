"""Tell what was counted of the network, as Triton's statistics extension does. Its perf_analyzer reads this.

Source: Triton's extension_statistics.md.
"""

from typing import Any

from sgn_serve.api.served_models import VERSION
from sgn_serve.telemetry import metrics

_STAGES = ("input", "infer", "output")
_INFERENCES, _SECONDS = "sgn_inferences_total", "sgn_inferences_seconds_total"
_STAGE_SECONDS = "sgn_inferences_stage_seconds_total"
_RUNS, _RUN_SECONDS = "sgn_runs_total", "sgn_runs_stage_seconds_total"


def model_statistics(name: str) -> dict[str, Any]:
    """Return the statistics of all workers since they were started, under one name of the network.

    An inference is one that the network answered: the tensors of one request under /v2, or one picture of any other.
    Its stages count as often as it does, each with all the time of the batch that it was in. Nothing is cached.
    """
    counted = metrics.values(
        metrics.PICTURES,
        metrics.AUTO_SECOND_PASSES,
        metrics.INFERENCES,
        metrics.INFERENCES_SECONDS,
        metrics.REQUEST_STAGE_SECONDS,
        metrics.RUNS,
        metrics.RUN_STAGE_SECONDS,
        metrics.LAST_RUN,
    )

    def inferences(outcome: str) -> int:
        return int(counted.get((_INFERENCES, outcome), 0))

    def stage(stage: str) -> dict[str, int]:
        return _duration(inferences(metrics.SUCCEEDED), counted.get((_STAGE_SECONDS, stage), 0.0))

    pictures = sum(count for key, count in counted.items() if key[0] == "sgn_pictures_total")
    twice = counted.get(("sgn_auto_second_passes_total",), 0.0)
    runs = {int(key[1]): int(count) for key, count in counted.items() if key[0] == _RUNS}
    return {
        "name": name,
        "version": VERSION,
        "last_inference": int(1000 * counted.get(("sgn_last_run_timestamp_seconds",), 0.0)),
        "inference_count": int(pictures - twice),
        "execution_count": sum(runs.values()),
        "inference_stats": {
            **{
                outcome: _duration(inferences(outcome), counted.get((_SECONDS, outcome), 0.0))
                for outcome in (metrics.SUCCEEDED, metrics.FAILED)
            },
            "queue": stage("queue"),
            **{f"compute_{name}": stage(name) for name in _STAGES},
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": pictures,
                **{
                    f"compute_{name}": _duration(count, counted.get((_RUN_SECONDS, str(pictures), name), 0.0))
                    for name in _STAGES
                },
            }
            for pictures, count in sorted(runs.items())
        ],
        "memory_usage": [],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(1e9 * seconds)}
