"""Errors that a user can put right have one base, and become one line of a command line."""

import pytest

from training.checkpoint import CheckpointError
from training.common.command_line import OptionError
from training.common.devices import DeviceError
from training.common.errors import TrainingError
from training.common.files import WriteError
from training.data.picture_set import DatasetError
from training.loop.state import TrainerError
from training.networks.errors import ArchitectureError
from training.parallel.distributed import DistributedError
from training.reproduce.targets import ReproductionError


@pytest.mark.parametrize(
    "error",
    [
        ArchitectureError,
        CheckpointError,
        DatasetError,
        DeviceError,
        DistributedError,
        OptionError,
        ReproductionError,
        TrainerError,
        WriteError,
    ],
)
def test_what_a_user_can_put_right_has_one_base_and_a_status(error):
    assert issubclass(error, TrainingError)
    assert not issubclass(error, ValueError)
    assert error("x").exit_status == 2
