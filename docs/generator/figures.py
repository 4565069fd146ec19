"""Give the figures that stand within sentences.

A page writes {{ NAME }}. A name is one of these:

    SGN_TOP_K                                  a setting's default
    bundled/self-gradient: block on: CW-20     an accuracy in percent; also ": lowest" and ": AutoAttack"
    paired: block on against off               a comparison of results/paired.json, in words
    of the recipe: block alone, block on against off    likewise, of the most robust recipe
    referee: anti-adversary, claimed           an accuracy of results/referee.json, in percent
    table2 | self-gradient | lowest            a measured figure of results/reproduce/small, in percent
    anything else                              an entry of NAMED
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from benchmarks.precisions import SERVED
from benchmarks.service import command as service
from docs.generator import gpu
from docs.generator.results import (
    AUTO_ATTACK,
    OFF,
    ON,
    QUICK,
    SHARED_QUICK,
    accuracy,
    frozen_comparisons,
    frozen_verdict,
    paired,
    percent,
    processor,
    reproduced,
    result,
    rows,
    share,
    survivors,
    training_log,
)
from export.reduced import Reduced
from release import own_folder, own_weights
from release.bundle import core_minutes
from release.gpu import attacks as gpu_attacks
from release.gpu import plan as gpu_plan
from release.hostile import fuzz, session
from release.hostile import report as hostile
from release.hostile.recipes import MOST_STEPS
from release.paired import in_words
from release.referee_figures import conclusion
from sgn_serve.common.graph_format import MAX_EXAMPLES, MAX_EXAMPLES_BYTES
from sgn_serve.decoder_processes import child, decoder, job, lane, large_pictures
from sgn_serve.http import body_limits, connections, error_form, rate_limit, shutdown
from sgn_serve.pictures import decoding
from sgn_serve.process import supervisor
from sgn_serve.settings import Settings, settings_table
from training.config import FINETUNE, TrainConfig
from training.data.random_crops import ROOM
from training.evaluate.report import BLOCK_EFFECT

MAIN, START, LONGER, SILU, HELD = (
    *("bundled/self-gradient", "bundled/start", "bundled/longer"),
    *("tried/wrn-10-2-silu", "tried/wrn-16-2-held"),
)
WITH_AUTO_ATTACK = (*QUICK, *AUTO_ATTACK)
_LONG = 3600
"""Seconds of a stage of `make gpu` whose limit is the time that is left."""
SHARED = (*SHARED_QUICK, *AUTO_ATTACK, "CW-10", "CW-40", "CW-100", "PGD-40", "PGD-100")


def figure(name: str) -> str:
    """Return a figure as a sentence shows it.

    Raises:
        KeyError: a name that is unknown
    """
    if name.startswith("SGN_"):
        return {row.variable: row.default for row in settings_table()}[name]
    if name.startswith("paired: "):
        return in_words(result("paired")["comparisons"][name.removeprefix("paired: ")])
    if name.startswith("of the recipe: "):
        return in_words(result("paired")["of_the_recipe"][name.removeprefix("of the recipe: ")])
    if name.startswith("referee: "):
        defence, share_of = name.removeprefix("referee: ").split(", ")
        return percent(_referee_rows()[defence][share_of]["accuracy"])
    report, colon, row = name.partition(": ")
    if colon:
        return percent(accuracy(report, row))
    table, dot, cell = name.partition(" | ")
    if dot:
        title, attack = cell.split(" | ")
        return f"{reproduced(table, title)['measured'][attack]:.1f}"
    return NAMED[name]()


def _referee_rows() -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in result("referee")["rows"]}


def _on_against_off(report: str, rows: tuple[str, ...]) -> str:
    return paired(survivors(report, ON, rows), survivors(report, OFF, rows))


def _points(report: str, rows: tuple[str, ...]) -> str:
    return percent(share(survivors(report, ON, rows)) - share(survivors(report, OFF, rows)))


def _commits(name: str) -> str:
    """Return the version whose hostile files were tried, and those of the formats that were tried anew later."""
    later: dict[str, list[str]] = {}
    for file_format, row in result(name)["formats"].items():
        if row["commit"] not in ("", result(name)["git_commit"]):
            later.setdefault(row["commit"], []).append(file_format)
    anew = "".join(f"; `{commit}` for {', '.join(formats)}" for commit, formats in later.items())
    return f"`{result(name)['git_commit']}`{anew}"


def _gpu_stage(name: str) -> gpu_plan.Stage:
    """Return a stage of `make gpu`."""
    (stage,) = (stage for stage in gpu_plan.ALL if stage.name == name)
    return stage


def _low_and_high(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _ratios(network: str, engine: str) -> str:
    batches = result("engines")["architectures"][network]["batches"].values()
    return _low_and_high([row[engine]["ratio_of_best"] for row in batches])


def _both(engine: str) -> str:
    networks = result("engines")["architectures"].values()
    return _low_and_high([row[engine]["ratio_of_best"] for net in networks for row in net["batches"].values()])


def _wide(engine: str) -> str:
    return _ratios("wrn-28-10", engine)


def _narrow(engine: str) -> str:
    return _ratios("wrn-16-2", engine)


def _share_of_times(engine: str, other: str) -> str:
    networks = result("engines")["architectures"].values()
    batches = [row for net in networks for row in net["batches"].values()]
    return _low_and_high([row[engine]["best_ms"] / row[other]["best_ms"] for row in batches])


def _openvino_build() -> str:
    batches = [row for net in result("openvino_build")["architectures"].values() for row in net["batches"].values()]
    build, beside = "ours, ONNX Runtime's OpenVINO build", "ours, OpenVINO"
    return _low_and_high(
        [
            row[f"{build} {name}"]["best_ms"] / row[f"{beside} {name}"]["best_ms"]
            for row in batches
            for name in ("f32", "bf16")
        ]
    )


def _fused() -> str:
    batches = result("fused")["architectures"]["wrn-16-2"]["batches"].values()
    return _low_and_high(
        [row["ours --fused, ONNX Runtime"]["best_ms"] / row["ours, ONNX Runtime"]["best_ms"] for row in batches]
    )


def _strided() -> str:
    batches = result("tried/strided_gradients")["batches"]
    return f"{100 * (1 - min(row['ratio_of_best'] for batch in batches.values() for row in batch.values())):.0f}"


def _area(attack: str, successes: bool = False) -> str:
    row = result("disagreement")["attacks"][attack]
    return f"{(row['successful_only'] if successes else row)['area_under_roc']:.2f}"


@cache
def _area_uncertainty(successes: bool) -> str:
    attacks = result("disagreement")["attacks"]
    few = [attacks[name]["successful_only"] for name in ("PGD-20", "AutoAttack")]
    chosen = few if successes else list(attacks.values())
    errors = [area_standard_error(row["area_under_roc"], row["pictures"], 100) for row in chosen]
    return f"{1.96 * max(errors):.2f}"


def area_standard_error(area: float, attacked: int, clean: int) -> float:
    """Return the standard error of an area under the ROC curve.

    Source: Hanley and McNeil (1982).
    """
    of_attacked, of_clean = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (attacked - 1) * (of_attacked - area**2) + (clean - 1) * (of_clean - area**2)
    return math.sqrt(spread / (attacked * clean))


def _correlation(report: str, gradient: str = "plain") -> str:
    return f"{result(report)['measured']['gradient_correlation'][gradient]:.3f}"


def _effect(key: str, report: str = MAIN) -> float:
    return float(result(report)[BLOCK_EFFECT][key])


def _seconds(report: str, row: str) -> str:
    return f"{rows(report)[row]['core_seconds']:,.0f}"


def _requests(system: str, connections: int) -> str:
    row = result("service")["services"][service.SYSTEMS[system]][str(connections)]
    return f"{row['requests_per_second']:.0f}"


def _engine_alone(batch: int) -> str:
    return f"{result('service')['engine_alone'][str(batch)]:.0f}"


def _refused_share() -> str:
    statuses = result("service")["services"][service.SYSTEMS["ours"]]["128"]["statuses"]
    return f"{100 * statuses['503'] / sum(statuses.values()):.0f}"


def _refused_ms() -> str:
    return str(math.ceil(result("service")["services"][service.SYSTEMS["ours"]]["128"]["refused_p99_ms"]))


def _hostile_count(name: str, *counts: str) -> int:
    """Return how many answers to the files of a run are one of some kinds."""
    return sum(row[count] for row in result(name)["formats"].values() for count in counts)


NAMED: dict[str, Callable[[], str]] = {
    "limit.head": lambda: f"{connections.MAX_HEAD_BYTES // 1024} KiB",
    "limit.headers": lambda: str(connections.MAX_HEADERS),
    "limit.requests": lambda: str(connections.MAX_REQUESTS),
    "limit.bodies": lambda: f"{body_limits.RECEIVED_BYTES >> 20} MiB",
    "limit.small body": lambda: f"{body_limits.SMALL_BYTES >> 10} KiB",
    "limit.form": lambda: f"{body_limits.IN_MEMORY_BYTES >> 10} KiB",
    "limit.clients": lambda: f"{rate_limit.MAX_CLIENTS:,}",
    "limit.answer seconds": lambda: f"{error_form.ANSWER_SECONDS:g}",
    "limit.last answer seconds": lambda: f"{shutdown._LONGEST_ANSWER_SECONDS:g}",
    "limit.retry seconds": lambda: f"{supervisor._RETRY_SECONDS:g}",
    "limit.large pictures": lambda: str(large_pictures.MAX_WAITING),
    "limit.small pixels": lambda: f"{job.LARGE_PIXELS:,}",
    "limit.small file": lambda: f"{decoder.SMALL_FILE >> 20} MiB",
    "limit.quick file": lambda: f"{decoder.QUICK_FILE >> 10} KiB",
    "limit.quick pixels": lambda: f"{decoder.QUICK_PIXELS:,}",
    "limit.quick seconds": lambda: f"{decoder.QUICK_CPU_SECONDS:g}",
    "limit.quick share": lambda: f"{lane.QUICK_WEIGHT:g} of {lane.QUICK_WEIGHT + lane.LONGER_WEIGHT:g} parts",
    "limit.small memory": lambda: f"{decoder.SMALL_MEMORY >> 20} MiB",
    "limit.decoder life": lambda: f"{child.LIFE_CPU_SECONDS:g}",
    "limit.small seconds": lambda: f"{decoder.SMALL_CPU_SECONDS:g}",
    "limit.large memory": lambda: f"{decoder.LARGE_MEMORY >> 20} MiB",
    "limit.halved": lambda: f"{decoding._HALVED_PIXELS // 1_000_000} megapixels",
    "engines.block off": lambda: _both("block off: ours, ONNX Runtime"),
    "bf16.agreement": lambda: f"{100 * result('precisions')['rows'][SERVED]['lowest']:.1f}",
    "min agreement": lambda: f"{Reduced.min_agreement:g}",
    "pictures": lambda: f"{result(MAIN)['setting']['pictures']:,}",
    "block.correction": lambda: f"{255 * _effect('correction_mean_abs'):.1f}/255",
    "block.gradient": lambda: f"{_effect('gradient_mean_abs'):.4f}",
    "block.answers": lambda: percent(_effect("answers_changed")),
    "block.answers attacked": lambda: percent(_effect("answers_changed_attacked")),
    "silu.answers": lambda: percent(_effect("answers_changed", SILU)),
    "silu.answers attacked": lambda: percent(_effect("answers_changed_attacked", SILU)),
    "silu.on against off": lambda: _on_against_off(SILU, (*QUICK, "CW-20, through both passes")),
    "correlation": lambda: _correlation(MAIN),
    "correlation, smooth": lambda: _correlation(MAIN, "smooth, beta 100"),
    "correlation, averaged": lambda: _correlation(MAIN, "smooth, beta 400, averaged"),
    "correlation, longer": lambda: _correlation(LONGER),
    "correlation, block alone": lambda: _correlation("gpu_winner/frozen"),
    "correlation, silu": lambda: _correlation(SILU),
    "points on over off": lambda: percent(accuracy(MAIN, f"{ON}: lowest") - accuracy(MAIN, f"{OFF}: lowest")),
    "points longer over on, clean": lambda: percent(accuracy(LONGER, f"{OFF}: clean") - accuracy(MAIN, f"{ON}: clean")),
    "quick.on": lambda: percent(share(survivors(MAIN, ON, QUICK))),
    "quick.off": lambda: percent(share(survivors(MAIN, OFF, QUICK))),
    "quick.longer": lambda: percent(share(survivors(LONGER, OFF, QUICK))),
    "quick.start": lambda: percent(share(survivors(START, OFF, QUICK))),
    "quick.points": lambda: _points(MAIN, QUICK),
    "quick.on against off": lambda: _on_against_off(MAIN, QUICK),
    "quick.shared points": lambda: _points(MAIN, SHARED_QUICK),
    "quick.shared on against off": lambda: _on_against_off(MAIN, SHARED_QUICK),
    "quick.held": lambda: _on_against_off(HELD, QUICK),
    "auto.on": lambda: percent(share(survivors(MAIN, ON, WITH_AUTO_ATTACK))),
    "auto.off": lambda: percent(share(survivors(MAIN, OFF, WITH_AUTO_ATTACK))),
    "auto.longer": lambda: percent(share(survivors(LONGER, OFF, WITH_AUTO_ATTACK))),
    "shared.points": lambda: _points(MAIN, SHARED),
    "shared.on against off": lambda: _on_against_off(MAIN, SHARED),
    "auto.left": lambda: str(round(accuracy(MAIN, f"{ON}: AutoAttack") * result(MAIN)["setting"]["pictures"])),
    "attacked training accuracy, longer": lambda: f"{float(training_log(LONGER)[-1]['train_accuracy']):.3f}",
    "validation PGD-10, longer": lambda: f"{float(training_log(LONGER)[-1]['val_pgd10']):.3f}",
    "minutes.main": lambda: f"{core_minutes('self-gradient'):.0f}",
    "minutes.longer over start": lambda: f"{core_minutes('longer') - core_minutes('start'):.0f}",
    "minutes.held": lambda: (
        f"{sum(float(training_log(name)[-1]['core_seconds']) for name in ('tried/wrn-16-2-start', HELD)) / 60:.0f}"
    ),
    "seconds.smooth apgd-t 100": lambda: _seconds(MAIN, f"{ON}: APGD-T, smooth surrogate, beta 100"),
    "seconds.smooth apgd-ce 100": lambda: _seconds(MAIN, f"{ON}: APGD-CE, smooth surrogate, beta 100"),
    "restarts.took": lambda: percent(
        accuracy(MAIN, f"{ON}: CW-20, restarts 1 to 10") - accuracy(MAIN, f"{ON}: CW-20, restarts 11 to 20")
    ),
    "graph.lowest": lambda: percent(accuracy(MAIN, "exported graph: lowest")),
    "area.pgd": lambda: _area("PGD-20"),
    "area.knowing": lambda: _area("knowing attacker"),
    "area.uncertainty": lambda: _area_uncertainty(False),
    "area.uncertainty successes": lambda: _area_uncertainty(True),
    "cost.first load": lambda: f"{result('block_cost')['load_ms']['first'] / 1000:.2f}",
    "cost.load": lambda: f"{result('block_cost')['load_ms']['median'] / 1000:.2f}",
    "training.times cheaper": lambda: f"{result('training_cost')['times_cheaper_than_pgd10']:.1f}",
    "training.one step times cheaper": lambda: (
        f"{1 / result('training_cost')['methods']['adversarial, one step']['ratio_to_pgd10']:.1f}"
    ),
    "engines.wide": lambda: _wide("ours, ONNX Runtime"),
    "engines.wide bf16": lambda: _wide("ours, OpenVINO bf16"),
    "engines.narrow": lambda: _narrow("ours, ONNX Runtime"),
    "engines.narrow bf16": lambda: _narrow("ours, OpenVINO bf16"),
    "engines.bf16 share": lambda: _share_of_times("ours, OpenVINO bf16", "ours, ONNX Runtime"),
    "engines.processor": lambda: processor(result("engines")),
    "engines.openvino build": _openvino_build,
    "engines.fused": _fused,
    "engines.strided": _strided,
    "service.share": lambda: f"{service.share_of_engine(result('service')):.2f}",
    "service.processor": lambda: processor(result("service")),
    "service.rounds": lambda: str(result("service")["rounds"]),
    "service.command": lambda: str(result("service")["command"]),
    "service.shares": lambda: ", ".join(f"{one:.2f}" for one in result("service")["share_of_engine_by_round"]),
    "service.alone 1": lambda: _engine_alone(1),
    "service.alone 8": lambda: _engine_alone(8),
    "service.alone 32": lambda: _engine_alone(32),
    "service.refused": _refused_share,
    "service.refused ms": _refused_ms,
    "kills.count": lambda: str(result("classify_kills")["kills"]),
    "frozen.minutes": lambda: f"{float(training_log('frozen-backbone')[-1]['core_seconds']) / 60:.0f}",
    "frozen.verdict": lambda: frozen_verdict(frozen_comparisons()),
    "frozen.pictures": lambda: str(result("frozen-backbone")["setting"]["pictures"]),
    "throughput.before": lambda: str(result("throughput")["before"]),
    "throughput.rounds": lambda: str(len(next(iter(result("throughput")["connections"].values()))["rounds"])),
    "hostile.files": lambda: f"{result('hostile')['files']:,}",
    "hostile.formats": lambda: str(len(result("hostile")["formats"])),
    "hostile.idle": lambda: f"{result('hostile')['named']['now']['idle']:.0f}",
    "hostile.cores": lambda: str(result("hostile")["cores"]),
    "hostile.processor": lambda: str(result("hostile")["processor"]),
    "hostile.commit": lambda: _commits("hostile"),
    "hostile.together commit": lambda: str(result("hostile").get("together_commit", result("hostile")["git_commit"])),
    "hostile.together cores": lambda: str(result("hostile").get("together_cores", result("hostile")["cores"])),
    "hostile.busy": lambda: str(_hostile_count("hostile", "busy")),
    "hostile.5xx": lambda: str(_hostile_count("hostile", "busy", "faults")),
    "hostile.alone files": lambda: f"{result('hostile/one-at-a-time')['files']:,}",
    "hostile.alone commit": lambda: _commits("hostile/one-at-a-time"),
    "hostile.alone busy": lambda: str(_hostile_count("hostile/one-at-a-time", "busy")),
    "hostile.alone 5xx": lambda: str(_hostile_count("hostile/one-at-a-time", "busy", "faults")),
    "hostile.bound memory": lambda: f"{hostile.MEMORY_MB:g}",
    "hostile.bound answer": lambda: f"{hostile.ANSWER_SECONDS:g}",
    "hostile.bound small": lambda: f"{hostile.SMALL_SECONDS:g}",
    "hostile.in flight": lambda: str(result("hostile")["in_flight"]),
    "hostile.steps": lambda: str(MOST_STEPS),
    "hostile.connections": lambda: str(Settings.model_fields["max_connections"].default),
    "hostile.bounded": lambda: max(hostile.BOUNDED, key=lambda kind: int(kind.split()[0])).split()[0],
    "hostile.crowd": lambda: str(max(fuzz.CROWDS)),
    "hostile.many": lambda: str(session.MANY),
    "gpu.fused, small": lambda: gpu.fused_saving("wrn-16-2, bf16, batch 1"),
    "gpu.fused, large": lambda: gpu.fused_saving("wrn-28-10, bf16, batch 1"),
    "gpu.training peak": gpu.training_share_of_peak,
    **{
        f"gpu.seconds {stage.name}": partial(format, stage.seconds, "g")
        for stage in gpu_plan.ALL
        if stage.seconds < _LONG
    },
    "gpu.share train-plain": lambda: percent(_gpu_stage("train-plain").share or 0, 0),
    "gpu.reserved attacks": lambda: f"{_gpu_stage('attacks').reserved:g}",
    "gpu.attacked pictures": lambda: f"{gpu_attacks.PICTURES[0]:,}",
    "paper.epochs": lambda: str(TrainConfig.epochs),
    "paper.lr": lambda: f"{TrainConfig.lr:g}",
    "paper.lr_schedule": lambda: TrainConfig.lr_schedule,
    **{f"finetune.{option}": partial(str, value) for option, value in FINETUNE.items()},
    "crops.room": lambda: f"{ROOM**2:.1f}",
    "crops.room, reading": lambda: f"{1 + ROOM**2:.1f}",
    "limit.examples": lambda: str(MAX_EXAMPLES),
    "limit.examples megabytes": lambda: f"{MAX_EXAMPLES_BYTES / 1e6:g}",
    "referee.conclusion": lambda: conclusion(result("referee")["rows"]),
    "winner.lowest": lambda: percent(result("gpu_winner/plain")["lowest"]["block off"]),
    "winner.low": lambda: percent(result("gpu_winner/plain")["headline_interval_95"][0]),
    "winner.high": lambda: percent(result("gpu_winner/plain")["headline_interval_95"][1]),
    "longer.lowest": lambda: percent(result("bundled/longer")["lowest"]["block off"]),
    "winner.clean": lambda: percent(accuracy("gpu_winner/plain", "block off: clean")),
    "own-folder.smallest": lambda: str(own_folder.SMALLEST),
    "own-folder.largest": lambda: str(own_folder.LARGEST),
    "own-folder.per-class": lambda: str(result("own_folder")["size"]["per_class"]),
    "own-folder.epochs": lambda: str(result("own_folder")["size"]["epochs"]),
    "own-folder.batch": lambda: str(result("own_folder")["size"]["batch_size"]),
    "own-folder.attacks": lambda: str(result("own_folder")["size"]["attacks"]),
    "own-folder.cores": lambda: str(result("own_folder")["cores"]),
    "own-folder.load": lambda: str(result("own_folder")["load_average"]),
    "own-folder.judged": lambda: str(result("own_folder")["ways"]["whole"]["judged_pictures"]),
    "own-folder.served": lambda: str(result("own_folder")["ways"]["whole"]["served"]["pictures"]),
    "own-folder.right": lambda: str(result("own_folder")["ways"]["whole"]["served"]["right"]),
    "own-folder.right-frozen": lambda: str(result("own_folder")["ways"]["frozen"]["served"]["right"]),
    "own-weights.file": lambda: f"{result('own_weights')['megabytes'][own_weights.WEIGHTS]:.0f}",
    "own-weights.graph": lambda: f"{result('own_weights')['megabytes'][own_weights.GRAPH]:.0f}",
    "own-weights.pictures": lambda: str(result("own_weights")["pictures"]),
    "own-weights.same": lambda: str(result("own_weights")["same_probabilities"]),
    "own-weights.difference": lambda: f"{result('own_weights')['largest_difference']:.7f}".rstrip("0"),
    "own-weights.cores": lambda: str(result("own_weights")["cores"]),
    "own-weights.load": lambda: str(result("own_weights")["load_average"]),
    "start-up.rounds": lambda: str(result("start_up")["rounds"]),
    "bento.megabytes": lambda: f"{result('bento_size')['installed_megabytes']:.0f}",
}
