"""Metrics for Prometheus. Each is declared once, here; `metric_rows` lists them for the documentation.

Each of several workers writes its values into files of a folder that BentoML makes ($PROMETHEUS_MULTIPROC_DIR). Any
worker answers with the sums. Every label takes few values, whatever clients send.
"""

import os
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import generate_latest as _exposition
from prometheus_client.multiprocess import MultiProcessCollector

from sgn_serve.telemetry.ledger import STAGES

CONTENT_TYPE = CONTENT_TYPE_LATEST
OTHER = "other"
"""Label of routes and methods that the service does not have."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SHORT_SECONDS = (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.002, 0.003, 0.005, 0.01, 0.03, 0.1, 0.3, 1, 10)
"""Buckets of stages, the shortest of which take microseconds."""


Metric = TypeVar("Metric", Counter, Gauge, Histogram)


class MetricRow(NamedTuple):
    """One row of the documentation's table of metrics. A histogram has _bucket, _sum and _count."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str


_ROWS: list[MetricRow] = []


def metric_rows() -> list[MetricRow]:
    """Return every metric, in the order of their declarations: the documentation's table of metrics."""
    return list(_ROWS)


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    _ROWS.append(MetricRow(name, "counter", labels, meaning))
    return Counter(name, meaning, labels)


def _latest(name: str, meaning: str) -> Gauge:
    """Declare a gauge that has the largest value of all workers, also of those that have ended."""
    _ROWS.append(MetricRow(name, "gauge", (), meaning))
    return Gauge(name, meaning, multiprocess_mode="max")


def _gauge(name: str, meaning: str, *labels: str) -> Gauge:
    """Declare a gauge. A worker that ends, however it ends, stops counting in it at once."""
    _ROWS.append(MetricRow(name, "gauge", labels, meaning))
    return Gauge(name, meaning, labels, multiprocess_mode="livesum")


