"""Name the paths that several parts of the service treat alike: probes, metrics, pages and the inference protocol."""

from sgn_serve.process.page_path import PAGE as PAGE

LIVE, HEALTH, READY = "/livez", "/healthz", "/readyz"
"""Probes that BentoML's application answers."""
BENTOML_PROBES = frozenset({LIVE, HEALTH, READY})
PROTOCOL = "/v2"
"""Prefix of the Open Inference Protocol, which has its own form of errors."""
PROTOCOL_LIVE = f"{PROTOCOL}/health/live"
PROTOCOL_READY = f"{PROTOCOL}/health/ready"
MODEL_PATHS = (f"{PROTOCOL}/models/{{name}}", f"{PROTOCOL}/models/{{name}}/versions/{{version}}")
"""Paths of a model, without and with its version."""
PROBES = BENTOML_PROBES | {PROTOCOL_LIVE, PROTOCOL_READY}
"""Paths that orchestrators ask. They need no token, count towards no rate limit and are not logged while they succeed.
They say whether the server is there, and nothing else."""
METRICS = "/metrics"
CLASSIFY, CLASSIFY_BATCH = "/classify", "/classify_batch"
API_PAGE = "/"
PAGE_FILES = f"{PAGE}/static/{{file}}"


def is_page(path: str) -> bool:
    """Return whether a path is the page's, or one of its files'."""
    return path == PAGE or path.startswith(f"{PAGE}/")


def is_open(path: str) -> bool:
    """Return whether a path needs no token and counts towards no rate limit: a probe, or the page."""
    return path in PROBES or is_page(path)


def is_protocol(path: str) -> bool:
    """Return whether a path is the Open Inference Protocol's."""
    return path == PROTOCOL or path.startswith(f"{PROTOCOL}/")
