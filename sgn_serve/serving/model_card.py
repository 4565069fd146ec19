"""Make the model card: what is served, how it was trained and measured. All of it comes from the model's files.

The graph's own metadata describes it. The figures are in a JSON file of the same name beside it: model.json beside
model.onnx, which python -m export writes. A graph without one has no measured figures.
"""

import logging
from collections.abc import Mapping
from typing import Any, Literal

from sgn_serve.common.error_text import one_line
from sgn_serve.common.graph_format import AUTO_KEY, BACKGROUND_FIELD, METADATA_KEY, figures_path
from sgn_serve.inference.graph import Description, Graph, GraphError, checked_measured, json_size
from sgn_serve.pictures.colours import RGB, colour_text, parse_colour
from sgn_serve.pictures.decoding import WHITE
from sgn_serve.pictures.formats import suffixes
from sgn_serve.records import (
    AUTO,
    MAX_TOP_K,
    AutoMode,
    Defaults,
    EngineUsed,
    Flag,
    Limits,
    Measured,
    ModelCard,
    Preprocessing,
    Row,
    mode_of,
)
from sgn_serve.serving.examples import GivenExamples
from sgn_serve.serving.figures import read_figures
from sgn_serve.settings import Settings

logger = logging.getLogger("bentoml.sgn_serve")

RAISED = ("raised", "suspect")
_NO_EXAMPLES = GivenExamples()


def model_card(
    graph: Graph,
    settings: Settings,
    examples: GivenExamples = _NO_EXAMPLES,
    engine: EngineUsed | None = None,
) -> ModelCard:
    """Return the card of a graph as these settings serve it.

    Args:
        graph: The graph.
        settings: The settings of the service.
        examples: The example pictures beside the graph.
        engine: The engine that it was started on; None where it was not.

    Raises:
        GraphError: The file beside the graph says that it holds its figures, and holds something else. Or the graph's
            own metadata do not describe a network.
    """
    description = graph.description
    checkpoint = description.checkpoint
    path = figures_path(graph.path)
    given = read_figures(graph)
    figures = given.values
    height, width = description.image_size
    try:
        measured, flags = (_measured(figures) if figures else None), _flags(figures)
        disagreement = _disagreement(figures)
        auto = _auto_mode(figures, description, settings)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GraphError(
            f"{path}: these are no figures of a model ({type(error).__name__}: {one_line(error)}); "
            "export the graph again, or take the file away"
        ) from None
    if settings.self_gradient == AUTO and description.has_block and auto is None:
        raise GraphError(
            f"{graph.path}: SGN_SELF_GRADIENT=auto needs a threshold, and this model has none; export it with "
            "--auto-agreement 0.998 --data-root DIR, or set SGN_AUTO_MARGIN"
        )
    try:
        card = ModelCard(
            name=settings.model_name,
            model=description.sha256,
            graph_sha256=graph.file_sha256,
            architecture=checkpoint.get("architecture"),
            method=checkpoint.get("method"),
            precision=description.precision,
            engine=engine,
            has_block=description.has_block,
            has_gradient=description.has_gradient,
            block=checkpoint.get("block"),
            data=checkpoint.get("dataset"),
            classes=list(description.class_names),
            eps=checkpoint.get("epsilon"),
            preprocessing=Preprocessing(
                formats=list(settings.formats),
                suffixes=list(suffixes(settings.formats)),
                height=height,
                width=width,
                resize_mode=checkpoint.get("resize", "stretch"),
                background=colour_text(_background(checkpoint, settings)),
                mean=checkpoint.get("mean"),
                std=checkpoint.get("std"),
            ),
            training={key: checkpoint.get(key) for key in ("recipe", "seed", "git_commit", "versions")},
            measured=measured,
            flags=flags,
            disagreement=disagreement,
            max_disagreement=settings.max_disagreement,
            auto=auto,
            default_mode=mode_of(settings.self_gradient if description.has_block else False),
            examples=examples.count,
            notes=[note for note in (given.note, examples.note) if note],
            defaults=Defaults(
                self_gradient=settings.self_gradient is not False and description.has_block, top_k=settings.top_k
            ),
            limits=Limits(
                max_images=settings.max_images,
                max_bytes=settings.max_bytes,
                max_pixels=settings.max_pixels,
                max_top_k=MAX_TOP_K,
            ),
        )
    except ValueError as error:  # pydantic's among them
        raise GraphError(
            f"{graph.path}: its metadata {METADATA_KEY} cannot be used "
            f"({type(error).__name__}: {one_line(error)}); export it again"
        ) from None
    try:
        json_size(card.model_dump())
    except ValueError as error:  # the metadata were looked at when the graph was read
        raise GraphError(
            f"{path}: figures that JSON cannot carry ({error}); export the graph again, or take the file away"
        ) from None
    return card


