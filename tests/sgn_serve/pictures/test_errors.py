import subprocess
import sys

import pytest

from sgn_serve.http.errors import STATUS
from sgn_serve.pictures import errors
from sgn_serve.pictures.errors import PictureRefused, TooManyWaiting

KINDS = PictureRefused.__subclasses__()
SITE = set(
    subprocess.run(
        [sys.executable, "-c", "import sys; print(*{name.split('.')[0] for name in sys.modules})"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
)
"""Modules that any Python process here loads at its start, for example by .pth files."""


def test_every_refusal_has_a_code_of_its_own_that_the_service_answers():
    codes = {kind.code for kind in KINDS}
    assert len(codes) == len(KINDS) == 7
    assert codes <= STATUS.keys()


def test_whoever_reads_pictures_catches_one_class():
    for kind in KINDS:
        refused = kind(3) if kind is TooManyWaiting else kind("why")
        with pytest.raises(errors.PictureRefused) as raised:
            raise refused
        assert raised.value.retry_after == (3 if kind is TooManyWaiting else None)
        assert "\n" not in str(refused)


def test_reading_pictures_imports_nothing_else_of_the_service(project_root):
    """Training and export read pictures with it, where the rest of the service may not be installed."""
    program = """
import sys
import importlib, pkgutil, sgn_serve.pictures
for module in pkgutil.iter_modules(sgn_serve.pictures.__path__):
    importlib.import_module("sgn_serve.pictures." + module.name)
print(*sorted({name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)))
print(*sorted(name for name in sys.modules if name.startswith("sgn_serve.") and ".pictures" not in name))
"""
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=project_root, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    libraries = {name for name in said[0].split() if not name.startswith(("_", "cython"))}
    assert libraries <= {"PIL", "numpy", "pillow_heif", "sgn_serve"} | SITE
    own = "sgn_serve.common sgn_serve.common.error_text sgn_serve.common.interrupts"
    assert said[1] == own, "none of which imports anything else of it"
