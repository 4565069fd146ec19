"""Every numeric option of training and evaluation refuses what is no number, or one beyond 64 bits, before data."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training import command as training
from training.common.command_line import OptionError, flag
from training.common.described_options import DescribedOption, described_options
from training.config import TrainConfig
from training.evaluate import command as evaluation
from training.evaluate.options import Options

NUMBERS = ("integer", "integers", "number", "numbers")
HUGE = "1" + "0" * 400
TEXTS = ("nan", "inf", "-inf", HUGE, "-" + HUGE, "1" + "0" * 5000)
VALUES = (math.nan, math.inf, -math.inf, 10**400, -(10**400), 2**63)
Command = Callable[[list[str]], int]


def numeric(record: type) -> list[DescribedOption]:
    return [item for item in described_options(record) if item.kind in NUMBERS]


PARAMETERS = [
    *(pytest.param(training.main, TrainConfig, item, id=f"training {item.name}") for item in numeric(TrainConfig)),
    *(pytest.param(evaluation.main, Options, item, id=f"evaluation {item.name}") for item in numeric(Options)),
]


def test_the_parameters_are_all_numbers_of_both_commands():
    assert len(PARAMETERS) > 35
    for record, names in (
        (TrainConfig, {"epochs", "seed", "lr", "lr_milestones", "image_size", "minutes", "epsilon", "ema_decay"}),
        (Options, {"pictures", "eps", "beta", "seed", "batch_size", "auto_margin", "threads", "restarts"}),
    ):
        assert names <= {item.name for item in numeric(record)}


@pytest.mark.parametrize(("main", "record", "item"), PARAMETERS)
def test_the_command_line_refuses_it_in_one_line(
    main: Command, record: type, item: DescribedOption, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    # Neither is there: whoever got as far as reading one of them would say so.
    given = ["--data-root=nowhere", *(["--ckpt=none.safetensors"] if record is Options else [])]
    for text in TEXTS:
        try:
            status: Any = main([*given, f"{flag(item.name)}={text}"])
        except SystemExit as ended:
            status = ended.code
        assert status == 2, text
        printed = capsys.readouterr()
        assert printed.out == ""
        error, *usage = printed.err.splitlines()
        assert error.startswith("error: "), error
        assert flag(item.name) in error, error
        assert len(usage) <= 1
        assert all(line.startswith("usage: ") for line in usage)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("main", "record", "item"), PARAMETERS)
def test_the_record_refuses_it_in_one_line(main: Command, record: type, item: DescribedOption) -> None:
    given: dict[str, Any] = {"ckpt": Path("a"), "data_root": Path("b")} if record is Options else {}
    for value in VALUES:
        with pytest.raises(OptionError) as caught:
            record(**given, **{item.name: (value,) if item.kind.endswith("s") else value})
        message = str(caught.value)
        assert message.startswith(flag(item.name)), message
        assert "\n" not in message
