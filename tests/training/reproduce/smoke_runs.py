"""Calls of `python -m training.reproduce` with the budget of a smoke test, and their results."""

import json
from pathlib import Path

from training.reproduce import command as reproduce


def result(target: str) -> dict:
    return json.loads(Path(f"results/reproduce/smoke/{target}.json").read_text())


def smoke(target: str, *more: str) -> int:
    return reproduce.main([target, "--budget", "smoke", "--threads", "1", *more])
