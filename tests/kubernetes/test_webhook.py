"""Jobs that an admission webhook of the cluster changes before they are stored."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.site import Site
from tests.kubernetes.test_code_ends import EATEN, EATER
from tests.waiting import PATIENCE

Patch = list[dict[str, Any]]


def review(request: dict[str, Any], patch: Patch) -> dict[str, Any]:
    """The answer that admits an object with a JSON patch."""
    answer = {
        "uid": request["request"]["uid"],
        "allowed": True,
        "patchType": "JSONPatch",
        "patch": base64.b64encode(json.dumps(patch).encode()).decode(),
    }
    return {"apiVersion": request["apiVersion"], "kind": request["kind"], "response": answer}


@contextmanager
def webhook(site: Site, directory: Path, patch: Patch) -> Iterator[None]:
    """A webhook that patches every Job that is created in the site's namespace."""
    host = site.cluster.layout.host_ip
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    words = ["-subj", "/CN=webhook", "-addext", f"subjectAltName=IP:{host}", "-days", "2", "-nodes"]
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *words]
    subprocess.run(
        [*openssl, "-keyout", key, "-out", certificate], check=True, timeout=PATIENCE, capture_output=True
    )

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(review(request, patch)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((host, 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    hooks = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    name = f"{site.namespace}-hook"
    hook = {
        "name": "jobs.tests.example",
        "clientConfig": {
            "url": f"https://{host}:{server.server_port}/",
            "caBundle": base64.b64encode(certificate.read_bytes()).decode(),
        },
        "rules": [
            {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}
        ],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": site.namespace}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    try:
        site.api.call("POST", hooks, {**kind, "metadata": {"name": name}, "webhooks": [hook]})
        try:
            yield
        finally:
            site.api.call("DELETE", f"{hooks}/{name}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.covers("4:fault-webhook")
@pytest.mark.long
def test_labels_and_amounts_that_are_added_or_written_another_way_change_nothing(
    site: Site, tmp_path: Path
) -> None:
    limits = "/spec/template/spec/containers/0/resources/limits"
    patch = [
        {"op": "add", "path": "/metadata/labels/team", "value": "stars"},
        {"op": "add", "path": "/spec/template/metadata/labels/team", "value": "stars"},
        {"op": "replace", "path": f"{limits}/memory", "value": "64Mi"},
    ]
    with webhook(site, tmp_path, patch):
        job = site.shell(EATER)
        assert site.pod(job)["metadata"]["labels"]["team"] == "stars"
        seen = site.ended(job, "ERROR")
    assert seen["errorSummary"]["message"] == EATEN["message"]
    site.clear(job)


@pytest.mark.covers("4:fault-webhook")
def test_a_job_whose_labels_are_taken_away_fails_and_is_not_left_behind(site: Site, tmp_path: Path) -> None:
    patch = [{"op": "replace", "path": "/metadata/labels", "value": {"team": "stars"}}]
    with webhook(site, tmp_path, patch):
        job = site.shell("echo never")
        seen = site.ended(job, "ERROR")
    assert seen["errorSummary"] == {
        "type": "fatal",
        "message": "The cluster changes the labels of Jobs, by which they are followed: "
        "an admission webhook does so, which its operators have to mend.",
        "hasDetail": False,
    }
    site.clear(job, {})
