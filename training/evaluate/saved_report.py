"""Read a report that an earlier command left, and check that it is of the setting that is measured now."""

import json
from pathlib import Path
from typing import Any

from sgn_serve.common.error_text import one_line
from training.common.errors import TrainingError

FIX = "pass another --report, or delete that file to measure anew"


class SavedReportError(TrainingError):
    """A file in a report's place that cannot be continued; the message is one line that names the fix."""


def read_saved(
    path: Path, file_format: str, setting: dict[str, Any], fix: str = FIX, *, in_part: bool = False
) -> dict[str, Any] | None:
    """Return the report saved at `path`, None where there is none.

    Args:
        path: A JSON file.
        file_format: The format that it must say it has.
        setting: The setting that it must be of.
        fix: The fix for a file that is not as it must be, for the message.
        in_part: Whether `setting` is only what is known so far, so that the report's may have more.

    Raises:
        SavedReportError: The file is anything else. Hours of results are not to be overwritten.
    """
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SavedReportError(f"{path}: not a readable report ({one_line(error)}); {fix}") from None
    found = saved.get("format") if isinstance(saved, dict) else None
    if found != file_format or not isinstance(saved.get("setting"), dict):
        raise SavedReportError(
            f"{path}: not a report of this kind (its JSON says format {found!r}, not {file_format!r}); {fix}"
        )
    known = saved["setting"]
    if in_part:
        known = {name: value for name, value in known.items() if name in setting}
    differing = different_settings(known, setting)
    if differing:
        same = "give the same settings as then"
        if _other_weights_alone(known, setting):
            same = "its weights have changed since: load them from a file, or seed what draws them"
        raise SavedReportError(f"{path} is a report of another setting: {', '.join(differing)}; {same}, or {fix}")
    return saved


def _other_weights_alone(saved: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether the weights of a module, and its answers with them, are all that differs."""
    differing = {name for name in {**saved, **now} if saved.get(name) != now.get(name)}
    return "module_sha256" in differing and differing <= {"module_sha256", "answers_sha256"}


def different_settings(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return one text for each setting that differs, with both values."""
    return [
        f"{name} (was {_shown(saved, name)}, now {_shown(now, name)})"
        for name in dict.fromkeys([*saved, *now])
        if (name in saved, saved.get(name)) != (name in now, now.get(name))
    ]


def _shown(setting: dict[str, Any], name: str) -> str:
    if name not in setting:
        return "not named"
    value = setting[name]
    return value[:12] if name.endswith("_sha256") and isinstance(value, str) else json.dumps(value)
