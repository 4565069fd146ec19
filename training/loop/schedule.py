"""Learning rate over the course of training."""

from training.config import TrainConfig


def learning_rate(config: TrainConfig, progress: float) -> float:
    """progress: epochs done so far, fractions included; the schedules are TrainConfig's"""
    if config.lr_schedule == "step":
        passed = sum(progress >= milestone for milestone in config.lr_milestones)
        return config.lr * config.lr_decay**passed
    share = progress / config.epochs
    if share < config.lr_warmup:
        return config.lr * share / config.lr_warmup
    return config.lr * max(0.0, 1 - share) / (1 - config.lr_warmup)
