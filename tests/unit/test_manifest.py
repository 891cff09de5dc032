"""Run spec → Kubernetes Job, held against golden files; `UPDATE_GOLDEN=1` writes them anew."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.kubernetes import manifest
from runners.kubernetes.manifest import PodSettings
from runners.kubernetes.reference import Image
from uws_server.domain.runspec import RunSpec

RUN_SPECS = Path(__file__).parents[1] / "golden" / "runspec"
GOLDEN = Path(__file__).parents[1] / "golden" / "manifest"
PLAIN = PodSettings(
    "uws-jobs", "archive", agent_image="example/uws-agent:1", notebook_image="example/uws-notebook:1"
)
FULL = replace(
    PLAIN,
    queue="gpu-users",
    priority_class="batch",
    runtime_class="gvisor",
    pull_secret="images",
    node_selector={"disk": "ssd"},
    tolerations=({"key": "gpu", "operator": "Exists"},),
)
READ = Image(f"registry.example/stars@sha256:{'0' * 64}", ("/bin/stars", "$(HOME)", "{inputs}"))
"""What an image was found to run: words in which nothing is replaced."""
URL, TOKEN = "https://uws.example/agent/v1", "a-token"
CASES = {
    "notebook": ("lightcurve", PLAIN),
    "container": ("container", PLAIN),
    "container-own-command": ("container-entry-point", PLAIN),
    "script": ("script-shell", PLAIN),
    "everything-a-site-can-say": ("container", FULL),
}
pytestmark = pytest.mark.covers("4:manifest")


def spec(name: str) -> RunSpec:
    return RunSpec.from_json((RUN_SPECS / f"{name}.json").read_bytes())


def made(name: str, settings: PodSettings) -> dict[str, Any]:
    of = spec(name)
    asked = None if of.command or of.kind != "container" else READ
    return manifest.job(of, settings, URL, TOKEN, asked)


@pytest.mark.parametrize("case", CASES)
def test_manifests_are_the_golden_ones(case: str) -> None:
    text = json.dumps(made(*CASES[case]), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    file = GOLDEN / f"{case}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def test_every_golden_file_belongs_to_a_case() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_the_token_is_the_agents_alone(case: str) -> None:
    document = made(*CASES[case])
    agent = document["spec"]["template"]["spec"]["initContainers"][0]
    assert TOKEN in json.dumps(agent)
    del document["spec"]["template"]["spec"]["initContainers"]
    assert TOKEN not in json.dumps(document)


def test_nothing_that_main_mounts_holds_what_is_the_agents() -> None:
    pod = made("container", PLAIN)["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert "agent" not in mounts
    assert mounts["control"]["readOnly"]
    assert mounts["inputs"]["readOnly"]
    assert not pod["automountServiceAccountToken"]


def test_a_job_without_an_execution_duration_has_no_deadline() -> None:
    endless = replace(spec("container"), limits=replace(spec("container").limits, duration=0))
    pod = manifest.job(endless, PLAIN, URL, TOKEN)["spec"]["template"]["spec"]
    assert "activeDeadlineSeconds" not in pod


def test_limits_are_read_back_from_the_manifest() -> None:
    of = spec("lightcurve")
    main = made("lightcurve", PLAIN)["spec"]["template"]["spec"]["containers"][0]
    assert manifest.limits(main) == (of.resources.memory_bytes, of.limits.duration)
    assert manifest.limits({"image": "changed"}) == (0, 0)


def test_no_image_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="names an image"):
        manifest.job(spec("lightcurve"), replace(PLAIN, notebook_image=""), URL, TOKEN)


@given(st.text("0123456789abcdefghjkmnpqrstvwxyz", min_size=26, max_size=26), st.integers(1, 999_999))
def test_a_jobs_name_is_a_label_and_says_which_attempt(job_id: str, attempt: int) -> None:
    name = manifest.name(job_id, attempt)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 52  # room for a pod's suffix within 63
    assert manifest.attempt_of(name) == (job_id, attempt)


@pytest.mark.parametrize("name", ["", "uws-a", "uws-a-b", "other-a-1", "uws-a-1-x", "uws-A-1"])
def test_other_names_are_no_attempts(name: str) -> None:
    assert manifest.attempt_of(name) is None


def test_the_kubelet_replaces_nothing_in_a_users_words() -> None:
    words = ("echo", "$(UWS_JOB_ID)", "$$", "$HOME")
    of = replace(spec("container"), command=words, environment={"PRICE": "5$$ $(HOME)"})
    main = manifest.job(of, PLAIN, URL, TOKEN)["spec"]["template"]["spec"]["containers"][0]
    assert main["command"][-4:] == ["echo", "$$(UWS_JOB_ID)", "$$$$", "$$HOME"]
    assert {"name": "PRICE", "value": "5$$$$ $$(HOME)"} in main["env"]
