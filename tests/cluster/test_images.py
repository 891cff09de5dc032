"""The images of ours that tests give the cluster: what the manifest of a job expects is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.images import agent_image, notebook_image
from tests.cluster.layout import ROOT
from tests.light_curves import write_light_curve

SHUT = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def shut_off(namespace: str, name: str, container: dict[str, Any], **pod: Any) -> dict[str, Any]:
    """A Job whose containers are as shut off as those of our jobs."""
    spec = {
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container | {"name": "main", "securityContext": SHUT}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"backoffLimit": 0, "template": {"spec": spec | pod}},
    }


def log_of(cluster: Cluster, document: dict[str, Any]) -> str:
    """Run a Job; what it said, once it is complete."""
    cluster.create(document)
    namespace, name = document["metadata"]["namespace"], document["metadata"]["name"]
    ended = cluster.finished(namespace, name)
    log = cluster.kubectl("-n", namespace, "logs", f"job/{name}", "--all-containers")
    assert any(c["type"] == "Complete" for c in ended["status"]["conditions"]), log
    return log


def test_the_wrapper_comes_from_the_agent_s_image_into_any_other(cluster: Cluster, namespace: str) -> None:
    cluster.import_image(agent_image())
    control = {"name": "control", "mountPath": "/control"}
    install = "/usr/local/bin/uws-wrapper install /control && touch /control/go"
    first = {
        "name": "agent",
        "image": "localhost/agent:1",
        "command": ["sh", "-c", install],
        "securityContext": SHUT,
        "volumeMounts": [control],
    }
    run = ("/control/uws-wrapper", "run", "/control", "/tmp", "1000", "20", "10", "--")
    main = {
        "image": "localhost/busybox:1",
        "command": [*run, "sh", "-c", 'test "$(id -u)" = 10001'],
        "volumeMounts": [control | {"readOnly": True}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    volumes = [{"name": "control", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    document = shut_off(namespace, "wrapped", main, initContainers=[first], volumes=volumes)
    log_of(cluster, document)


def test_the_notebook_image_runs_the_shipped_notebook(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    cluster.import_image(notebook_image())
    name = write_light_curve(tmp_path)
    (tmp_path / "parameters.json").write_text(json.dumps({"light_curve": name}))
    files = [
        tmp_path / name,
        tmp_path / "parameters.json",
        ROOT / "job_templates" / "data" / "lightcurve.ipynb",
    ]
    cluster.kubectl(
        "-n", namespace, "create", "configmap", "inputs", *(f"--from-file={path}" for path in files)
    )
    run = "python3 -m runners.notebook /inputs/lightcurve.ipynb --parameters /inputs/parameters.json"
    main = {
        "image": "localhost/notebook:1",
        "command": ["sh", "-c", f"{run} --outputs /tmp >/tmp/log && cat /tmp/result.json"],
        "workingDir": "/tmp",
        "env": [
            {"name": key, "value": value}
            for key, value in {"HOME": "/tmp", "UWS_INPUTS": "/inputs", "UWS_OUTPUTS": "/tmp"}.items()
        ],
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "inputs", "mountPath": "/inputs"},
        ],
    }
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "inputs", "configMap": {"name": "inputs"}}]
    log = log_of(cluster, shut_off(namespace, "notebook", main, volumes=volumes))
    result = json.loads(log[log.index("{") :])
    assert result["period"] == pytest.approx(0.93697, abs=2e-5)
