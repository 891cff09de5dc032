"""What `uws-server check` makes of a cluster's and a registry's answers, over real HTTP."""

from __future__ import annotations

import json
import socket
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from runners.kubernetes.examination import RIGHTS, examine
from runners.kubernetes.logins import KEY
from tests.unit.api_double import ApiDouble, Document, serving
from tests.unit.registry_double import PASSWORD, USER, serving_registry
from uws_server.findings import Finding, Grade
from uws_server.settings import Settings

pytestmark = pytest.mark.covers("4:check")

GOLDEN = Path(__file__).parents[1] / "golden"
HERE = socket.gethostname()  # by which, as far as settings know, pods might find this machine
NOTHING: tuple[int, Document] = (404, {"message": "not found"})


class Answers:
    """What the double answers: GETs by the last part of their path, reviews, and dry runs by kind."""

    def __init__(self) -> None:
        self.there: dict[str, tuple[int, Document]] = {
            "version": (200, {"gitVersion": "v1.34.1"}),
            "uws-jobs": (200, {"status": {"phase": "Active"}}),
        }
        self.forbidden: set[str] = set()  # what this account may not, such as "create pods"
        self.dry: dict[str, tuple[int, Document]] = {}

    def get(self, name: str, _what: str) -> tuple[int, Document]:
        """One GET."""
        return self.there.get(name, NOTHING)

    def take(self, _method: str, document: Document) -> tuple[int, Document]:
        """One POST."""
        if document["kind"] == "SelfSubjectAccessReview":
            asked = document["spec"]["resourceAttributes"]
            assert asked["namespace"] == "uws-jobs"
            allowed = f"{asked['verb']} {asked['resource']}" not in self.forbidden
            return 201, {"status": {"allowed": allowed}}
        return self.dry.get(document["kind"], (201, document))


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiDouble]:
    with serving(tmp_path) as (double, _):
        yield double


@pytest.fixture
def answers(api: ApiDouble) -> Answers:
    found = Answers()
    api.before, api.take = found.get, found.take
    return found


def examined(tmp_path: Path, **more: Any) -> list[Finding]:
    """What is said of a site with these settings beside the least."""
    said = {
        "kubeconfig": str(tmp_path / "kubeconfig"),
        "agent_image": "example/uws-agent:1",
        "agent_url": f"http://{HERE}:1",
        **more,
    }
    site = {"runner": "kubernetes", "kubernetes": said}
    return list(examine(Settings.model_validate({"sites": {"far": site}}), "far"))


def said(findings: list[Finding], grade: Grade) -> list[str]:
    """The sentences of a grade, but that of the agents' way."""
    return [one.sentence for one in findings if one.grade is grade and one.subject != "agents at far"]


def test_of_what_is_right_each_thing_is_said(answers: Answers, api: ApiDouble, tmp_path: Path) -> None:
    answers.there |= {
        "urgent": (200, {}),
        "gvisor": (200, {}),
        "kueue.x-k8s.io": (200, {"preferredVersion": {"groupVersion": "kueue.x-k8s.io/v1beta2"}}),
        "science": (200, {}),
        "pull": (200, secret({"registry.example": {"auth": b64encode(b"a:b").decode()}})),
    }
    found = examined(
        tmp_path, priority_class="urgent", runtime_class="gvisor", queue="science", pull_secret="pull"
    )
    assert said(found, Grade.BROKEN) == said(found, Grade.WEAK) == []
    sentences = said(found, Grade.GOOD)
    assert sentences[0].endswith(" answers, of Kubernetes v1.34.1.")
    assert sentences[1] == "The namespace uws-jobs is there."
    assert [words for words in sentences if "dry run" in words] == [
        "It takes a job, by a dry run.",
        "It takes a pod of a job, by a dry run.",
    ]
    assert sentences[-1] == "sites.far.kubernetes.pull_secret is 'pull', which is there."
    job = next(document for _, document in api.written if document["kind"] == "Job")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "science"
    pod = next(document for _, document in api.written if document["kind"] == "Pod")
    assert pod["spec"] == job["spec"]["template"]["spec"]
    assert pod["spec"]["priorityClassName"] == "urgent"


def secret(auths: object) -> Document:
    """A pull secret."""
    return {"data": {KEY: b64encode(json.dumps({"auths": auths}).encode()).decode()}}


