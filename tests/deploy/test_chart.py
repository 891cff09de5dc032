"""The Helm chart: what it renders and refuses, and what an API server makes of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from runners.base import State
from runners.kubernetes.cluster import ApiRefusal
from runners.kubernetes.cluster import Cluster as Api
from runners.kubernetes.manifest import PodSettings
from runners.kubernetes.runner import KubernetesRunner
from tests.cluster.cluster import Cluster
from tests.deploy.helm import CHART, VALUES, lint, objects, only, pod_specs, refusal, template
from tests.deploy.release import COMPONENTS, Release, released
from tests.waiting import until
from uws_server import __version__
from uws_server.config import load
from uws_server.domain.runspec import RunSpec

GOLDEN = Path(__file__).parents[1] / "golden"
EVERY = sorted(path.name for path in VALUES.glob("*.yaml"))
pytestmark = pytest.mark.timeout(1200)  # the first run builds Helm


# ---- what it renders ---------------------------------------------------------------------------------------


@pytest.mark.covers("4:deploy-chart")
@pytest.mark.parametrize("values", EVERY)
def test_helm_finds_nothing_wrong(values: str) -> None:
    assert "0 chart(s) failed" in lint(values)


@pytest.mark.covers("4:deploy-chart")
def test_the_least_values_give_the_golden_objects() -> None:
    # Passwords and secrets are made at each rendering.
    text = re.sub(r"(requirepass |password: |//:)\w{48}", r"\1RANDOM", template("least.yaml"))
    text = re.sub(r"(secret: )\w{86}==", r"\1RANDOM", text)
    file = GOLDEN / "chart" / "least.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.covers("4:deploy-chart")
@pytest.mark.parametrize("version", ["1.29", "1.34", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("values", EVERY)
def test_every_object_is_one_by_kubernetes_own_schemas(values: str, version: str) -> None:
    documents = objects(template(values))
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)
    wrong = only(documents, "Deployment", "uws-web")
    wrong["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


@pytest.mark.covers("4:deploy-chart")
@pytest.mark.parametrize("values", EVERY)
def test_the_server_takes_the_settings(values: str, tmp_path: Path) -> None:
    documents = objects(template(values))
    file = tmp_path / "uws.yaml"
    file.write_text(only(documents, "ConfigMap", "uws-settings")["data"]["uws.yaml"])
    settings = load(file, {"UWS_REDIS__URL": "redis://redis"})
    site = settings.sites["cluster"]
    service = only(documents, "Service", "uws-web")
    assert settings.pods_url(site) == "http://uws-web.uws.svc"
    assert service["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": "http"}]
    assert settings.web.port == 8080
    assert settings.redis.durable
    roles = {one["metadata"]["namespace"] for one in documents if one["kind"] == "Role"}
    assert roles == {site.kubernetes.namespace}


@pytest.mark.covers("4:deploy-chart")
def test_every_value_is_in_what_the_server_is_given(tmp_path: Path) -> None:
    documents = objects(template("everything.yaml"))
    file = tmp_path / "uws.yaml"
    file.write_text(only(documents, "ConfigMap", "uws-settings")["data"]["uws.yaml"])
    settings = load(file, {"UWS_REDIS__URL": "redis://redis"})
    assert settings.web.base_url == "https://archive.example/uws"
    assert settings.objects.public_endpoint == "https://data.archive.example"
    assert settings.objects.credentials_file == Path("/run/uws/objects/credentials")
    assert settings.limits.upload == 2 * 1024**3
    site = settings.sites["cluster"]
    assert (site.jobs, site.kubernetes.gpu, site.kubernetes.pull_secret) == (200, 4, "registry")
    assert site.kubernetes.agent_image == "registry.example/team/uws-agent:2026-11"
    assert site.kubernetes.notebook_image == "registry.example/team/uws-notebook:2026-11"
    made = {one["metadata"]["name"] for one in documents if one["kind"] in {"Namespace", "Secret"}}
    assert made == {"uws-redis"}


@pytest.mark.covers("4:deploy-chart")
def test_another_redis_is_used_alone() -> None:
    documents = objects(template("another-redis.yaml"))
    assert not [one for one in documents if one["kind"] in {"StatefulSet", "Secret"}]
    for _, pod in pod_specs(documents):
        env = {one["name"]: one for one in pod["containers"][0]["env"]}
        assert env["UWS_REDIS__URL"]["valueFrom"]["secretKeyRef"] == {"name": "redis-url", "key": "url"}


@pytest.mark.covers("4:deploy-credentials")
def test_each_process_is_given_the_credentials_that_it_needs_and_no_other() -> None:
    pods = dict(pod_specs(objects(template("everything.yaml"))))
    with_account = {name for name, pod in pods.items() if pod["automountServiceAccountToken"]}
    assert with_account == {"uws-start", "uws-stop", "uws-watch"}
    with_key = {name for name, pod in pods.items() if "s3" in secrets_of(pod)}
    assert with_key == {"uws-web", "uws-watch", "uws-reconcile"}
    with_signing = {name for name, pod in pods.items() if "signing" in secrets_of(pod)}
    assert with_signing == {"uws-web", "uws-start"}
    assert secrets_of(pods["uws-redis"]) == {"uws-redis"}


@pytest.mark.covers("4:deploy-values")
def test_authorities_of_registries_are_where_the_settings_say_for_who_asks(tmp_path: Path) -> None:
    documents = objects(template("everything.yaml"))
    file = tmp_path / "uws.yaml"
    file.write_text(only(documents, "ConfigMap", "uws-settings")["data"]["uws.yaml"])
    registries = load(file, {"UWS_REDIS__URL": "redis://redis"}).sites["cluster"].kubernetes.registries
    theirs = registries.pop("public.example").ca_file
    assert theirs == Path("/etc/ssl/certs/ca-certificates.crt")
    (ours,) = {one.ca_file for one in registries.values()}
    assert ours is not None
    assert (len(registries), registries["registry.example"].url) == (2, "https://10.1.2.3:5000")
    mounted = {}
    for name, pod in pod_specs(documents):
        volumes = {one["configMap"]["name"]: one["name"] for one in pod["volumes"] if "configMap" in one}
        places = {one["name"]: one["mountPath"] for one in pod["containers"][0].get("volumeMounts", [])}
        if "authorities" in volumes:
            mounted[name] = f"{places[volumes['authorities']]}/ca.crt"
    assert mounted == dict.fromkeys(("uws-start", "uws-watch"), str(ours))
    least = only(objects(template("least.yaml")), "ConfigMap", "uws-settings")["data"]["uws.yaml"]
    assert "ca_file" not in least


@pytest.mark.covers("4:probes")
def test_every_process_is_probed_at_its_operators_port(tmp_path: Path) -> None:
    documents = objects(template("least.yaml"))
    file = tmp_path / "uws.yaml"
    file.write_text(only(documents, "ConfigMap", "uws-settings")["data"]["uws.yaml"])
    operator = load(file, {"UWS_REDIS__URL": "redis://redis"}).operator
    pods = dict(pod_specs(documents))
    del pods["uws-redis"]
    assert set(pods) == {f"uws-{component}" for component in COMPONENTS}
    for name, pod in pods.items():
        (container,) = pod["containers"]
        assert {"name": "operator", "containerPort": operator.port} in container["ports"]
        ready = "/readyz/redis" if name == "uws-web" else "/readyz"
        assert container["readinessProbe"]["httpGet"] == {"path": ready, "port": "operator"}
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "operator"}


@pytest.mark.covers("4:metrics")
def test_nobody_reads_metrics_but_who_is_named() -> None:
    def policies(values: str) -> list[dict[str, Any]]:
        found = [one for one in objects(template(values)) if one["kind"] == "NetworkPolicy"]
        return [one["spec"] for one in found if "9090" in json.dumps(one)]

    assert policies("least.yaml") == []
    (policy,) = policies("everything.yaml")
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    assert policy["ingress"] == [
        {"from": [{"namespaceSelector": monitoring}], "ports": [{"protocol": "TCP", "port": 9090}]}
    ]
    services = [one for one in objects(template("everything.yaml")) if one["kind"] == "Service"]
    reached = {port["targetPort"] for one in services for port in one["spec"]["ports"]}
    assert reached == {"http", "redis"}


def secrets_of(pod: Mapping[str, Any]) -> set[str]:
    """The Secrets whose content gets into the containers of a pod."""
    mounted = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    env = [one for container in pod["containers"] for one in container.get("env", [])]
    return mounted | {one["valueFrom"]["secretKeyRef"]["name"] for one in env if "valueFrom" in one}


def test_the_chart_has_the_version_of_the_code() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


# ---- what it refuses ---------------------------------------------------------------------------------------


@pytest.mark.covers("4:deploy-values")
def test_every_value_is_described_by_a_sentence() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    described = dict(keys(schema))
    assert {path for path in described if path} == set(paths(values))
    assert [path for path, text in described.items() if not re.fullmatch(r"[A-Z].*\.", text, re.DOTALL)] == []


def keys(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    yield path, schema["description"]
    for name, inner in schema.get("properties", {}).items():
        yield from keys(inner, f"{path}.{name}".lstrip("."))


def paths(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        here = f"{path}.{name}".lstrip(".")
        yield here
        if isinstance(value, dict) and here.rpartition(".")[2] not in {"requests", "limits"}:
            yield from paths(value, here)


@pytest.mark.covers("4:deploy-values")
def test_a_misspelt_key_is_refused_wherever_it_stands() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    places = [path for path in closed(schema) if path]
    assert len(places) > 10
    wrong = [word for path in ["", *places] for word in ("--set", f"{path}.mispelt=1".lstrip("."))]
    said = refusal("least.yaml", *wrong)
    refused = set(re.findall(r"at '(/?[^']*)': additional properties 'mispelt' not allowed", said))
    assert refused == {"", *("/" + path.replace(".", "/") for path in places)}


def closed(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Where no further key may stand."""
    if schema.get("additionalProperties") is False:
        yield path
        for name, inner in schema["properties"].items():
            yield from closed(inner, f"{path}.{name}".lstrip("."))


