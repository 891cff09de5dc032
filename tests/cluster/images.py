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
from tests.deploy.dockerfiles import copy_code
from tests.wrapper_build import build_wrapper

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def pack(name: str, layers: Sequence[Path], archive: Path, config: Mapping[str, Any]) -> None:
    """Write an image of layers, each a directory or a tar of `layer`; config in OCI's words (Cmd, User…).

    The tag must not be `latest`: the kubelet would try to pull it. The same directories give the same image.
    """
    with tempfile.TemporaryDirectory(dir=archive.parent) as work:
        tars = []
        for number, made in enumerate(layers):
            if made.is_dir():
                tars.append(Path(work, f"layer{number}.tar"))
                layer(made, tars[-1])
            else:
                tars.append(made)
        digests = []
        for made in tars:
            with made.open("rb") as file:
                digests.append(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
        described = {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": {"Env": [PATH]} | dict(config),
            "rootfs": {"type": "layers", "diff_ids": digests},
        }
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": [made.name for made in tars]}]
        half = Path(work, "image.tar")
        with tarfile.open(half, "w") as tar:
            for member, document in (("manifest.json", manifest), ("config.json", described)):
                content = json.dumps(document, sort_keys=True).encode()
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            for made in tars:
                tar.add(made, made.name, filter=_plain)
        half.rename(archive)


def layer(directory: Path, tar: Path) -> None:
    """Write a directory as a layer: everything is root's, and of no time."""
    with tarfile.open(tar, "w") as file:
        file.add(directory, ".", filter=_plain)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


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


def agent_image() -> Path:
    """``localhost/agent:1``: Debian's Python, the modules that the shipped image copies, and the wrapper.

    It stands in for the agent's published image: same code, another base, made without a registry. Gives the
    archive, which is made once for each state of the code.
    """
    return _own_image("agent", ["python3", "-m", "runners.agent"])


def notebook_image() -> Path:
    """``localhost/notebook:1``: the same base, the libraries of the notebook image's lock, and our program.

    Gives the archive. The libraries are installed once for each state of the lock.
    """
    return _own_image("notebook", ["python3", "-m", "runners.notebook"])


def _own_image(name: str, entrypoint: Sequence[str]) -> Path:
    with locked(CACHE / f"{name}.lock"), tempfile.TemporaryDirectory(dir=CACHE) as work:
        base = _debian()
        below = [_tar(base), *([_tar(_libraries(base))] if name == "notebook" else [])]
        code = Path(work, "code")
        # With the modes that the base has: a layer's directory replaces the one below.
        copy_code(name, code / "usr/lib/python3/dist-packages")
        if name == "agent":
            (code / "usr/local/bin").mkdir(parents=True)
            build_wrapper(code / "usr/local/bin/uws-wrapper")
        (code / "etc").mkdir()
        users = (base / "etc/passwd").read_text()
        (code / "etc/passwd").write_text(f"{users}uws:x:10001:10001:uws:/nonexistent:/usr/sbin/nologin\n")
        for path in [code, *code.rglob("*")]:
            path.chmod(0o755 if path.is_dir() or path.name == "uws-wrapper" else 0o644)
        archive = CACHE / f"{name}-{_fingerprint(code, *(path.name for path in below))}.tar"
        if not archive.exists():
            for old in CACHE.glob(f"{name}-????????????.tar"):
                old.unlink()
            _compile(base, code)
            config = {"Entrypoint": list(entrypoint), "User": "10001:10001"}
            pack(f"localhost/{name}:1", [*below, code], archive, config)
    return archive


def _fingerprint(directory: Path, *words: str) -> str:
    told = hashlib.sha256(" ".join(words).encode())
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        told.update(f"{path.relative_to(directory)}\n".encode() + path.read_bytes())
    return told.hexdigest()[:12]


def _debian() -> Path:
    """A small Debian with Python in a directory that is kept: made once by debootstrap (a minute or two)."""
    root = CACHE / "debian-python"
    with locked(CACHE / "debian-python.lock"):
        if not root.exists():
            say("making a small Debian with Python (debootstrap)")
            with tempfile.TemporaryDirectory(dir=CACHE) as work:
                half = Path(work, "root")
                run("debootstrap", "--variant=minbase", "--include=python3", "bookworm", half, seconds=900)
                for left in ("var/cache/apt", "var/lib/apt/lists", "var/log", "dev", "proc", "sys"):
                    if (half / left).is_symlink():  # as debootstrap makes /proc where it may not mount
                        (half / left).unlink()
                    else:
                        shutil.rmtree(half / left)
                    (half / left).mkdir(parents=True)
                half.rename(root)
    return root


def _libraries(base: Path) -> Path:
    """What the lock of the notebook image says, for the base's Python, in a directory that is kept."""
    lock = ROOT / "deploy" / "locks" / "image-notebook.txt"
    place = CACHE / f"notebook-libraries-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not place.exists():
        say("installing the notebook image's libraries")
        (python,) = (path.name for path in base.glob("usr/lib/python3.*"))
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            half = Path(work, "root")
            packages = half / "usr" / "local" / "lib" / python / "dist-packages"
            packages.mkdir(parents=True)
            run(
                *("env", "UV_SYSTEM_CERTS=true", ROOT / ".venv/bin/uv", "pip", "install", "--quiet"),
                *("--target", packages, "--python", base / "usr/bin" / python, "--link-mode", "copy"),
                *("--only-binary", ":all:", "--no-deps", "--require-hashes", "-r", lock),
                seconds=600,
            )
            shutil.rmtree(packages / "bin", ignore_errors=True)
            (packages / "share").rename(half / "usr" / "local" / "share")
            _compile(base, half)
            half.rename(place)
    return place


def _compile(base: Path, layer: Path) -> None:
    """Compile a layer's modules with the base's Python: on a read-only root each start would do it anew."""
    script = (
        'mount --bind "$2" "$1/mnt" && exec chroot "$1" '
        "python3 -m compileall -q --invalidation-mode unchecked-hash -s /mnt -p / /mnt"
    )
    run("unshare", "--mount", "sh", "-c", script, "sh", base, layer, seconds=300)


def _tar(directory: Path) -> Path:
    """The layer of a directory that is kept, kept beside it."""
    tar = directory.with_name(f"{directory.name}.layer")
    with locked(CACHE / f"{directory.name}.lock"):
        if not tar.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as work:
                layer(directory, Path(work, "layer"))
                Path(work, "layer").rename(tar)
    return tar


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
