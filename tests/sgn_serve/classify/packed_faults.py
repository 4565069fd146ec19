"""The job of tests.sgn_serve.decoder_processes.faults, several commands in one message."""

from typing import Any

from sgn_serve.classify.packed_job import packed
from sgn_serve.decoder_processes.job import Job
from tests.sgn_serve.decoder_processes import faults

JOB = "tests.sgn_serve.classify.packed_faults:make_job"


def make_job(size: list[int], **options: Any) -> Job:
    """Return the job."""
    height, width = size
    return packed(faults.make_job(size, **options), (height, width))
