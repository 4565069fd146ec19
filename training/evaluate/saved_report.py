"""A report that an earlier command left: whether it is one, and of the setting that is to be measured now."""

import json
from pathlib import Path
from typing import Any

UNNAMED_MATCHES = ("pictures_sha256", "reader")
"""What reports from before these were saved do not say; their silence is no difference."""

FIX = "pass another --report, or delete that file to measure anew"
FIX_OF_OTHERS = "take it out of --rows-from"


def read_saved(path: Path, file_format: str, setting: dict[str, Any], fix: str = FIX) -> dict[str, Any] | None:
    """The report saved at `path`, None where there is none.

    file_format: that it must say it has
    setting:     that it must be of
    fix:         what the caller can do about a file that is not as it must be
    raises ValueError, one line with the fix, for any other file: hours of results are not to be overwritten
    """
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: not a readable report ({reason}); {fix}") from None
    if not isinstance(saved, dict) or saved.get("format") != file_format or not isinstance(saved.get("setting"), dict):
        raise ValueError(f"{path}: not a report of this kind (its JSON does not say format {file_format!r}); {fix}")
    differing = different_settings(saved["setting"], setting)
    if differing:
        raise ValueError(
            f"{path} is a report of another setting: {', '.join(differing)}; give the same flags as then, or {fix}"
        )
    return saved


def different_settings(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One text for each setting that differs, with both values."""
    either = dict.fromkeys([*saved, *now])
    compared = [name for name in either if name not in UNNAMED_MATCHES or (name in saved and name in now)]
    return [
        f"{name} (was {_shown(saved, name)}, now {_shown(now, name)})"
        for name in compared
        if (name in saved, saved.get(name)) != (name in now, now.get(name))
    ]


def _shown(setting: dict[str, Any], name: str) -> str:
    if name not in setting:
        return "not named"
    value = setting[name]
    return value[:12] if name.endswith("_sha256") and isinstance(value, str) else json.dumps(value)