@pytest.mark.covers("4:deploy-values")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("objects.url=", "objects.url is empty"),
        ("objects.url=https://results", "/objects/url"),
        ("auth.anonymous=", "whoever reaches the web Service may run code"),
        ("auth.anonymous=everywhere", "/auth/anonymous"),
        ("jobs.egress.internet=false", "lets no job reach the object store"),
        ("jobs.namespace=uws", "jobs would run beside the server's Secrets"),
        ("ingress.enabled=true", "ingress.host is empty"),
        ("settings.operator.port=1", "settings.operator"),
        ("settings.sites.local.runner=local", "settings.sites.local"),
        ("web.replicas=0", "/web/replicas"),
    ],
)
def test_what_cannot_work_is_refused_in_words(words: str, sentence: str) -> None:
    assert sentence in refusal("least.yaml", "--set", words)


# ---- in a cluster ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Iterator[Release]:
    with released(cluster) as release:
        yield release


@pytest.mark.covers("4:deploy-chart")
def test_the_api_server_takes_every_object_in_a_dry_run(cluster: Cluster, namespace: str) -> None:
    with cluster.namespace() as jobs:
        for values in EVERY:
            documents = objects(template(values, "--set", "jobs.createNamespace=false"))
            for document in documents:
                meta = document["metadata"]
                meta["namespace"] = jobs if "namespace" in meta else namespace
            everything = {"apiVersion": "v1", "kind": "List", "items": documents}
            done = cluster.kubectl(
                "create", "--dry-run=server", "--validate=strict", "-f", "-", text=json.dumps(everything)
            )
            assert len(done.splitlines()) == len(documents)


