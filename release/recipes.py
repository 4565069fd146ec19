"""The recipes that python -m release.speedrun compares: options of `python -m training` by name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """One way to train a plain network.

    Attributes:
        about: Its peculiarity, for the table.
        flags: Options of `python -m training`, over those of COMMON.
    """

    about: str
    flags: tuple[str, ...]


COMMON = ("--lr-schedule", "cyclic", "--lr", "0.2", "--crop-padding", "2", "--validation-attacked", "250")
"""Options of every recipe. A recipe's own come later on the command line, so they win."""

_UNIFORM = ("--method", "pgd", "--attack-steps", "1", "--attack-step-size", "10/255")
_NOISE = ("--method", "pgd", "--attack", "n-fgsm")
_PRIOR = ("--method", "pgd", "--attack-steps", "1", "--attack-step-size", "8/255", "--attack-start", "prior")
_TRADES = ("--method", "trades", "--attack-steps", "1", "--attack-step-size", "8/255")
_NUAT = ("--method", "nuat")
_EMA = ("--ema-decay", "0.999")
_SMOOTHING = ("--label-smoothing", "0.1")

RECIPES = {
    "uniform": Recipe("one step from a uniform start", _UNIFORM),
    "uniform-ema": Recipe("uniform, weight averaging 0.999", (*_UNIFORM, *_EMA)),
    "uniform-smoothing": Recipe("uniform, label smoothing 0.1", (*_UNIFORM, *_SMOOTHING)),
    "uniform-ema-smoothing": Recipe("uniform, both", (*_UNIFORM, *_EMA, *_SMOOTHING)),
    "n-fgsm": Recipe("one step from noise of 2 eps, not projected", _NOISE),
    "n-fgsm-ema": Recipe("n-fgsm, weight averaging 0.999", (*_NOISE, *_EMA)),
    "n-fgsm-smoothing": Recipe("n-fgsm, label smoothing 0.1", (*_NOISE, *_SMOOTHING)),
    "n-fgsm-ema-smoothing": Recipe("n-fgsm, both", (*_NOISE, *_EMA, *_SMOOTHING)),
    "n-fgsm-consistency": Recipe("n-fgsm-ema, start consistency 10", (*_NOISE, *_EMA, "--start-consistency", "10")),
    "prior": Recipe("one step from the last perturbation", _PRIOR),
    "prior-ema": Recipe("prior, weight averaging 0.999", (*_PRIOR, *_EMA)),
    "prior-smoothing": Recipe("prior, label smoothing 0.1", (*_PRIOR, *_SMOOTHING)),
    "prior-ema-smoothing": Recipe("prior, both", (*_PRIOR, *_EMA, *_SMOOTHING)),
    "prior-consistency": Recipe(
        "prior-ema, start consistency 10 (FGSM-PGI)", (*_PRIOR, *_EMA, "--start-consistency", "10")
    ),
    "nuat": Recipe("NuAT of weight 4, weight averaging 0.999", (*_NUAT, *_EMA)),
    "nuat-8": Recipe("nuat, weight 8", (*_NUAT, *_EMA, "--nuclear-weight", "8")),
    "nuat-16": Recipe("nuat, weight 16", (*_NUAT, *_EMA, "--nuclear-weight", "16")),
    "nuat-joint": Recipe(
        "nuat-16, one pass for clean and attacked", (*_NUAT, *_EMA, "--nuclear-weight", "16", "--joint-pass")
    ),
    "nuat-prior": Recipe(
        "nuat-16 from the last perturbation", (*_NUAT, *_EMA, "--nuclear-weight", "16", "--attack-start", "prior")
    ),
    "nuat-2": Recipe("nuat-16, two steps", (*_NUAT, *_EMA, "--nuclear-weight", "16", "--attack-steps", "2")),
    "liet": Recipe("LIET of weight 100, weight averaging 0.999", ("--method", "liet", *_EMA)),
    "liet-10": Recipe("liet, weight 10", ("--method", "liet", *_EMA, "--liet-weight", "10")),
    "trades-1": Recipe("TRADES with one step, weight averaging 0.999", (*_TRADES, *_EMA)),
    "trades-1-joint": Recipe("trades-1, one pass for clean and attacked", (*_TRADES, *_EMA, "--joint-pass")),
    "trades-1-prior": Recipe("trades-1 from the last perturbation", (*_TRADES, *_EMA, "--attack-start", "prior")),
    "batch-64": Recipe("uniform-ema, 64 pictures a step", (*_UNIFORM, *_EMA, "--batch-size", "64")),
    "batch-256": Recipe("uniform-ema, 256 pictures a step", (*_UNIFORM, *_EMA, "--batch-size", "256")),
    "lr-0.1": Recipe("uniform-ema, peak learning rate 0.1", (*_UNIFORM, *_EMA, "--lr", "0.1")),
    "lr-0.3": Recipe("uniform-ema, peak learning rate 0.3", (*_UNIFORM, *_EMA, "--lr", "0.3")),
    "lr-0.4": Recipe("uniform-ema, peak learning rate 0.4", (*_UNIFORM, *_EMA, "--lr", "0.4")),
    "crop-0": Recipe("uniform-ema, mirror images alone", (*_UNIFORM, *_EMA, "--crop-padding", "0")),
    "crop-4": Recipe("uniform-ema, crops from 4 pixels of padding", (*_UNIFORM, *_EMA, "--crop-padding", "4")),
    "no-augmentation": Recipe(
        "uniform-ema, pictures as they are", (*_UNIFORM, *_EMA, "--crop-padding", "0", "--no-flip")
    ),
    "decay-1e-4": Recipe("uniform-ema, weight decay 1e-4", (*_UNIFORM, *_EMA, "--weight-decay", "1e-4")),
    "decay-2e-4": Recipe("uniform-ema, weight decay 2e-4", (*_UNIFORM, *_EMA, "--weight-decay", "2e-4")),
    "decay-1e-3": Recipe("uniform-ema, weight decay 1e-3", (*_UNIFORM, *_EMA, "--weight-decay", "1e-3")),
    "ema-0.99": Recipe("uniform, weight averaging 0.99", (*_UNIFORM, "--ema-decay", "0.99")),
    "ema-0.9995": Recipe("uniform, weight averaging 0.9995", (*_UNIFORM, "--ema-decay", "0.9995")),
    "smoothing-0.4": Recipe("uniform-ema, label smoothing 0.4", (*_UNIFORM, *_EMA, "--label-smoothing", "0.4")),
}
"""The recipes by name. The defaults that one leaves are those of `python -m training`."""

CORE_MINUTES_OF_AN_EPOCH = 5.4
"""Minutes of a core for an epoch of one-step training of WRN-16-2, validation included: results/bundled/start.json."""
COSTS = {
    "uniform-ema": 1.0,
    "n-fgsm-ema": 1.0,
    "n-fgsm-ema-smoothing": 1.0,
    "prior-ema": 1.0,
    "prior-ema-smoothing": 1.0,
    "prior-consistency": 1.36,
    "liet": 1.37,
    "nuat-16": 1.59,
    "trades-1": 1.73,
}
"""The cost of a step of each compared recipe on one core, in steps of one-step training: see training/methods."""
