"""The figures that the paper reports (Aboutalebi, Shafiee and Wong, Self-Gradient Networks, tables 1 to 5), in percent.

All are accuracies of WRN-28-10 at epsilon 8/255. A system, attack or data set that the paper leaves out is absent.
"""

from dataclasses import dataclass

from training.attacks.rows import Family

ATTACKS: dict[str, tuple[Family, int | None]] = {
    "clean": ("clean", None),
    "FGSM": ("fgsm", None),
    "PGD-10": ("pgd", 10),
    "PGD-20": ("pgd", 20),
    "PGD-40": ("pgd", 40),
    "PGD-100": ("pgd", 100),
    "CW-10": ("cw", 10),
    "CW-20": ("cw", 20),
    "CW-40": ("cw", 40),
    "CW-100": ("cw", 100),
}
"""The headings of the tables' columns, with the algorithm and the steps of the row that belongs below each."""


@dataclass(frozen=True)
class PaperRow:
    """One line of a table of the paper.

    Attributes:
        system: Key of training.reproduce.systems.SYSTEMS.
        dataset: cifar10, cifar100 or svhn.
        figures: Accuracy in percent by heading.
        block: Whether the self-gradient block was on; False for every other system.
    """

    system: str
    dataset: str
    figures: dict[str, float]
    block: bool = False


def _row(dataset: str, system: str, cells: str) -> PaperRow:
    """Return a row from a table's line as the paper prints it, with "-" where it gives nothing."""
    figures = {attack: float(cell) for attack, cell in zip(ATTACKS, cells.split(), strict=True) if cell != "-"}
    return PaperRow(system, dataset, figures, block=system == "self-gradient")


TABLES: dict[str, tuple[PaperRow, ...]] = {
    "table1": (
        PaperRow("gradient-oracle", "cifar10", {"clean": 92.10, "PGD-10": 82.4}),
        PaperRow("pgd", "cifar10", {"clean": 85.7, "PGD-10": 45.1}),
    ),
    "table2": (
        _row("cifar10", "standard", "95.6 36.9 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0"),
        _row("cifar10", "pgd", "85.7 54.9 45.1 44.9 44.8 44.8 45.9 45.7 45.6 45.4"),
        _row("cifar10", "bilateral", "91.2 70.7 - 57.5 - 55.2 - 56.2 - 53.8"),
        _row("cifar10", "self-gradient", "90.9 81.4 64.37 63.98 63.90 63.88 64.41 64.14 64.1 64.09"),
    ),
    "table3": (
        _row("cifar100", "standard", "79.0 10.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0"),
        _row("cifar100", "pgd", "59.9 28.5 23.1 22.6 22.4 22.3 24.0 23.2 23.1 23.0"),
        _row("cifar100", "bilateral", "68.2 60.8 - 26.7 - 25.3 - 23.0 - 22.1"),
        _row("cifar100", "self-gradient", "72.91 58.12 43.0 42.72 42.67 42.64 42.74 42.59 42.57 42.57"),
    ),
    "table4": (
        _row("svhn", "standard", "97.2 53.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0"),
        _row("svhn", "pgd", "93.9 68.4 49.5 47.9 46.5 46.0 49.5 48.7 48.1 47.3"),
        _row("svhn", "bilateral", "94.1 69.8 - 53.9 - 50.3 - 50.0 - 48.9"),
        _row("svhn", "self-gradient", "95.87 79.03 67.52 66.91 66.65 66.55 67.16 66.77 66.67 66.61"),
    ),
    "table5": (
        PaperRow("self-gradient", "cifar10", {"clean": 91.15, "PGD-10": 60.56}, block=False),
        PaperRow("self-gradient", "cifar10", {"clean": 90.9, "PGD-10": 64.37}, block=True),
        PaperRow("self-gradient", "cifar100", {"clean": 72.81, "PGD-10": 36.65}, block=False),
        PaperRow("self-gradient", "cifar100", {"clean": 72.91, "PGD-10": 43.0}, block=True),
        PaperRow("self-gradient", "svhn", {"clean": 95.84, "PGD-10": 66.11}, block=False),
        PaperRow("self-gradient", "svhn", {"clean": 95.87, "PGD-10": 67.52}, block=True),
    ),
}
"""Tables 1 to 5, line by line as printed."""

FIGURE = "figure2"
FIGURE_2 = PaperRow("self-gradient", "cifar10", {}, block=True)
"""The network that figure 2 iterates. The paper gives no number, only that the change falls to about zero."""
