"""The options of `python -m training.reproduce`: one frozen record. Nothing here imports PyTorch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReproduceOptions:
    """All that is asked of a reproduction.

    Attributes:
        target: The table or figure.
        budget: One of BUDGETS.
        data_root: Folder of the data sets' archives.
        only: The one data set of a table over several that is made; None for all of them.
        dataset: The reader of `data_root`; None for that of the row's data set.
        dataset_name: What figures call the pictures of an image folder.
        threads: CPU threads; None for all cores.
        out: Folder of the result; None for that of the budget.
    """

    target: str
    budget: str
    data_root: Path
    only: str | None
    dataset: str | None
    dataset_name: str
    threads: int | None
    out: Path | None