@pytest.mark.covers("4:deploy-chart")
def test_a_namespace_that_enforces_the_restricted_standard_takes_every_pod(release: Release) -> None:
    def pods() -> dict[str, int]:
        found = release.cluster.get("-n", release.namespace, "pods")["items"]
        names = [one["metadata"]["labels"]["app.kubernetes.io/component"] for one in found]
        return {name: names.count(name) for name in names}

    wanted = {"web": 2, "start": 1, "stop": 1, "watch": 2, "reconcile": 1, "redis": 1}
    until(lambda: pods() == wanted, "all pods are accepted")


@pytest.mark.covers("4:deploy-jobs-namespace")
def test_the_jobs_namespace_takes_no_pod_that_is_not_restricted(release: Release) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "loose", "namespace": release.jobs},
        "spec": {"containers": [{"name": "main", "image": "localhost/busybox:1"}]},
    }
    with pytest.raises(Exception, match='violates PodSecurity "restricted'):
        release.cluster.create(pod)


@pytest.mark.covers("4:deploy-credentials")
def test_secrets_that_were_made_outlive_upgrades_and_the_signing_one_an_uninstall(cluster: Cluster) -> None:
    with released(cluster) as release:
        before = release.secret("uws-signing"), release.secret("uws-redis")
        assert len(before[0]["secret"]) > 40
        release.upgrade()
        assert (release.secret("uws-signing"), release.secret("uws-redis")) == before
        release.uninstall()
        assert release.secret("uws-signing") == before[0]
        assert not cluster.answers("-n", release.namespace, "get", "secret", "uws-redis")
        assert cluster.answers("get", "namespace", release.jobs)
        release.install()
        assert release.secret("uws-signing") == before[0]


