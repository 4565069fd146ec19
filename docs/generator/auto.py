"""Make the tables and sentences about self_gradient=auto."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.engines import auto_mode
from benchmarks.engines.auto_mode import ENGINES, Contender
from benchmarks.service import command as service
from docs.generator.markdown import figures_table, words_table
from docs.generator.results import OFF, ON, percent, processor, result
from training.evaluate.page import AUTO_TOLERANCE

NOT_MEASURED = "Not measured yet on this machine: `python -m benchmarks.engines --data-root DIR`."
AIMS = {("onnxruntime", "float32"): 1.7, ("openvino", "bf16"): 1.0}
"""Most plain passes that auto was to cost, by engine and precision, at the batch sizes AIMED."""
AIMED = ("8", "32")
AIMED_AGREEMENT = 0.995
"""Share of the answers that were to equal those of the block always on."""
AIMED_MOST = 1.3
"""Most that a picture was to cost, as a multiple of the block always on."""
SIZED = "32"
"""Batch size of the figures for sizing: a service under load has large batches."""
REMARKS = {
    "47e56e2c07ae": "On that commit ONNX Runtime's threads never spun. They spin within a run since, so these figures "
    "are older than the code.",
}
"""Remarks for readers on figures of a commit. An entry goes when its figures are measured anew."""


def auto() -> str:
    """Return what the bundled network's threshold does, on the pictures that were measured so far."""
    measured = result("auto")
    rows = []
    for title, found in (
        ("validation, on which it was found", measured["margin"]["validation"]),
        ("test", measured["margin"]["test"]),
        ("test, after PGD-20 on the block-on network", measured.get("pgd_20")),
    ):
        if found is not None:
            accuracies = found.get("accuracy", {})
            shown = [percent(accuracies[name]) if accuracies else "-" for name in ("auto", ON, OFF)]
            rows.append(
                (
                    title,
                    f"{found['pictures']:,}",
                    percent(found["second_pass"]),
                    f"{100 * found['agreement']:.2f}",
                    *shown,
                )
            )
    header = ("pictures", "number", "second pass, %", "answer as block on, %", "auto right, %", "block on", "block off")
    return figures_table(header, rows)


def auto_cost() -> str:
    """Return what auto costs in plain passes, if that was measured, and on which machine."""
    measured = result("engines").get("auto")
    if measured is None:
        return NOT_MEASURED
    commit = measured["git_commit"]
    sentences = [
        f"On {measured['pictures']:,} test pictures, {measured['attacked_pictures']:,} of them attacked too: "
        f"{measured['attack']}.",
        f"Measured on {measured['threads']} threads of {processor(measured)}, at commit `{commit}` "
        f"(`{measured['command']}`).",
        *([REMARKS[commit]] if commit in REMARKS else []),
    ]
    return f"{auto_mode.auto_table(measured)}\n\n" + "\n".join(sentences)


def auto_aims() -> str:
    """Return what was aimed for with auto, what was measured, and whether that reaches it."""
    measured = result("engines").get("auto")
    return NOT_MEASURED if measured is None else aims_table(measured, result("auto"))


def aims_table(measured: Mapping[str, Any], attacked: Mapping[str, Any]) -> str:
    """Return the aims as a table with a verdict each, and what float32 would cost with full batches only.

    Args:
        measured: the entry auto of results/engines.json
        attacked: results/auto.json
    """
    rows = []
    for (engine, precision), bound in AIMS.items():
        for batch in AIMED:
            row = measured["batches"][batch][Contender(engine, precision, "auto").name]
            best, median = row["ratio_of_best"], row["ratio_of_medians"]
            verdict = "reached" if max(best, median) <= bound else "missed"
            if best <= bound < median:
                verdict = "reached by the best time, missed by the median"
            title = f"plain passes of auto in {precision}, batch {batch}"
            rows.append((title, f"at most {bound}", f"{best:.2f}, median {median:.2f}", verdict))
    autos = [answers for name, answers in measured["answers"].items() if name.startswith("auto: ")]
    own = f"after {measured['attack'].partition(',')[0]}"
    agreements = [
        (f"{measured['pictures']:,} clean pictures", min(answers["clean"]["agreement"] for answers in autos)),
        (
            f"{measured['attacked_pictures']:,} pictures {own}",
            min(answers["attacked"]["agreement"] for answers in autos),
        ),
    ]
    if "pgd_20" in attacked:
        found = attacked["pgd_20"]
        agreements.append((f"{found['pictures']:,} pictures after PGD-20 against the labels", found["agreement"]))
    for title, share in agreements:
        verdict = "reached" if share >= AIMED_AGREEMENT else "missed"
        rows.append(
            (f"same answer, {title}", f"at least {percent(AIMED_AGREEMENT)} %", f"{percent(share, 2)} %", verdict)
        )
    table = words_table(("aim", "aimed for", "measured", "verdict"), rows)
    full = " and ".join(f"{_full_batches(measured, batch):.2f}" for batch in AIMED)
    return (
        f"{table}\n\nIn float32 the second pass of a few pictures costs more for each than that of a full batch.\n"
        f"At the price of full batches it would be {full} plain passes at batch {' and '.join(AIMED)}."
    )


