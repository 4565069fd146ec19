"""The requirements of a Bento, in the versions that were tested."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import bento_requirements
from deploy.bento_requirements import RequirementsError, pinned, serving_requirements
from tests.sgn_serve.server import ROOT


def test_a_pin_holds_where_its_marker_does(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text(
        "# a comment\nNumPy==2.4.6\ncolorama==0.4.6 ; sys_platform == 'win32'\nx_y==1 ; python_version >= '3'\n"
    )
    assert bento_requirements.tested_versions(path) == {"numpy": "2.4.6", "x-y": "1"}


def test_everything_that_pyproject_asks_for_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    pins = bento_requirements.tested_versions(ROOT / "constraints.txt")
    for item in map(Requirement, asked):
        if item.name != project["name"] and (item.marker is None or item.marker.evaluate()):
            assert pins[canonicalize_name(item.name)] in item.specifier, f"{item}: run make constraints"


def test_a_package_that_cannot_be_pinned_is_named() -> None:
    with pytest.raises(RequirementsError, match=r"numpy .* is installed, but constraints.txt says 0\.1; run make"):
        pinned([Requirement("numpy")], {"numpy": "0.1"})
    with pytest.raises(RequirementsError, match="no-such-package, which is not installed"):
        pinned([Requirement("no-such-package>=1")], {})


def test_what_another_platform_needs_is_left_out() -> None:
    required = [Requirement("numpy; sys_platform == 'plan9'")]
    assert pinned(required, {}) == []
    assert {"uvloop", "onnxruntime"} <= {item.name for item in serving_requirements(ROOT / "pyproject.toml", "cpu")}


def test_a_bento_has_one_build_of_onnx_runtime() -> None:
    for runtime, expected in (("cpu", "onnxruntime"), ("gpu", "onnxruntime-gpu")):
        names = [item.name for item in serving_requirements(ROOT / "pyproject.toml", runtime)]
        assert [name for name in names if name.startswith("onnxruntime")] == [expected]
