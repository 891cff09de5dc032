"""Container images without a registry: directories packed as archives that containerd reads."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster.layout import ROOT
from tests.cluster.node import run
from tests.cluster.programs import CACHE, locked, say

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def pack(name: str, directories: Sequence[Path], archive: Path, config: Mapping[str, Any]) -> None:
    """Write directories as the layers of an image, with a config in OCI's words (Cmd, Entrypoint, User…).

    The tag must not be `latest`: the kubelet would try to pull it. The same directories give the same image.
    """

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime = entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tempfile.TemporaryDirectory(dir=archive.parent) as work:
        layers = [Path(work, f"layer{number}.tar") for number in range(len(directories))]
        digests = []
        for directory, layer in zip(directories, layers, strict=True):
            with tarfile.open(layer, "w") as tar:
                tar.add(directory, ".", filter=plain)
            with layer.open("rb") as file:
                digests.append(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
        described = {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": {"Env": [PATH]} | dict(config),
            "rootfs": {"type": "layers", "diff_ids": digests},
        }
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": [layer.name for layer in layers]}]
        half = Path(work, "image.tar")
        with tarfile.open(half, "w") as tar:
            for member, document in (("manifest.json", manifest), ("config.json", described)):
                content = json.dumps(document, sort_keys=True).encode()
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            for layer in layers:
                tar.add(layer, layer.name, filter=plain)
        half.rename(archive)


def program_image(name: str, program: Path, archive: Path, *, arguments: Sequence[str] = ()) -> None:
    """Pack a static program alone: no shell, no libraries, one file."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as root:
        Path(root).chmod(0o755)
        shutil.copy(program, Path(root, program.name))
        pack(name, [Path(root)], archive, {"Entrypoint": [f"/{program.name}"], "Cmd": list(arguments)})


def busybox_image(archive: Path) -> None:
    """``localhost/busybox:1``: Debian's static busybox with all its applets, and a user 10001."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as work:
        root = Path(work)
        root.chmod(0o755)
        for name in ("bin", "etc", "proc", "sys", "dev", "root", "tmp"):
            (root / name).mkdir(mode=0o755)
        (root / "tmp").chmod(0o1777)
        shutil.copy("/bin/busybox", root / "bin/busybox")
        for applet in run("/bin/busybox", "--list").split():
            if applet != "busybox":
                (root / "bin" / applet).symlink_to("busybox")
        (root / "etc/passwd").write_text(
            "root:x:0:0:root:/root:/bin/sh\nuser:x:10001:10001:user:/tmp:/bin/sh\n"
        )
        (root / "etc/group").write_text("root:x:0:\nuser:x:10001:\n")
        pack("localhost/busybox:1", [root], archive, {"Cmd": ["/bin/sh"]})


def _debian(place: Path) -> Path:
    """A small Debian with Python in a directory that is kept: made once by debootstrap (a minute or two)."""
    root = place / "debian-python"
    if not root.exists():
        say("making a small Debian with Python (debootstrap)")
        with tempfile.TemporaryDirectory(dir=place) as work:
            half = Path(work, "root")
            run("debootstrap", "--variant=minbase", "--include=python3", "bookworm", half, seconds=900)
            for left in ("var/cache/apt", "var/lib/apt/lists", "var/log", "dev", "proc", "sys"):
                shutil.rmtree(half / left, ignore_errors=True)
                (half / left).mkdir(parents=True)
            half.rename(root)
    return root


def agent_image() -> Path:
    """``localhost/agent:1``: Debian's Python and this checkout's agent, which needs no library.

    It stands in for the agent's published image: same code, another base, made without a registry. Gives the
    archive, which is made once for each state of the code.
    """
    sources = [ROOT / "runners", ROOT / "uws_server"]
    archive = CACHE / f"agent-{_fingerprint(sources)}.tar"
    with locked(CACHE / "agent.lock"):
        if not archive.exists():
            for old in CACHE.glob("agent-*.tar"):
                old.unlink()
            _make_agent_image(sources, archive)
    return archive


def _fingerprint(sources: Sequence[Path]) -> str:
    told = hashlib.sha256()
    for source in sources:
        for path in sorted(source.rglob("*.py")):
            told.update(f"{path}\n".encode() + path.read_bytes())
    return told.hexdigest()[:12]


def _make_agent_image(sources: Sequence[Path], archive: Path) -> None:
    base = _debian(CACHE)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        code = Path(work, "code")
        # With the modes that the base has: a layer's directory replaces the one below.
        packages = code / "usr" / "lib" / "python3" / "dist-packages"
        packages.mkdir(parents=True, mode=0o755)
        for source in sources:
            shutil.copytree(source, packages / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        for directory in [code, *code.rglob("*")]:
            directory.chmod(0o755 if directory.is_dir() else 0o644)
        config = {"Entrypoint": ["python3", "-m", "runners.agent"], "User": "10001:10001"}
        pack("localhost/agent:1", [base, code], archive, config)


def make_basic_images(programs: Path) -> list[Path]:
    """The images that every node starts with, as archives beside the programs; made once."""
    directory = programs / "images"
    directory.mkdir(exist_ok=True)
    wanted = {
        "pause": lambda to: program_image("localhost/pause:1", programs / "pause", to),
        "coredns": lambda to: program_image("localhost/coredns:1", programs / "coredns", to),
        "busybox": busybox_image,
    }
    for name, make in wanted.items():
        if not (directory / f"{name}.tar").exists():
            make(directory / f"{name}.tar")
    return [directory / f"{name}.tar" for name in wanted]
