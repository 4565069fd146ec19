"""The systems that the paper's tables compare, and the budgets at which they are trained."""

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """One trained network.

    Attributes:
        title: Its name in tables.
        flags: Options of `python -m training`, after the budget's.
        has_block: Whether it has a self-gradient block.
    """

    title: str
    flags: tuple[str, ...]
    has_block: bool = False


SYSTEMS: dict[str, System] = {
    "standard": System("standard", ("--method", "standard")),
    "pgd": System("Madry PGD-10", ("--method", "pgd")),
    "bilateral": System("bilateral", ("--method", "bilateral")),
    "trades": System("TRADES", ("--method", "trades")),
    "self-gradient": System("self-gradient", ("--method", "self-gradient"), has_block=True),
    "self-gradient-literal": System(
        "self-gradient, the paper's block",
        ("--method", "self-gradient", "--block-scale", "1", "--gradient-scaling", "none"),
        has_block=True,
    ),
    "gradient-oracle": System("PGD-10 with the true gradient", ("--method", "gradient-oracle")),
}

EXTRA = {"table2": ("trades", "self-gradient-literal")}
"""Systems that are measured beside those of a table, and that the paper has no figures of."""


@dataclass(frozen=True)
class Budget:
    """The amount of training and judging that a table gets.

    Attributes:
        purpose: Its description in --help.
        arch: Backbone.
        flags: Options of `python -m training`, for every system.
        pictures: How many pictures of the test split are attacked.
    """

    purpose: str
    arch: str
    flags: tuple[str, ...]
    pictures: int


BUDGETS = {
    # The defaults of `python -m training` are the paper's recipe (section 5.1.2).
    "paper": Budget("the paper's recipe: days on a GPU", "wrn-28-10", (), pictures=10_000),
    # Enough to see how the systems compare, not their figures at convergence.
    "small": Budget(
        "a small backbone, two epochs: hours on a CPU",
        "wrn-10-2",
        ("--epochs", "2", "--lr-schedule", "cyclic", "--lr", "0.2", "--validation-attacked", "250"),
        pictures=1000,
    ),
    "smoke": Budget(
        "minutes, to see that everything runs; its figures mean nothing",
        "wrn-10-1",
        ("--epochs", "1", "--validation-pictures", "100", "--validation-attacked", "20", "--batch-size", "20"),
        pictures=100,
    ),
}