MAY: dict[str, dict[str, set[str]]] = {
    "web": {},
    "start": {"jobs.batch": {"create", "get"}},
    "stop": {"jobs.batch": {"create", "patch"}},
    "watch": {
        "jobs.batch": {"create", "delete", "get", "list", "patch", "watch"},
        "pods": {"list", "watch"},
        "events": {"list", "watch"},
    },
    "reconcile": {},
}


@pytest.mark.covers("4:deploy-rbac")
@pytest.mark.parametrize("component", COMPONENTS)
def test_an_account_may_do_what_its_process_does_in_the_jobs_namespace_and_nothing_elsewhere(
    release: Release, component: str
) -> None:
    nobody = f"system:serviceaccount:{release.namespace}:default"
    account = f"system:serviceaccount:{release.namespace}:uws-{component}"
    for namespace in (release.jobs, release.namespace, "kube-system", "default"):
        given = rights(release.cluster, account, namespace)
        basic = rights(release.cluster, nobody, namespace)
        assert set(basic) <= set(given)
        more = {what: set(verbs) for what, verbs in given.items() if basic.get(what) != verbs}
        assert more == (MAY[component] if namespace == release.jobs else {})


@pytest.mark.covers("4:deploy-rbac", "4:any-image")
@pytest.mark.parametrize(
    ("more", "may"),
    [
        ([], [["registry"]]),
        (["--set=jobs.pullSecret="], []),
        (["--set=settings.sites.cluster.kubernetes.registries=null"], []),
    ],
    ids=["registries and a pull secret", "no pull secret", "no registries"],
)
def test_start_alone_reads_the_pull_secret_alone_and_only_where_a_registry_may_want_it(
    more: list[str], may: list[list[str]]
) -> None:
    rules = [
        (role["metadata"]["name"], rule)
        for role in objects(template("everything.yaml", *more))
        if role["kind"] in ("Role", "ClusterRole")
        for rule in role["rules"]
        if "secrets" in rule["resources"]
    ]
    assert [rule["resourceNames"] for _, rule in rules] == may
    assert all((name, rule["verbs"]) == ("uws-start", ["get"]) for name, rule in rules)


