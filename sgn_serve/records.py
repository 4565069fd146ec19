"""Describe what the service answers: one record for each kind of JSON.

The service writes them and sgn_serve.client reads them. So nothing here loads a server or an engine.
"""

from typing import Any, Literal

from pydantic import BaseModel, Field

from sgn_serve.pictures.resizing import Resize

MAX_TOP_K = 1000
"""Most classes that an answer lists, whatever is asked for."""
AUTO: Literal["auto"] = "auto"
"""Decide for each picture whether the block is on: the second pass runs where the plain answer has a small margin."""
SelfGradient = bool | Literal["auto"]
"""The state that a request asks for: block on, block off, or AUTO."""
Mode = Literal["on", "off", "auto"]
"""SelfGradient as a word."""


def mode_of(self_gradient: SelfGradient) -> Mode:
    """Return the word for what a request asks for."""
    return self_gradient if isinstance(self_gradient, str) else "on" if self_gradient else "off"


class ClassProbability(BaseModel):
    """One class and its probability."""

    label: str
    index: int = Field(description="position of the class among the network's outputs, from 0")
    probability: float = Field(description="softmax probability, 0 to 1")


class Prediction(ClassProbability):
    """The answer to one picture."""

    top_k: list[ClassProbability] = Field(description="the likeliest classes, likeliest first")
    self_gradient: bool = Field(description="whether the block was on: two passes instead of one")
    mode: Mode = Field(
        description="what was asked for. With auto, self_gradient tells whether this picture needed the second pass"
    )
    plain: ClassProbability | None = Field(description="with the block on: what the network says with it off")
    disagreement: float | None = Field(
        description="with the block on: the Jensen-Shannon divergence of the answers with it on and off, in bits, "
        "from 0 (equal) to 1; the model card says how little or how much it tells of tampering"
    )
    suspicious: bool | None = Field(
        description="with the block on, and where the service has a limit (SGN_MAX_DISAGREEMENT): whether the "
        "disagreement is above it"
    )
    model: str = Field(description="SHA-256 of the checkpoint that the served graph was exported from")


class Error(BaseModel):
    """The reason for refusing or failing a request."""

    code: str = Field(description="a constant for programs, such as not_an_image")
    message: str = Field(description="a sentence for people: what is wrong, and the fix where there is one")
    request_id: str = Field(description="as in the X-Request-ID header: finds the request in the log")


class ErrorAnswer(BaseModel):
    """The body of every error answer outside /v2."""

    error: Error


class Predictions(BaseModel):
    """The answers to several pictures, in the order in which they were sent."""

    predictions: list[Prediction | ErrorAnswer]


class Preprocessing(BaseModel):
    """Describe what happens to a picture before the network sees it."""

    formats: list[str] = Field(description="formats of files that are taken, by Pillow's names")
    suffixes: list[str] = Field(description="endings of the names of such files; their content alone counts")
    height: int = Field(description="pixels that every picture is made")
    width: int
    resize_mode: Resize = Field(
        description="what happens to a picture of another aspect: it is stretched, or its middle is cropped, or it is "
        "padded with the background"
    )
    resize: str = "bilinear, antialiased when shrinking; none at the network's own size"
    exif_orientation: str = "applied"
    background: str = Field(description="what transparent pixels lie on, as #rrggbb")
    input: str = "RGB, float32 in [0, 1]"
    mean: list[float] | None = Field(description="subtracted within the network, per channel")
    std: list[float] | None = Field(description="divided by within the network, per channel")


class Row(BaseModel):
    """One measured accuracy."""

    block: str = Field(description="block on or block off, or exported graph where the graph itself was attacked")
    attack: str = Field(description="its name for people, such as PGD-20")
    family: str = Field(description="its kind, such as pgd; clean where nothing was attacked")
    accuracy: float = Field(description="share of the pictures that are classified rightly under it")
    parameters: dict[str, Any] | None = Field(description="everything the figure depends on; null where not recorded")


class Measured(BaseModel):
    """Accuracy on pictures that the network was not trained on, clean and attacked."""

    data: str
    split: str
    pictures: int
    norm: str
    eps: float = Field(description="radius of the attacks, in units of pixel intensity")
    restarts: int
    seed: int
    rows: list[Row]
    clean: dict[str, float] = Field(description="per block state: share of the unattacked pictures that are right")
    lowest: dict[str, float] = Field(description="per block state: pictures that withstood every attack above")
    auto_attack: dict[str, float] = Field(
        description="per block state: pictures that withstood AutoAttack, where all four of its attacks were run"
    )
    headline: float = Field(description="lowest accuracy per picture as the network is used; the one figure to quote")
    headline_interval_95: list[float] | None = Field(
        description="95 % confidence interval of the headline, null where not recorded"
    )
    likely_overestimated: bool | None = Field(
        description="whether the masking checklist says so; null where nobody looked"
    )
    block_effect: dict[str, float] | None
    command: str
    date: str | None = Field(description="day of the measurement in UTC, as 2026-11-26; null where not recorded")
    git_commit: str | None = Field(description="commit of the program that measured; null where not recorded")


class Flag(BaseModel):
    """A sign that a measured accuracy is likely too high."""

    name: str
    verdict: str
    value: float | None
    threshold: str
    detail: str


class AutoMode(BaseModel):
    """The threshold of self_gradient=auto."""

    margin: float = Field(
        description="difference of the two largest plain probabilities under which a picture gets the second pass"
    )
    source: Literal["setting", "graph", "figures"] = Field(
        description="where it stands: SGN_AUTO_MARGIN, the graph's metadata, or the figures beside the graph"
    )
    measured: dict[str, Any] = Field(
        description="what it was measured to do, such as agreement and second_pass, shares of the pictures; empty "
        "where nobody measured it"
    )


