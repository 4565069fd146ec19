"""Start programs of this package that find the same memory at every start."""

import subprocess
import sys
from pathlib import Path

import pytest

from sgn_serve.process.bare_program import start_bare

_OWN = "import sys, {modules}\nprint(*(name for name in sys.modules if name.partition('.')[0] == 'sgn_serve'))"


def own_modules(*modules: str) -> set[str]:
    """Return the modules of sgn_serve that a new process has after it has imported these."""
    code = _OWN.format(modules=", ".join(modules))
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_a_bare_program_leaves_no_compiled_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first start would else compile them, and its second one not: two heaps."""
    (tmp_path / "first_bare.py").write_text("import second_bare\n")
    (tmp_path / "second_bare.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert start_bare("first_bare", [], {}).wait() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first_bare.py", "ran", "second_bare.py"]


def test_who_starts_decoders_has_imported_what_they_import() -> None:
    """So it has written their compiled forms, if it may write any."""
    decoders = own_modules(
        "sgn_serve.decoder_processes.fork_server", "sgn_serve.classify.packed_job", "sgn_serve.decoder_processes.job"
    )
    assert "sgn_serve.pictures.decoding" in decoders
    assert decoders <= own_modules("sgn_serve.classify.cage")
    decoders = own_modules("sgn_serve.decoder_processes.fork_server", "sgn_serve.decoder_processes.job")
    assert decoders <= own_modules("sgn_serve.decoder_processes.decoder")