def _background(checkpoint: Mapping[str, Any], settings: Settings) -> RGB:
    """Return the setting's colour; without one the colour that the network was trained with."""
    trained = parse_colour(checkpoint.get(BACKGROUND_FIELD, colour_text(WHITE)))
    if settings.background is None:
        return trained
    if settings.background != trained and checkpoint.get("resize") == "pad":
        logger.warning(
            "SGN_BACKGROUND=%s pads pictures in another colour than %s, with which the network was trained; leave it "
            "out to have the network's",
            colour_text(settings.background),
            colour_text(trained),
        )
    return settings.background


def _measured(figures: Mapping[str, Any]) -> Measured:
    setting, about = figures["setting"], figures["about"]
    rows = [
        Row(
            block=row["id"]["state"],
            attack=row["title"],
            family=row["id"]["family"],
            accuracy=row["accuracy"],
            parameters=row.get("attack"),
        )
        for row in figures["rows"]
    ]
    (headline,) = figures["headline"].values()
    return Measured(
        **{key: setting[key] for key in ("data", "split", "pictures", "norm", "eps", "restarts", "seed")},
        rows=rows,
        clean={row.block: row.accuracy for row in rows if row.family == "clean"},
        lowest=figures["lowest"],
        auto_attack=figures["auto_attack"],
        headline=headline,
        headline_interval_95=figures.get("headline_interval_95"),
        likely_overestimated=figures.get("robustness_likely_overestimated"),
        block_effect=figures.get("block_effect"),
        command=about["command"],
        date=about.get("date"),
        git_commit=about.get("git_commit"),
    )


def _disagreement(figures: Mapping[str, Any]) -> dict[str, Any] | None:
    measured = figures.get("disagreement")
    if not isinstance(measured, dict | None):
        raise TypeError("disagreement is no object")
    return measured


def _auto_mode(figures: Mapping[str, Any], description: Description, settings: Settings) -> AutoMode | None:
    """Return the threshold of self_gradient=auto: the setting's, else the graph's, else the one among the figures.

    The measured effect of a threshold is told with that threshold alone.
    """
    if not description.has_block:
        return None
    beside = checked_measured(figures[AUTO_KEY], AUTO_KEY) if figures.get(AUTO_KEY) is not None else None
    source: Literal["graph", "figures"] = "figures" if description.auto is None else "graph"
    found = beside if description.auto is None else description.auto
    if settings.auto_margin is not None and (found is None or settings.auto_margin != found["margin"]):
        return AutoMode(margin=settings.auto_margin, source="setting", measured={})
    if found is None:
        return None
    measured = {name: value for name, value in found.items() if name != "margin"}
    return AutoMode(margin=found["margin"], source=source, measured=measured)


def _flags(figures: Mapping[str, Any]) -> list[Flag] | None:
    findings = figures.get("checklist")
    if findings is None:
        return None
    return [
        Flag(**{key: finding[key] for key in ("name", "verdict", "value", "threshold", "detail")})
        for finding in findings
        if finding["verdict"] in RAISED
    ]