def _histogram(name: str, meaning: str, *labels: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
    _ROWS.append(MetricRow(name, "histogram", labels, meaning))
    return Histogram(name, meaning, labels, buckets=buckets)


REQUESTS = _counter("sgn_requests_total", "Requests answered.", "route", "method", "status")
REQUEST_SECONDS = _histogram(
    "sgn_request_seconds", "Seconds from the head of a request to the last byte of its answer.", "route"
)
_REQUEST_STAGES = _histogram(
    "sgn_request_stage_seconds",
    "Seconds that a request spent in a stage of its way: receive, parse, decode, queue, infer, serialise. Those of a "
    "request with several pictures are the stages of the one that was done last.",
    "stage",
    buckets=_SHORT_SECONDS,
)
STAGE_SECONDS = {stage: _REQUEST_STAGES.labels(stage) for stage in STAGES}
"""Histogram of each stage, by the stage's name."""
IN_FLIGHT = _gauge("sgn_requests_in_flight", "Requests begun and not yet answered.")
ERRORS = _counter(
    "sgn_errors_total",
    "Errors answered, by their code. Errors at the connection count too, and so does each picture of /classify_batch "
    "that is refused on its own. With the code client_gone, the client went away before it was answered.",
    "code",
)
QUEUE = _gauge(
    "sgn_queue_pictures",
    "Pictures accepted and waiting for a batch, those included that are still being decoded. Scale on this one.",
)
QUEUE_LIMIT = _gauge(
    "sgn_queue_limit_pictures",
    "Most pictures that may be accepted and not yet answered (SGN_MAX_QUEUE); more are refused as overloaded.",
)
QUEUE_SECONDS = _histogram(
    "sgn_queue_seconds",
    "Seconds that a decoded picture, or the tensors of a request under /v2, waited for a batch.",
)
DECODE_SECONDS = _histogram(
    "sgn_decode_seconds", "Seconds to decode one picture, including the wait for a decoder process."
)
DECODERS = _gauge("sgn_decoder_processes", "Processes that decode pictures.")
DECODER_ENDS = _counter(
    "sgn_decoder_ends_total",
    "Decoder processes that were ended and replaced: memory, time and crash are a picture's doing. A picture that "
    "passes the limits of small ones counts too, though it is then tried as a large one. Those of "
    "the reason age have worked for long enough.",
    "reason",
)
CONFINEMENT = _gauge(
    "sgn_decoder_confinement",
    "Workers whose decoder processes are confined by this means: landlock, seccomp, memory.",
    "means",
)
BATCH_PICTURES = _histogram("sgn_batch_pictures", "Pictures in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256))
INFERENCE_SECONDS = _histogram(
    "sgn_inference_seconds",
    "Seconds of one run of the network. A batch with the block on for some requests and off for others is two runs.",
    "block",
)
PICTURES = _counter(
    "sgn_pictures_total",
    "Pictures that went through the network. One that needs the second pass of self_gradient=auto counts in both.",
    "block",
)
AUTO_PICTURES = _counter(
    "sgn_auto_pictures_total", "Pictures that were asked for with self_gradient=auto, and went through the plain pass."
)
AUTO_SECOND_PASSES = _counter(
    "sgn_auto_second_passes_total",
    "Those of sgn_auto_pictures_total that needed the second pass. Their share rises under an attack on the saving.",
)
INFERENCES = _counter(
    "sgn_inferences_total",
    "Pictures, or requests under /v2, that the network has answered (success), or could not (fail).",
    "outcome",
)
INFERENCES_SECONDS = _counter(
    "sgn_inferences_seconds_total",
    "Seconds from their decoding to their answer, summed over sgn_inferences_total.",
    "outcome",
)
REQUEST_STAGE_SECONDS = _counter(
    "sgn_inferences_stage_seconds_total",
    "Seconds in a stage, summed over the successes of sgn_inferences_total: queue, input (making the batch), infer, "
    "output (taking it apart).",
    "stage",
)
RUNS = _counter("sgn_runs_total", "Runs of the network, by the number of pictures in them.", "pictures")
RUN_STAGE_SECONDS = _counter(
    "sgn_runs_stage_seconds_total", "Seconds in a stage, summed over sgn_runs_total.", "pictures", "stage"
)
LAST_RUN = _latest("sgn_last_run_timestamp_seconds", "Time of the network's last run, in seconds since 1970.")
DISAGREEMENT = _histogram(
    "sgn_disagreement_bits",
    "Disagreement between the answers with the block on and off, in bits, for requests with the block on.",
    buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1),
)
SUSPICIOUS = _counter("sgn_suspicious_total", "Answers with a disagreement above SGN_MAX_DISAGREEMENT.")
MODEL = _gauge(
    "sgn_model_info",
    "Workers that serve this model: its name, the SHA-256 of its checkpoint and of its graph, and the version of this "
    "package. 0 for a model that was replaced.",
    "name",
    "model",
    "graph_sha256",
    "version",
)
RELOADS = _counter("sgn_reloads_total", "Reloads of the model, one for each worker, by their outcome.", "outcome")
WORKER_STARTS = _counter(
    "sgn_worker_starts_total", "Workers that became ready. If there are more than workers, some of them died."
)

BLOCK = {False: "off", True: "on"}
"""Values of the label block."""
SUCCEEDED, FAILED = "success", "fail"
"""Values of the label outcome of inferences."""
SWAPPED, UNCHANGED, REFUSED = "swapped", "unchanged", "refused"
"""Values of the label outcome of reloads."""

# Prometheus computes no rate from a series that appears with its first event, so these start at 0.
for _block in BLOCK.values():
    PICTURES.labels(_block)
    INFERENCE_SECONDS.labels(_block)
for _code in ("internal_error", "timeout", "overloaded"):  # the codes that alerts watch
    ERRORS.labels(_code)
for _outcome in (SUCCEEDED, FAILED):
    INFERENCES.labels(_outcome)
    INFERENCES_SECONDS.labels(_outcome)
for _reason in ("memory", "time", "crash", "age", "cancelled"):
    DECODER_ENDS.labels(_reason)
for _outcome in (SWAPPED, UNCHANGED, REFUSED):
    RELOADS.labels(_outcome)


_CHILDREN: dict[Hashable, Any] = {}


def child(metric: Metric, *labels: Hashable) -> Metric:
    """Return a metric with these values of its labels, from a cache: prometheus_client's own look-up is slower.

    Args:
        metric: A metric that is declared here.
        labels: Values of its labels, in order. Each takes few values.
    """
    key = (metric, labels)
    found: Metric | None = _CHILDREN.get(key)
    if found is None:
        found = _CHILDREN[key] = metric.labels(*labels)
    return found


def exposition() -> bytes:
    """Return the metrics of all workers in Prometheus' text format."""
    return _exposition(_all_workers())


def values(*metrics: Counter | Gauge) -> dict[tuple[str, ...], float]:
    """Return the values of some metrics, over all workers.

    Args:
        metrics: Counters and gauges that are declared here.

    Returns:
        Each value by its metric's name, followed by the values of its labels in alphabetical order of their names.
    """
    families = [family for metric in metrics for family in metric.describe()]
    wanted = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in _all_workers().collect()
        for sample in family.samples
        if sample.name in wanted
    }


def _all_workers() -> CollectorRegistry:
    """Return what collects the metrics of all workers."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
