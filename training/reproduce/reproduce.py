"""Make a table or figure of the paper and compare it, as the command line asks."""

import json
from pathlib import Path
from typing import Any

from sgn_serve.common.ray_cluster import RayOptions
from sgn_serve.common.termination import terminable
from training.common.devices import check_threads
from training.common.exits import ENDINGS, print_ending
from training.common.files import write_atomically
from training.common.provenance import current_versions, git_commit
from training.data.datasets import IMAGE_SIZE
from training.data.loading import load_pictures
from training.data.picture_set import DatasetError
from training.reproduce import figure
from training.reproduce.experiment import DataSource, Experiment
from training.reproduce.on_ray.runner import make_on_ray
from training.reproduce.options import ReproduceOptions
from training.reproduce.paper import FIGURE, PaperRow
from training.reproduce.systems import BUDGETS
from training.reproduce.tables import Line, columns, details, line, markdown
from training.reproduce.targets import rows_of

FORMAT = "self-gradient-reproduction/1"


def experiment_of(row: PaperRow, options: ReproduceOptions) -> Experiment:
    """Return the experiment behind a row."""
    source = DataSource(row.dataset, options.dataset or row.dataset, options.data_root, options.dataset_name)
    return Experiment(row.system, source, options.budget, BUDGETS[options.budget], options.threads)


def check_data(experiments: list[Experiment]) -> None:
    """Check that the pictures of all experiments are there, before the first of them is trained.

    Raises:
        DatasetError: Some are missing.
    """
    sources = list(dict.fromkeys(experiment.source for experiment in experiments))
    for source in sources:
        try:
            load_pictures(source.reader, source.data_root, "test", IMAGE_SIZE)
        except DatasetError as error:
            if len(sources) == 1:
                raise
            others = " or ".join(f"--only {other.dataset}" for other in sources if other != source)
            raise DatasetError(f"{error}; or do without: {others}") from None


def reproduce_table(
    rows: list[PaperRow], experiments: list[Experiment], table: str, *, made: bool
) -> tuple[str, dict[str, Any]]:
    """Train and judge each row's system, and return the table as text and as JSON values.

    Args:
        rows: The rows.
        experiments: The experiment of each.
        table: The name of the table.
        made: Whether all of them are trained and judged already.
    """
    lines: list[Line] = []
    content = []
    for row, experiment in zip(rows, experiments, strict=True):
        if made:
            report = experiment.read_report()
        else:
            experiment.train()
            report = experiment.judge()
        lines.append(line(table, row, experiment, report))
        content.append(details(lines[-1], row.block, experiment, report))
    return markdown(lines, columns(table)), {"rows": content}


def reproduce_figure(experiment: Experiment, folder: Path) -> tuple[str, dict[str, Any]]:
    """Train the network, draw figure2.png, and return its points as text and as JSON values."""
    experiment.train()
    iterations = figure.iterate_block(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    figure.draw(iterations, folder / f"{FIGURE}.png")
    return figure.text(iterations), figure.as_dict(iterations, experiment)


def other_pictures(source: DataSource) -> str:
    """Return a paragraph that says which pictures were measured, "" where they are the paper's."""
    if source.reader == source.dataset:
        return ""
    name = source.name or source.data_root.absolute().name
    return f"\n\nMeasured on {name} in place of {source.dataset}, which the paper's figures are of."


def reproduce(options: ReproduceOptions, command: str, ray: RayOptions | None) -> str:
    """Make what is asked for, write <target>.json and <target>.md, and return what to print.

    Args:
        options: What the command line asks for.
        command: The command line itself, for the files.
        ray: The Ray cluster that trains and judges, None for this machine.

    Raises:
        TrainingError: Pictures are missing, training or judging failed, or a file cannot be written.
    """
    rows = rows_of(options)
    check_threads(options.threads, elsewhere=ray is not None)
    experiments = [experiment_of(row, options) for row in rows]
    check_data(experiments)
    for experiment in experiments:
        experiment.check()
    folder = options.out or Path("results/reproduce") / options.budget
    if ray is not None:
        make_on_ray(experiments, ray, judged=options.target != FIGURE)
    if options.target == FIGURE:
        text, content = reproduce_figure(experiments[0], folder)
    else:
        text, content = reproduce_table(rows, experiments, options.target, made=ray is not None)
    text += other_pictures(experiments[0].source)
    about = {"command": command, "versions": current_versions(), "git_commit": git_commit()}
    whole = {"format": FORMAT, "target": options.target, "budget": options.budget, **content, "about": about}
    write_atomically(folder / f"{options.target}.json", (json.dumps(whole, indent=1) + "\n").encode())
    write_atomically(folder / f"{options.target}.md", f"{text}\n\nMade by `{command}`.\n".encode())
    return f"{text}\n\nwrote {folder / options.target}.json and .md"


def run(options: ReproduceOptions, command: str, ray: RayOptions | None = None) -> int:
    """Make what the command line asks for, and return the exit status.

    Args:
        options: What the command line asks for.
        command: The command line itself, for the files.
        ray: The Ray cluster that trains and judges, None for this machine.
    """
    try:
        # SIGTERM must end the training or the evaluation that this process waits for, too.
        with terminable():
            print(reproduce(options, command, ray))
    except ENDINGS as error:
        return print_ending(
            error, out_of_memory="use a device with more of it", interrupted="the same command continues"
        )
    return 0
