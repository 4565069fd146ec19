"""Attack a checkpoint or a module as the command line asks, and report what it withstands."""

from contextlib import ExitStack, closing

from sgn_serve.common.error_text import say
from sgn_serve.common.graph_format import SHA256_KEY, file_sha256
from sgn_serve.common.ray_cluster import Cluster
from sgn_serve.common.termination import terminable
from training.common import run_files
from training.common.devices import default_device
from training.common.exits import ENDINGS, allocations_told, print_ending
from training.common.ray_tasks import connected
from training.evaluate.attack_bars import print_above
from training.evaluate.gradient_oracle import judge_oracle
from training.evaluate.on_ray.runner import RayRunner, TaskSize, begin_processes, task_size
from training.evaluate.on_ray.subject import GraphFile, pack
from training.evaluate.options import Options, function_of
from training.evaluate.page import summary
from training.evaluate.picture_table import NAME, write_picture_table
from training.evaluate.prepare import Prepared, prepare
from training.networks.gradient_oracle import GradientOracle


def evaluate(prepared: Prepared) -> None:
    """Run the attacks and the checklist, saving the report after each; a gradient oracle gets table 1's two figures.

    Raises:
        SavedReportError: A saved report is of another setting or none at all.
        WriteError: The report cannot be written.
    """
    evaluation = prepared.evaluation
    trial, report = evaluation.trial, evaluation.report
    if isinstance(trial.model, GradientOracle):
        print(judge_oracle(trial.of(trial.model), report.setting, report.about, evaluation.path))
        return
    findings = evaluation.run(prepared.attacks, whole_curve=prepared.whole_curve)
    print(f"{summary(report, findings)}\nwrote {evaluation.path}")
    if prepared.folder is not None:
        written = evaluation.write_page(prepared.folder)
        print(f"wrote {prepared.folder / run_files.PAGE} and {len(written)} plots")
        if prepared.files:
            names, table = evaluation.class_names, prepared.folder / NAME
            write_picture_table(table, prepared.files, [names[label] for label in trial.labels.tolist()], report)
            print(f"wrote {table}")


def run(options: Options, command: str) -> int:
    """Run an evaluation, and return the exit status.

    Args:
        options: The options of the command line.
        command: The command line, for the report.
    """
    prepared: Prepared | None = None
    try:
        with terminable(), allocations_told(), ExitStack() as stack:
            cluster = None if options.ray is None else stack.enter_context(connected(options.ray))
            if cluster is not None:
                begin_processes(cluster, _task_size(options, cluster))
            prepared = prepare(options, command)
            say_where(options)
            if cluster is not None:
                prepared.evaluation.runner = stack.enter_context(closing(_ray_runner(prepared, options, cluster)))
            evaluate(prepared)
    except ENDINGS as error:
        nothing_yet = "nothing was measured yet, so run the same command again"
        return print_ending(
            error,
            out_of_memory="pass a smaller --batch-size",
            interrupted=nothing_yet if prepared is None else prepared.evaluation.resumption,
            device=options.device or default_device(),
        )
    return 0


def _task_size(options: Options, cluster: Cluster) -> TaskSize:
    return task_size(cluster, options.threads, options.gpus_per_task, on_cpu=options.device == "cpu")


def _ray_runner(prepared: Prepared, options: Options, cluster: Cluster) -> RayRunner:
    """Return the runner that attacks on a cluster.

    Raises:
        OnRayError: The cluster has no room for a batch.
        MachineError: The network cannot be sent.
    """
    evaluation = prepared.evaluation
    graph = None
    if options.onnx is not None:
        checkpoint = evaluation.report.setting[SHA256_KEY]
        graph = GraphFile(options.onnx.absolute(), file_sha256(options.onnx), checkpoint)
    size = _task_size(options, cluster)
    subject = pack(
        evaluation.trial,
        prepared.attacks,
        graph=graph,
        threads=size.cores,
        on_gpu=size.gpus > 0,
        own_code=None if options.module is None else function_of(options.module)[0],
    )
    evaluation.report.about["device"] = "cuda" if size.gpus else "cpu"
    return RayRunner(cluster, subject, prepared.attacks, size, print_above)


def say_where(options: Options) -> None:
    """Print where the report goes, where that is not beside the checkpoint and nobody chose it."""
    path, _ = options.output_paths()
    if options.report is not None:
        return
    if options.ckpt is None:
        say(f"the report goes to {path}; --report names another place")
    elif path.parent != options.ckpt.parent:
        say(
            f"the report goes to {path}, because {options.ckpt.parent} belongs to a package or cannot be written to; "
            "--report names another place",
        )
