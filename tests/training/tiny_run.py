"""Helpers of the tests that train whole, tiny networks through the command line."""

import csv
from pathlib import Path

from training.command import main


def arguments(picture_folder: Path, run: str, *more: str, epochs: int = 3) -> list[str]:
    return [
        "--dataset=image-folder",
        f"--data-root={picture_folder}",
        f"--run={run}",
        f"--epochs={epochs}",
        "--arch=wrn-10-1",
        "--batch-size=32",
        "--lr-schedule=cyclic",
        "--crop-padding=1",
        "--device=cpu",
        "--validation-pictures=12",
        "--validation-attacked=6",
        "--precision=float32",
        *more,
    ]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def failure(capsys, argv: list[str]) -> str:
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error