def rights(cluster: Cluster, account: str, namespace: str) -> dict[str, list[str]]:
    """What an account may do in a namespace: resource or path → verbs."""
    rows = cluster.kubectl("auth", "can-i", "--list", "--no-headers", f"--as={account}", "-n", namespace)
    found = {}
    for row in rows.splitlines():
        what, verbs = row.split(None, 1)[0], row.rpartition("[")[2].rstrip("] ")
        path = re.search(r"\[(/[^\]]*)\]", row)
        found[path[1] if path else what] = sorted(verbs.split())
    return found


@pytest.mark.covers("4:deploy-rbac")
def test_the_accounts_suffice_for_the_runner_and_each_for_its_own_part_only(
    release: Release, tmp_path: Path
) -> None:
    runners = {
        component: KubernetesRunner(
            Api(str(kubeconfig(release, component, tmp_path))),
            PodSettings(
                release.jobs, "rights", agent_image="localhost/none:1", notebook_image="localhost/none:1"
            ),
        )
        for component in ("start", "stop", "watch", "web")
    }
    spec = RunSpec.from_json((GOLDEN / "runspec" / "container.json").read_bytes())
    start, stop, watch = runners["start"], runners["stop"], runners["watch"]
    try:
        start.start(spec, "https://uws.example/agent/v1", "token")
        start.start(spec, "https://uws.example/agent/v1", "token")  # finds its own Job
        seen = {one.job_id: one for one in watch.observe()}
        assert seen[spec.job_id].state is State.STAGING
        stop.stop(spec.job_id, spec.attempt)
        stop.stop("neverstarted", 1)
        watch.stop("notstartedeither", 1)

        def ended() -> bool:
            watch.wait(1)
            return {one.job_id for one in watch.observe() if one.state is State.ENDED} == {
                spec.job_id,
                "neverstarted",
                "notstartedeither",
            }

        until(ended, "all three have ended")
        for other in ("start", "stop", "web"):
            with pytest.raises(ApiRefusal, match="forbidden"):
                api_of(runners[other]).call("GET", f"/apis/batch/v1/namespaces/{release.jobs}/jobs")
        with pytest.raises(ApiRefusal, match="forbidden"):
            start.stop(spec.job_id, spec.attempt)
        for one in list(watch.observe()):
            watch.forget(one.job_id, one.attempt)
        until(lambda: not release.cluster.get("-n", release.jobs, "jobs")["items"], "the Jobs are gone")
    finally:
        for runner in runners.values():
            runner.close()


def api_of(runner: KubernetesRunner) -> Api:
    return runner._cluster


def kubeconfig(release: Release, component: str, directory: Path) -> Path:
    """A way into the cluster with the account of a component."""
    token = release.cluster.kubectl("-n", release.namespace, "create", "token", f"uws-{component}").strip()
    document = json.loads(release.cluster.kubeconfig.read_text())
    document["users"] = [{"name": "test", "user": {"token": token}}]
    file = directory / f"{component}.kubeconfig"
    file.write_text(json.dumps(document))
    return file


# ---- beside a cluster --------------------------------------------------------------------------------------


def test_the_cluster_of_the_example_settings_holds_when_it_is_uncommented(tmp_path: Path) -> None:
    text = (CHART.parent / "uws.example.yaml").read_text()
    before, cluster, after = re.split(r"(?s)(?=  # cluster:)(.*?)(?=\nlog:)", text, maxsplit=1)
    file = tmp_path / "uws.yaml"
    file.write_text(before + re.sub(r"(?m)^  # ?", "  ", cluster) + after)
    site = load(file, {}).sites["cluster"]
    assert (site.runner, site.kubernetes.namespace) == ("kubernetes", "uws-jobs")