def test_what_is_named_and_not_there_is_said_with_its_key_and_value(answers: Answers, tmp_path: Path) -> None:
    named = {"priority_class": "urgent", "runtime_class": "gvisor", "queue": "science", "pull_secret": "pull"}
    broken = said(examined(tmp_path, **named), Grade.BROKEN)
    for key in ("priority_class", "runtime_class", "pull_secret"):
        words = f"sites.far.kubernetes.{key} is {named[key]!r}, and there is none of this name"
        assert f"{words}: make it, or name another" in broken
    assert any("queue is 'science', and this cluster has no Kueue" in words for words in broken)
    assert len(broken) == 4
    answers.there["pull"] = 200, {"data": {KEY: "!"}}
    (malformed,) = said(examined(tmp_path, pull_secret="pull"), Grade.BROKEN)
    assert malformed == (
        "sites.far.kubernetes.pull_secret is 'pull': it holds no logins in the form of dockerconfigjson"
    )


def test_what_may_not_be_looked_at_is_not_said_to_be_there(answers: Answers, tmp_path: Path) -> None:
    no: tuple[int, Document] = (403, {"message": "forbidden"})
    answers.there |= dict.fromkeys(("uws-jobs", "urgent", "kueue.x-k8s.io", "pull"), no)
    answers.forbidden = {"create pods"}
    found = examined(tmp_path, priority_class="urgent", queue="science", pull_secret="pull")
    assert said(found, Grade.BROKEN) == []
    assert said(found, Grade.WEAK) == [
        "the namespace uws-jobs was not checked: no right to look",
        "whether it takes a pod of a job was not tried: no right to create one",
        "sites.far.kubernetes.priority_class, 'urgent', was not checked: no right to look",
        "sites.far.kubernetes.queue was not checked: no right to look",
        "sites.far.kubernetes.pull_secret, 'pull', was not checked: no right to look",
    ]


def test_rights_that_are_missing_are_listed_by_who_needs_them(answers: Answers, tmp_path: Path) -> None:
    answers.forbidden = {"create pods", "list pods", "watch pods", "create jobs", "delete jobs"}
    broken = said(examined(tmp_path), Grade.BROKEN)
    where, what = "in the namespace uws-jobs, as whoever", "jobs must: give it a Role with these verbs"
    assert broken == [
        f"this account may not create jobs {where} starts, stops and watches {what}",
        f"this account may not delete jobs, list pods and watch pods {where} watches {what}",
    ]


def test_rights_are_those_of_the_charts_roles() -> None:
    roles: dict[str, set[tuple[str, str, str]]] = {}
    for document in yaml.safe_load_all((GOLDEN / "chart" / "least.yaml").read_text()):
        if document and document["kind"] == "Role":
            roles[document["metadata"]["name"]] = {
                (group, resource, verb)
                for rule in document["rules"]
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }
    for role, word in (("uws-start", "starts"), ("uws-stop", "stops"), ("uws-watch", "watches")):
        assert {right for right, who in RIGHTS.items() if word in who} == roles[role]


WEBHOOK = 'admission webhook "images.example"'


@pytest.mark.parametrize(
    ("kind", "answer", "grade", "words"),
    [
        ("Job", (403, f"{WEBHOOK} denied the request: not signed"), Grade.BROKEN, "it takes no job: "),
        (
            "Job",
            (400, f"{WEBHOOK} does not support dry run"),
            Grade.WEAK,
            "whether it takes a job was not tr",
        ),
        ("Job", (403, "is forbidden: exceeded quota: jobs"), Grade.WEAK, "it has no room for a job just now"),
        ("Pod", (403, 'violates PodSecurity "restricted"'), Grade.BROKEN, "it takes no pod of a job: viol"),
        ("Pod", (500, "failed calling webhook"), Grade.BROKEN, "it takes no pod of a job: failed calling"),
    ],
)
def test_a_dry_runs_no_is_quoted(
    answers: Answers, tmp_path: Path, kind: str, answer: tuple[int, str], grade: Grade, words: str
) -> None:
    answers.dry[kind] = answer[0], {"message": answer[1]}
    (sentence,) = said(examined(tmp_path), grade)
    assert sentence.startswith(words)
    assert sentence.endswith(answer[1])


