"""Records what a real cluster says of our attempts, for the golden inputs of `tests/unit/test_diagnose.py`.

    python -m tests.kubernetes.record DIRECTORY     # beside a run of the tests here; ends with Ctrl-C

makes a file for each job: its Jobs, pods and refusals as they were sent, in order, without what nobody reads.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runners.base import Unreachable
from runners.kubernetes import manifest
from runners.kubernetes.cluster import ApiRefusal, Cluster
from tests.cluster import lifecycle
from tests.cluster.layout import ROOT

_META = ("name", "uid", "creationTimestamp", "deletionTimestamp", "resourceVersion", "annotations", "labels")
_SPEC = ("nodeName", "suspend", "activeDeadlineSeconds")
_STATUS = ("phase", "reason", "message", "active", "failed", "succeeded", "terminating")
_CONDITION = ("type", "status", "reason", "message")
_CONTAINER = ("name", "state", "imageID", "restartCount")


def _some(document: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: document[key] for key in keys if key in document}


def trimmed(document: Mapping[str, Any]) -> dict[str, Any]:
    """A Job, pod or event without what nobody reads."""
    meta = _some(document["metadata"], _META)
    if "involvedObject" in document:
        return {"metadata": meta, **_some(document, ("involvedObject", "message", "reason"))}
    meta["labels"] = {key: value for key, value in meta["labels"].items() if "job-name" not in key}
    spec, status = document["spec"], document.get("status", {})
    kept = _some(spec, _SPEC)
    if "template" in spec:
        (main,) = spec["template"]["spec"]["containers"]
        main = {**_some(main, ("name", "image", "resources")), "command": main.get("command", [])[:7]}
        kept["template"] = {"spec": {"containers": [main]}}
    return {
        "metadata": meta,
        "spec": kept,
        "status": {
            **_some(status, _STATUS),
            "conditions": [_some(one, _CONDITION) for one in status.get("conditions", [])],
            **{
                kind: [_some(one, _CONTAINER) for one in status[kind]]
                for kind in ("initContainerStatuses", "containerStatuses")
                if kind in status
            },
        },
    }


def follow(api: Cluster, path: str, directory: Path, query: dict[str, str]) -> None:
    """Write down what happens to one kind of object, for an hour at a time."""
    while True:
        try:
            version = api.call("GET", path, limit="1", **query)["metadata"]["resourceVersion"]
            for kind, document in api.watch(path, version, 3600, **query):
                if kind == "BOOKMARK":
                    continue
                named = (document.get("involvedObject") or document["metadata"])["name"]
                with (directory / f"{named[:30]}.jsonl").open("a") as file:
                    file.write(json.dumps([kind, trimmed(document)]) + "\n")
        except (ApiRefusal, Unreachable) as error:
            print(error)


def main(directory: Path) -> None:
    """Follow everything of the checkout's cluster."""
    found = lifecycle.ours(str(ROOT))
    assert found is not None, "no cluster of this checkout is up"
    api = Cluster(str(found.kubeconfig))
    ours = {"labelSelector": f"{manifest.MANAGED_BY_LABEL}={manifest.MANAGED_BY}"}
    refusals = {"fieldSelector": "reason=FailedCreate,involvedObject.kind=Job"}
    directory.mkdir(parents=True, exist_ok=True)
    kinds = (("/apis/batch/v1/jobs", ours), ("/api/v1/pods", ours), ("/api/v1/events", refusals))
    for path, query in kinds:
        threading.Thread(target=follow, args=(api, path, directory, query)).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