def _full_batches(measured: Mapping[str, Any], batch: str) -> float:
    """Return what auto in float32 would cost if the second pass cost a picture what it does in full batches."""
    off, on, auto = (Contender("onnxruntime", "float32", mode).name for mode in ("off", "on", "auto"))
    ratio = {name: measured["batches"][batch][name]["ratio_of_best"] for name in (off, on)}
    return float(ratio[off] + measured["answers"][auto]["clean"]["second_pass"] * ratio[on])


def auto_most() -> str:
    """Return what a picture costs that takes both ways, as multiples of the block always on."""
    measured = result("engines").get("auto")
    return NOT_MEASURED if measured is None else most_table(measured)


def most_table(measured: Mapping[str, Any]) -> str:
    """Return the cost of a picture that takes both ways as a table, and whether it is as small as was aimed for.

    It is measured where results have the rows in which every picture takes both ways, and added up elsewhere.

    Args:
        measured: the entry auto of results/engines.json
    """
    rows, over, added = [], [], False
    for engine in ENGINES:
        off, on, twice = (Contender(*engine, mode).name for mode in ("off", "on", "twice"))
        cells = []
        for batch, row in measured["batches"].items():
            if "best_ms" in row.get(twice, {}):
                ratio = row[twice]["best_ms"] / row[on]["best_ms"]
            else:
                ratio, added = (row[off]["best_ms"] + row[on]["best_ms"]) / row[on]["best_ms"], True
            cells.append(f"{ratio:.3f}")
            if ratio > AIMED_MOST and batch not in over:
                over.append(batch)
        rows.append((on.partition(": ")[2], *cells))
    table = figures_table(
        ("as multiples of the block always on", *(f"batch {one}" for one in measured["batches"])), rows
    )
    way = (
        "The times of a plain pass and of both passes are added up. "
        "A picture that takes one after the other was not measured yet."
        if added
        else "Every picture was sent both ways for that."
    )
    verdict = f"it is more at batch {' and '.join(over)}" if over else "it is reached at every batch size"
    return f"{table}\n\n{way}\nAt most {AIMED_MOST} was aimed for: {verdict}."


def auto_service() -> str:
    """Return how many times as many answers auto gives as the other services, if that was measured."""
    lines = []
    for name, gains in service.auto_gains(result("service")).items():
        each = ", ".join(f"{ratio:.1f} at {connections}" for connections, ratio in gains.items())
        lines.append(f"- {name[0].upper()}{name[1:]}: {each} connections. {ahead(gains)}.")
    if not lines:
        return "With `self_gradient=auto` it was not measured yet."
    return "Answers a second with `self_gradient=auto`, in those of the faster of the other services:\n\n" + "\n".join(
        lines
    )


def ahead(gains: Mapping[str, float]) -> str:
    """Return at which numbers of connections a service is ahead by more than noise.

    Args:
        gains: its answers a second in those of another service, by number of connections
    """
    better = [connections for connections, ratio in gains.items() if ratio > 1 + service.NOISE]
    if len(better) == len(gains):
        return "It is ahead at every number of connections"
    return f"It is ahead at {', '.join(better)} connections only" if better else "It is ahead nowhere"


def auto_attacked() -> str:
    """Return what auto withstood of the attacks that were run so far, and what an attack takes from its saving."""
    measured = result("auto")
    attacked, slow = measured.get("attacked"), measured.get("slow_down")
    lines = []
    if attacked is not None:
        low, high = attacked["interval_95"]
        lows = attacked["lowest"]
        lines += [
            figures_table(
                ("attack on auto, each on what those above left", "left, %"),
                [(row["title"], percent(row["left"])) for row in attacked["rows"]],
            ),
            "",
            f"On these {attacked['pictures']} test pictures {percent(lows['auto'])} % are left (95 % confidence "
            f"interval {percent(low)} to {percent(high)} %). After all attacks of their own report "
            f"{percent(lows[ON])} % are left with the block on, and {percent(lows[OFF])} % with it off.",
        ]
        if attacked["not_run"]:
            lines.append("Attacks are missing, so the first figure is an upper bound.")
    if slow is not None:
        lines += ["", slow_down(slow)]
    return "\n".join(lines) or "Not measured yet."


