"""Helm, built from its Go module and kept, and our chart as it renders it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.layout import ROOT
from tests.cluster.node import Failed, run
from tests.cluster.programs import CACHE, find_go, locked, say
from tests.waiting import PATIENCE

CHART = ROOT / "deploy" / "chart"
VALUES = Path(__file__).parent / "values"
_MODULE = "helm.sh/helm/v3/cmd/helm@v3.22.0"
_BUILD_SECONDS = 900
_CLUSTER = ("--kube-version", "1.34.4")
"""What a Helm that was built so takes for the cluster's version where it asks none."""


def program() -> Path:
    """The program; built once for this user, in some three minutes."""
    found = CACHE / f"helm-{_MODULE.rpartition('@')[2]}" / "helm"
    with locked(found.parent / "lock"):
        if not found.exists():
            say("building Helm from its Go module")
            build = found.parent / "build"
            environment = {
                **os.environ,
                "CGO_ENABLED": "0",
                "GOBIN": str(build),
                "GOFLAGS": "-p=2 -trimpath",
                "GOTOOLCHAIN": "local",
            }
            subprocess.run(
                ["nice", "-n", "10", str(find_go()), "install", "-ldflags", "-s -w", _MODULE],
                env=environment,
                stdin=subprocess.DEVNULL,
                check=True,
                timeout=_BUILD_SECONDS,
            )
            (build / "helm").rename(found)  # whole, or not there
    return found


def helm(*words: str | Path, seconds: float = PATIENCE) -> str:
    """What a helm command prints; raises `Failed` with what it complained of."""
    return run(program(), *words, seconds=seconds)


def template(values: str, *words: str) -> str:
    """The chart's objects with the values of one file, as text."""
    return helm(
        "template", "uws", CHART, "--namespace", "uws", "--values", VALUES / values, *_CLUSTER, *words
    )


def lint(values: str) -> str:
    """What Helm finds about the chart with the values of one file."""
    return helm("lint", "--strict", CHART, "--values", VALUES / values, *_CLUSTER)


def objects(text: str) -> list[dict[str, Any]]:
    """The objects of a rendering."""
    return [document for document in yaml.safe_load_all(text) if document]


def only(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The one object of that kind and name."""
    (found,) = [one for one in documents if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pod_specs(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and pod of everything that makes pods."""
    for one in documents:
        if one["kind"] in {"Deployment", "StatefulSet"}:
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def refusal(values: str, *words: str) -> str:
    """Why the chart does not render; raises `AssertionError` when it does."""
    try:
        text = template(values, *words)
    except Failed as error:
        return str(error)
    raise AssertionError(text)
