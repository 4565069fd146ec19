"""What is counted, for Prometheus: docs/metrics.md says what each means.

Several workers count into files of a folder that BentoML makes ($PROMETHEUS_MULTIPROC_DIR), and any of them answers
with the sums. Labels take few values, whatever clients send.
"""

import os

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import generate_latest as _exposition
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST
OTHER = "other"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

REQUESTS = Counter("sgn_requests_total", "Requests answered.", ["route", "method", "status"])
REQUEST_SECONDS = Histogram(
    "sgn_request_seconds", "From a request's head to the last byte of its answer.", ["route"], buckets=_SECONDS
)
IN_FLIGHT = Gauge("sgn_requests_in_flight", "Requests begun and not yet answered.", multiprocess_mode="livesum")
ERRORS = Counter("sgn_errors_total", "Errors answered, by their code.", ["code"])
QUEUE = Gauge("sgn_queue_pictures", "Pictures accepted and waiting for a batch.", multiprocess_mode="livesum")
QUEUE_LIMIT = Gauge(
    "sgn_queue_limit_pictures", "Pictures that may be accepted and not yet answered.", multiprocess_mode="livesum"
)
QUEUE_SECONDS = Histogram("sgn_queue_seconds", "How long a decoded picture waited for its batch.", buckets=_SECONDS)
DECODE_SECONDS = Histogram(
    "sgn_decode_seconds", "Decoding one picture, the wait for a thread included.", buckets=_SECONDS
)
BATCH_PICTURES = Histogram("sgn_batch_pictures", "Pictures in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256))
INFERENCE_SECONDS = Histogram("sgn_inference_seconds", "One run of the network.", ["block"], buckets=_SECONDS)
PICTURES = Counter("sgn_pictures_total", "Pictures that went through the network.", ["block"])
DISAGREEMENT = Histogram(
    "sgn_disagreement_bits",
    "Disagreement of the answers with the block on and off.",
    buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1),
)
SUSPICIOUS = Counter("sgn_suspicious_total", "Answers whose disagreement is above the limit.")
MODEL = Gauge(
    "sgn_model_info",
    "Workers that serve this model.",
    ["name", "model", "graph_sha256", "version"],
    multiprocess_mode="livesum",
)
RELOADS = Counter("sgn_reloads_total", "Reloads of the model.", ["outcome"])
WORKER_STARTS = Counter("sgn_worker_starts_total", "Workers that became ready.")

BLOCK = {False: "off", True: "on"}
SWAPPED, UNCHANGED, REFUSED = "swapped", "unchanged", "refused"

# A rate from nothing to one is a rate only if the nothing was there to be scraped.
for _block in BLOCK.values():
    PICTURES.labels(_block)
    INFERENCE_SECONDS.labels(_block)
for _code in ("internal_error", "timeout", "overloaded"):  # those that alerts wait for
    ERRORS.labels(_code)
for _outcome in (SWAPPED, UNCHANGED, REFUSED):
    RELOADS.labels(_outcome)


def exposition() -> bytes:
    """The figures of all workers, in Prometheus' text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return _exposition(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return _exposition(registry)
