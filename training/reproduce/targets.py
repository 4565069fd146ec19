"""Choose the rows of the paper that a command line asks for."""

from training.common.errors import TrainingError
from training.reproduce.options import ReproduceOptions
from training.reproduce.paper import FIGURE, FIGURE_2, TABLES, PaperRow
from training.reproduce.systems import EXTRA, SYSTEMS


class ReproductionError(TrainingError):
    """A table cannot be made. The message says what failed. Checkpoints and reports made so far stay."""


def rows_of(options: ReproduceOptions) -> list[PaperRow]:
    """Return the rows of the table or figure that is asked for.

    Raises:
        ReproductionError: The table does not have the data set, or pictures are given for a table over several.
    """
    if options.target == FIGURE:
        return [FIGURE_2]
    datasets = list(dict.fromkeys(row.dataset for row in TABLES[options.target]))
    if options.only is not None:
        if options.only not in datasets:
            raise ReproductionError(f"{options.target} is about {', '.join(datasets)}, not {options.only}")
        datasets = [options.only]
    if options.dataset is not None and len(datasets) > 1:
        raise ReproductionError(
            f"--dataset {options.dataset} is one data set and {options.target} has {len(datasets)}; "
            f"say which with --only {datasets[0]}"
        )
    return lines_of(options.target, datasets)


def lines_of(table: str, datasets: list[str]) -> list[PaperRow]:
    """Return a table's rows for these data sets, then the systems that are measured beside them."""
    rows = [row for row in TABLES[table] if row.dataset in datasets]
    extra = [
        PaperRow(system, dataset, {}, block=SYSTEMS[system].has_block)
        for dataset in datasets
        for system in EXTRA.get(table, ())
    ]
    return rows + extra
