"""The program `python -m training`: train a network to runs/<name>/model.safetensors.

Nothing here imports PyTorch before the options are checked, for that takes seconds.
"""

import os
from pathlib import Path

from sgn_serve.common.error_text import say
from sgn_serve.common.interrupts import importing
from training.common.errors import TrainingError
from training.common.given_paths import require_file
from training.config import TIMM_WEIGHTS, TrainConfig
from training.data.datasets import require_root
from training.loop.run_lock import LOCK
from training.options import PROGRAM, TrainOptions, check_run, checked, parse, run_folder
from training.options import build_parser as build_parser  # the parser of each command is found here


def check_files(options: TrainOptions, config: TrainConfig) -> None:
    """Check that what the command line names is there, and the run's folder.

    Args:
        options: What the command line asks for.
        config: The configuration that it led to.

    Raises:
        OptionError: The run's name would lead out of runs/.
        PathError: Something is missing or in the way.
    """
    folder = run_folder(options.run, config)
    if not (folder / LOCK).exists():  # a living run says who it is, once it is asked for its lock
        check_run(folder, resume=options.resume)
    if config.start and config.pretrained != TIMM_WEIGHTS and not options.resume:
        require_file(Path(config.start), config.start_flag)
    # A run that goes on knows its data set, which need not be named again.
    named = not options.resume or "dataset" in options.given
    require_root(options.data_root, config.dataset if named else None)


def main(argv: list[str] | None = None, program: str = PROGRAM) -> int:
    """Run the program and return its exit status.

    Args:
        argv: The arguments. None takes those of the process.
        program: Name of the program in --help and errors.
    """
    options = parse(argv, program)
    try:
        config = checked(options)
        # Several processes check together once they have met, so that none waits for one that has ended.
        if os.environ.get("WORLD_SIZE", "1") == "1":
            check_files(options, config)
    except TrainingError as error:
        # Every process that torchrun started gets the same error, so the first one of each machine prints it.
        if int(os.environ.get("LOCAL_RANK", 0)) == 0:
            say(f"error: {error}")
        return error.exit_status
    with importing():
        from training.train import run
    return run(options)
