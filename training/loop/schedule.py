"""Set the learning rate over the course of training."""

from training.config import TrainConfig


def epochs_after(config: TrainConfig, seconds: float, reserved: float) -> float:
    """Return how far the schedule of a run with a time budget is, in epochs from 0 to config.epochs.

    Args:
        config: Its minutes are above 0.
        seconds: Seconds since the run's start.
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
