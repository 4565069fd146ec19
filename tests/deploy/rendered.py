"""Render a Kustomize folder to its manifests, with kubectl or kustomize, or without them."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

Manifest = dict[str, Any]


def kustomize_command() -> list[str] | None:
    """Return the command of the Kustomize program that is installed, or None."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            return command
    return None


def render_with(command: list[str], folder: Path) -> list[Manifest]:
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def render(folder: Path) -> list[Manifest]:
    """Render a folder as Kustomize does, with what this project needs: resources, image tags and JSON patches.

    Raises:
        KeyError, ValueError: The kustomization holds anything else.
        jsonpatch.JsonPatchException: A patch does not apply.
    """
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert kustomization.pop("apiVersion") == "kustomize.config.k8s.io/v1beta1"
    assert kustomization.pop("kind") == "Kustomization"
    manifests: list[Manifest] = []
    for name in kustomization.pop("resources"):
        path = folder / name
        manifests += render(path) if path.is_dir() else [yaml.safe_load(path.read_text())]
    for patch in kustomization.pop("patches", []):
        manifests = _patched(manifests, folder / patch.pop("path"), patch.pop("target"))
        _nothing_left(patch)
    for image in kustomization.pop("images", []):
        _tag(manifests, image.pop("name"), image.pop("newTag"))
        _nothing_left(image)
    _nothing_left(kustomization)
    return manifests


def _patched(manifests: list[Manifest], patch: Path, target: dict[str, str]) -> list[Manifest]:
    (wanted,) = [
        number
        for number, manifest in enumerate(manifests)
        if (manifest["kind"], manifest["metadata"]["name"]) == (target["kind"], target["name"])
    ]
    changed = jsonpatch.apply_patch(manifests[wanted], yaml.safe_load(patch.read_text()))
    return [*manifests[:wanted], changed, *manifests[wanted + 1 :]]


def _tag(manifests: list[Manifest], name: str, tag: str) -> None:
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            for container in manifest["spec"]["template"]["spec"]["containers"]:
                if container["image"].split(":")[0] == name:
                    container["image"] = f"{name}:{tag}"


def _nothing_left(mapping: dict[str, Any]) -> None:
    if mapping:
        raise ValueError(f"the tests cannot render {', '.join(mapping)}: teach them, or run kustomize")