class EngineUsed(BaseModel):
    """The engine that answers, and why."""

    name: str = Field(description="ONNX Runtime or OpenVINO")
    providers: list[str] = Field(description="ONNX Runtime's execution providers, by preference; empty for OpenVINO")
    precision: str = Field(description="what it computes in: float32, or bf16 or fp16 for most of it")
    chosen: Literal["setting", "auto"] = Field(description="whether SGN_ENGINE names it, or left it to the service")
    reason: str = Field(description="why it is this one, in one line")


class Limits(BaseModel):
    """Limits of one request."""

    max_images: int = Field(description="pictures of one request")
    max_bytes: int = Field(description="bytes of a request's body")
    max_pixels: int = Field(description="width times height of a picture")
    max_top_k: int = Field(description="classes that an answer lists, at most")


class Defaults(BaseModel):
    """Describe what a request gets where it does not say."""

    self_gradient: bool = Field(
        description="whether the block is on, or may be, with auto; never where the network has none"
    )
    top_k: int = Field(description="classes that an answer lists")


class ModelCard(BaseModel):
    """Describe what is served."""

    name: str
    model: str = Field(description="SHA-256 of the checkpoint that the graph was exported from")
    graph_sha256: str = Field(description="SHA-256 of the graph's file")
    architecture: str | None
    method: str | None = Field(description="how it was trained")
    precision: str | None = Field(description="precision that the graph was exported for, null for float32")
    engine: EngineUsed | None = Field(description="what the network runs on here; null where it was not started")
    has_block: bool = Field(description="whether there is a self-gradient block to switch on")
    has_gradient: bool = Field(description="whether /explain can draw the self-gradient")
    block: dict[str, Any] | None = Field(description="shape of the self-gradient block")
    data: str | None = Field(description="what it was trained on")
    classes: list[str]
    eps: float | None = Field(description="radius that it was trained against, in units of pixel intensity")
    preprocessing: Preprocessing
    training: dict[str, Any] = Field(description="recipe, seed, commit and versions, as the checkpoint records them")
    measured: Measured | None = Field(description="null where no measurement of this checkpoint came with the graph")
    flags: list[Flag] | None = Field(
        description="signs of gradient masking that were found; null where nobody looked for them"
    )
    disagreement: dict[str, Any] | None = Field(description="how well disagreement tells attacked pictures, measured")
    max_disagreement: float | None = Field(description="bits above which an answer is called suspicious")
    auto: AutoMode | None = Field(description="threshold of self_gradient=auto; null where the model has none")
    default_mode: Mode = Field(description="what is done where a request does not say")
    examples: int = Field(description="number of example pictures that /model/examples has; 0 for none")
    notes: list[str] = Field(
        description="what in the files beside the graph does not fit it, each with the fix; it is not shown then"
    )
    defaults: Defaults = Field(description="what a request gets where it does not say")
    limits: Limits = Field(description="what one request may hold")


class Likeliest(BaseModel):
    """The likeliest class of an answer that was recorded."""

    label: int = Field(ge=0, description="position among class_names, from 0")
    probability: float = Field(ge=0, le=1)


class Tampered(BaseModel):
    """An example picture that was perturbed to fool a network."""

    png: str = Field(description="the picture at full strength, a PNG file as base64")
    attack: str = Field(description="the attack that made it")
    fooled: bool = Field(description="whether the attacked network is wrong about it")
    answers: dict[str, list[Likeliest]] = Field(
        description="what the served model said when this was made, by block state, per strength from 0 to steps"
    )
    recorded: dict[str, list[list[float]]] = Field(
        description="what networks say that are not served: by their name among models, for each strength from 0 to "
        "steps, the probability of every class"
    )


class Example(BaseModel):
    """An example picture and what it was perturbed to."""

    name: str
    label: int = Field(ge=0, description="position of its true class among class_names, from 0")
    png: str = Field(description="the picture, a PNG file as base64")
    tampered: dict[str, Tampered] = Field(description="by the name, among models, of the network that is attacked")


class ExampleModel(BaseModel):
    """A network that examples were made to fool, or that was asked about them."""

    title: str = Field(description="its name for people")
    served: bool = Field(description="whether it is the served model, which can be asked")
    block: bool = Field(description="whether its block is on")
    checkpoint_sha256: str
    architecture: str
    method: str
    attacks: list[dict[str, Any]] = Field(description="attacks on it, in the order in which they took turns")


class RightRow(BaseModel):
    """Count the pictures that networks classify rightly under one attack."""

    against: str | None = Field(description="name of the network that is attacked; null for unattacked pictures")
    right: dict[str, int] = Field(description="pictures classified rightly, by the network's name among models")


class RightOfAll(BaseModel):
    """Counts over all pictures that the examples were chosen from."""

    pictures: int
    rows: list[RightRow]


class Examples(BaseModel):
    """Describe example pictures of the model's data and perturbations of them that were computed in advance."""

    format: str
    checkpoint_sha256: str = Field(description="the served model's checkpoint, for which they were made")
    source: str = Field(description="where the pictures come from")
    norm: str
    eps: float = Field(gt=0, le=1, description="largest change of a colour value, in units of pixel intensity")
    steps: int = Field(ge=1, le=255, description="strengths; the strongest is eps, in steps of 1/255")
    seed: int
    class_names: list[str]
    height: int
    width: int
    models: dict[str, ExampleModel] = Field(description="the networks, in the order in which to show them")
    right_of_all: RightOfAll | None = Field(description="null where the examples are all that was attacked")
    examples: list[Example]
    command: str
    date: str | None = Field(description="day on which they were made in UTC; null where not recorded")
    git_commit: str
    versions: dict[str, str]
