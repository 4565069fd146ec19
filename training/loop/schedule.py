"""Set the learning rate over the course of training."""

from dataclasses import replace

from training.config import TrainConfig


def epochs_after(config: TrainConfig, seconds: float, reserved: float) -> float:
    """Return how far the schedule of a run with a time budget is, in epochs from 0 to config.epochs.

    Args:
        config: Its minutes are above 0.
        seconds: Seconds of the budget that are used.
        reserved: Seconds of the budget that are kept for the last validation.
    """
    for_training = 60 * config.minutes - reserved
    share = seconds / for_training if for_training > 0 else 1.0
    return config.epochs * min(1.0, share)


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Return the learning rate at a moment of training.

    It is a function of the progress rather than a torch.optim.lr_scheduler, so that a resumed run needs no state of it.

    Args:
        config: Its lr_schedule names the schedule.
        progress: Epochs done so far, fractions included.
    """
    if config.lr_schedule == "step":
        passed = sum(progress >= milestone for milestone in config.lr_milestones)
        return config.lr * config.lr_decay**passed
    share = progress / config.epochs
    if share < config.lr_warmup:
        return config.lr * share / config.lr_warmup
    return config.lr * max(0.0, 1 - share) / (1 - config.lr_warmup)


def lengthened_schedule(config: TrainConfig, before: int, done: int) -> str:
    """Return one sentence on the learning rate of a run that gets more epochs.

    The cyclic schedule is laid anew over all epochs. A second cycle from 0 up to the peak would undo more of what is
    learned, the fewer epochs are added. This way, few more epochs mean a small step up.

    Args:
        config: The configuration with the new number of epochs.
        before: The number of epochs until now.
        done: Epochs that are trained.
    """
    now = learning_rate(config, done)
    more = f"{'1 epoch becomes' if before == 1 else f'{before} epochs become'} {config.epochs}"
    if config.lr_schedule == "step":
        return f"{more}: the learning rate goes on at {now:.3g}, as the step schedule says"
    then = learning_rate(replace(config, epochs=before), done)
    return (
        f"{more}: the cyclic schedule is laid anew over all of them, so the learning rate jumps from {then:.3g} to "
        f"{now:.3g}, and falls to 0 at the new end"
    )