def slow_down(slow: Mapping[str, Any]) -> str:
    """Return what attacks take from the saving, in sentences.

    Args:
        slow: the entry slow_down of results/auto.json
    """
    return (
        f"An attack on the saving makes {percent(slow['per_picture'])} % of {slow['pictures']} pictures need the "
        f"second pass instead of {percent(slow['second_pass'])} %: it takes {_of_saving(slow['per_picture_taken'])}. "
        f"One perturbation for all makes it {percent(slow['universal'])} % of {slow['universal_pictures']} pictures "
        f"instead of {percent(slow['universal_second_pass'])} %: it takes {_of_saving(slow['universal_taken'])}."
    )


def _of_saving(share: float) -> str:
    return f"{100 * share:.0f} % of the saving" if share > 0 else "nothing of the saving"


def auto_verdict() -> str:
    """Return whether auto may be the bundled network's default, in sentences."""
    return verdict_of(result("auto").get("attacked"), result("bundled/self-gradient")["setting"]["pictures"])


def verdict_of(attacked: Mapping[str, Any] | None, judged: int) -> str:
    """Return the verdict on auto as a default.

    Args:
        attacked: the entry attacked of results/auto.json, None where nothing was attacked yet
        judged: how many pictures block on and off were judged on
    """
    if attacked is None:
        return "For the bundled network it was not measured yet. So `auto` is not its default."
    lows, missing = attacked["lowest"], attacked["not_run"]
    below = min(lows[ON], lows[OFF]) - lows["auto"]
    few = attacked["pictures"] < judged
    if few or (missing and below <= AUTO_TOLERANCE):
        number = f"only {attacked['pictures']} of the {judged:,} pictures" if few else f"{judged:,} pictures"
        gaps = f", and not by these attacks: {'; '.join(missing)}" if missing else ""
        return (
            "For the bundled network this is not decided, so `auto` is not its default.\n"
            f"So far {number} were attacked{gaps}."
        )
    place = f"{100 * abs(below):.1f} points {'under' if below > 0 else 'over'} the lower of the two"
    allowed = "may be" if below <= AUTO_TOLERANCE else "is not"
    return f"For the bundled network it is {place}. So `auto` {allowed} its default."


def auto_sizing() -> str:
    """Return what to count with where clients may attack the saving, if that was measured."""
    measured, slow = result("engines").get("auto"), result("auto").get("slow_down")
    if measured is None or slow is None:
        return NOT_MEASURED
    return sizing_table(measured, slow)


def sizing_table(measured: Mapping[str, Any], slow: Mapping[str, Any]) -> str:
    """Return the cost of auto on clean pictures and under attack as a table, and how it was computed.

    Args:
        measured: the entry auto of results/engines.json
        slow: the entry slow_down of results/auto.json
    """
    share = slow["per_picture"]
    rows = [(on.partition(": ")[2], *cells) for on, cells in _sizes(measured, share)]
    header = (
        f"plain passes a picture, batch {SIZED}",
        "block always on",
        "auto, clean pictures",
        f"auto, {percent(share, 0)} % need the second pass",
    )
    return (
        f"An attack on the saving makes {percent(share)} % of {slow['pictures']} pictures need the second pass, "
        f"instead of {percent(slow['second_pass'])} %. Count with the last column where clients may be hostile:\n\n"
        f"{figures_table(header, rows)}\n\n"
        "The last column is computed: a plain pass for each picture, and both passes for that share.\n"
        "Its first figure takes the price of full batches, its second one that of the small ones that were measured."
    )


def _sizes(measured: Mapping[str, Any], share: float) -> Iterator[tuple[str, tuple[str, ...]]]:
    for engine in ENGINES:
        off, on, auto = (Contender(*engine, mode).name for mode in ("off", "on", "auto"))
        plain, both, some = (measured["batches"][SIZED][name]["ratio_of_best"] for name in (off, on, auto))
        price = (some - plain) / measured["answers"][auto]["clean"]["second_pass"]
        full, small = plain + share * both, plain + share * price
        yield on, (f"{both:.1f}", f"{some:.1f}", f"{full:.1f}, {small:.1f}")
