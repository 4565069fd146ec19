"""Keep the experiments of a table to one command that hands them out."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from training.common.file_locks import NoLocks, lock
from training.common.files import WriteError
from training.common.ray_tasks import OnRayError
from training.reproduce.experiment import Experiment


@contextmanager
def claimed(experiments: Sequence[Experiment]) -> Iterator[None]:
    """Hold the logs of experiments locked, so that no other command hands these out meanwhile.

    Two commands would take the runs over from each other. Where locks are not held across machines, they do so, and the
    one whose training finds that its run is lost ends.

    Args:
        experiments: The experiments. Each may be there several times.

    Raises:
        OnRayError: Another command has one of them.
        WriteError: A log cannot be written.
    """
    with ExitStack() as held:
        for path in dict.fromkeys(experiment.log for experiment in experiments):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = held.enter_context(path.open("ab"))
                with suppress(NoLocks):
                    lock(file.fileno())
            except BlockingIOError:
                raise OnRayError(
                    f"another command trains and judges {path.with_suffix('')} at this time ({path} is locked); wait "
                    "for it or end it. The lock of a machine that has gone ends after a minute or two"
                ) from None
            except OSError as error:
                raise WriteError.of(path, error) from None
        yield