def test_a_webhook_that_changes_labels_is_met(answers: Answers, tmp_path: Path) -> None:
    answers.dry["Job"] = 201, {"metadata": {"labels": {"team": "stars"}}}
    (sentence,) = said(examined(tmp_path), Grade.BROKEN)
    assert sentence == "an admission webhook changes the labels of a job, by which it is followed"


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("version", (200, {"gitVersion": "v1.28.15+k3s1"}), "Kubernetes v1.28.15+k3s1 is too old"),
        ("version", (401, {"message": "Unauthorized"}), "does not let us in: Unauthorized"),
        ("uws-jobs", (401, {"message": "Unauthorized"}), "does not let us in: Unauthorized"),
        ("uws-jobs", NOTHING, "there is no namespace uws-jobs: make it, or name another in sites.far.kube"),
        ("uws-jobs", (200, {"status": {"phase": "Terminating"}}), "the namespace uws-jobs is being deleted"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_said_in_one_sentence(
    answers: Answers, tmp_path: Path, name: str, answer: tuple[int, Document], words: str
) -> None:
    answers.there[name] = answer
    (sentence,) = said(examined(tmp_path), Grade.BROKEN)
    assert words in sentence


def test_an_api_server_that_is_not_there_is_named_with_its_settings(tmp_path: Path) -> None:
    with serving(tmp_path):
        pass
    (sentence,) = said(examined(tmp_path), Grade.BROKEN)
    assert "the API server does not answer" in sentence
    assert "Connection refused" in sentence
    assert "sites.far.kubernetes.kubeconfig and .context: http://127.0.0.1:" in sentence


def test_a_kubeconfig_that_is_not_there_is_said(tmp_path: Path) -> None:
    (sentence,) = said(examined(tmp_path), Grade.BROKEN)
    assert sentence.startswith("sites.far.kubernetes: no way into the cluster: ")


def test_a_pod_without_an_account_says_where_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    (sentence,) = said(examined(tmp_path, kubeconfig=None), Grade.WEAK)
    assert sentence == "not asked, as this pod has no account there: run this in the pod of a watcher"


def test_where_agents_look_for_the_server_is_tried(tmp_path: Path) -> None:
    with closing(socket.create_server((HERE, 0))) as listening:
        url = f"http://{HERE}:{listening.getsockname()[1]}"
        found = examined(tmp_path, agent_url=url)[-1]
        assert (found.subject, found.grade) == ("agents at far", Grade.GOOD)
        assert found.sentence == f"Somebody listens at {url}, where they look for this server."
    found = examined(tmp_path, agent_url=url)[-1]
    assert (found.subject, found.grade) == ("agents at far", Grade.WEAK)
    assert found.sentence.startswith(f"from here nobody was reached at {url}, ")
    assert found.sentence.endswith("mend sites.far.kubernetes.agent_url")
    odd = examined(tmp_path, agent_url="uws.example")[-1]
    assert odd.grade is Grade.BROKEN
    assert odd.sentence.startswith("uws.example is no address at a port")


# ---- registries --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", ["", "basic", "bearer"])
@pytest.mark.parametrize("password", [PASSWORD, "guessed", ""])
def test_a_registry_is_asked_with_the_login(
    answers: Answers, tmp_path: Path, auth: str, password: str
) -> None:
    login = {"registry.example": {"username": USER, "password": password}}
    answers.there["pull"] = 200, secret(login if password else {})
    with serving_registry() as registry:
        registry.auth = auth
        at = {"registry.example": {"url": f"http://{registry.address}"}}
        found = examined(tmp_path, registries=at, pull_secret="pull")
    (finding,) = [one for one in found if one.subject == "registry registry.example"]
    if not auth or password == PASSWORD:
        assert (finding.grade, finding.sentence) == (Grade.GOOD, "It answers, and lets us in.")
    elif password:
        assert finding.grade is Grade.BROKEN
        assert "registry.example answers 401" in finding.sentence
        assert finding.sentence.endswith(
            "sites.far.kubernetes.registries and sites.far.kubernetes.pull_secret"
        )
        assert password not in finding.sentence
    else:
        assert finding.grade is Grade.WEAK
        assert "wants a login, and sites.far.kubernetes.pull_secret has none" in finding.sentence


def test_a_registry_that_is_none_or_away_is_said(answers: Answers, tmp_path: Path) -> None:
    with serving_registry() as registry:
        registry.instead = lambda _path: (503, {}, b"")
        at = {"registry.example": {"url": f"http://{registry.address}"}}
        found = examined(tmp_path, registries=at)
        assert any("registry.example answers 503" in words for words in said(found, Grade.BROKEN))
        registry.instead = lambda _path: (404, {}, b"")
        found = examined(tmp_path, registries=at)
        assert any("registry.example answers 404" in words for words in said(found, Grade.BROKEN))
    found = examined(tmp_path, registries=at)
    assert any("does not answer: " in words for words in said(found, Grade.BROKEN))


def test_a_login_that_may_not_be_read_leaves_the_registry_unchecked(answers: Answers, tmp_path: Path) -> None:
    answers.there["pull"] = 403, {"message": "forbidden"}
    with serving_registry() as registry:
        registry.auth = "basic"
        at = {"registry.example": {"url": f"http://{registry.address}"}}
        found = examined(tmp_path, registries=at, pull_secret="pull")
    (finding,) = [one for one in found if one.subject == "registry registry.example"]
    assert (finding.grade, finding.sentence) == (
        Grade.WEAK,
        "not checked: the pull secret pull cannot be read: forbidden",
    )
