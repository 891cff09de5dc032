"""A cluster's certificates, tokens and kubeconfigs.

Servers and clients know each other by tokens. Certificates have only the API server, also as a client of the
kubelets, and the registry; all from an authority that lives and dies with the cluster.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.layout import Layout
from tests.cluster.node import run

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30")


def directory(layout: Layout) -> Path:
    return layout.state / "keys"


def _certificate(keys: Path, name: str, subject: str, use: str, names: Sequence[str] = ()) -> None:
    extras = ["basicConstraints=critical,CA:false", f"extendedKeyUsage={use}"]
    if names:
        extras.append("subjectAltName=" + ",".join(names))
    run(
        *(
            "openssl",
            "req",
            "-x509",
            *KEY,
            "-CA",
            keys / "ca.crt",
            "-CAkey",
            keys / "ca.key",
            "-subj",
            subject,
        ),
        *("-keyout", keys / f"{name}.key", "-out", keys / f"{name}.crt"),
        *(word for extra in extras for word in ("-addext", extra)),
    )


def make(layout: Layout) -> None:
    """Make all keys, and kubeconfigs for the admin and the control plane."""
    keys = directory(layout)
    keys.mkdir(mode=0o700)
    run(
        "openssl",
        "req",
        "-x509",
        *KEY,
        "-subj",
        "/CN=test-cluster",
        "-keyout",
        keys / "ca.key",
        "-out",
        keys / "ca.crt",
    )
    here = [f"IP:{layout.node_ip(1)}", "IP:127.0.0.1", "DNS:localhost"]
    inside = [
        f"DNS:kubernetes{end}" for end in ("", ".default", ".default.svc", ".default.svc.cluster.local")
    ]
    names = [*here, f"IP:{layout.api_service_ip}", *inside]
    _certificate(keys, "apiserver", "/CN=kube-apiserver", "serverAuth", names)
    _certificate(keys, "registry", "/CN=registry", "serverAuth", here)
    _certificate(keys, "kubelet-client", "/O=system:masters/CN=kube-apiserver", "clientAuth")
    run(
        "openssl",
        "genpkey",
        "-algorithm",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-out",
        keys / "accounts.key",
    )
    run("openssl", "pkey", "-in", keys / "accounts.key", "-pubout", "-out", keys / "accounts.pub")
    users = {
        "admin": ("admin", "system:masters"),
        "scheduler": ("system:kube-scheduler", "system:authenticated"),
        "controller-manager": ("system:kube-controller-manager", "system:authenticated"),
        "proxy": ("system:kube-proxy", "system:authenticated"),
        "kwok": ("kwok", "system:masters"),
    }
    # Nodes may join later, but the API server reads its list of tokens once.
    users |= {f"node{number}": (f"system:node:node{number}", "system:nodes") for number in range(1, 5)}
    tokens = []
    for name, (user, group) in users.items():
        token = secrets.token_hex(24)
        tokens.append(f'{token},{user},{user},"{group}"\n')
        kubeconfig = layout.state / f"{name}.kubeconfig"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(json.dumps(_kubeconfig(layout, token), indent=1))
    (keys / "tokens.csv").write_text("".join(tokens))


def _kubeconfig(layout: Layout, token: str) -> dict[str, object]:
    """A kubeconfig; JSON, which is YAML too."""
    authority = base64.b64encode((directory(layout) / "ca.crt").read_bytes()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "test", "cluster": {"server": layout.api, "certificate-authority-data": authority}}
        ],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
