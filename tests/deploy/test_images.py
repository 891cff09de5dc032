"""The images of deploy/images: built as they are on a stand-in for their base, run shut off as pods are."""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deploy import stand_in
from tests.deploy.building import PACKAGES, build
from tests.deploy.docker_engine import PROGRAM, Engine
from tests.deploy.dockerfiles import copy_code, dockerfile
from tests.light_curves import write_light_curve
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ("agent", "notebook", "server")
WITH_LIBRARIES = ("notebook", "server")
USER = 10001
SHUT = (
    *("--network", "none", "--read-only", "--cap-drop", "ALL", "--user", str(USER)),
    *("--security-opt", "no-new-privileges", "--pids-limit", "200"),
)
"""How a pod runs them, and without any network."""

EVERY_MODULE = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
"""
"""Imports all of a package: many modules are imported late, and one that is missing would be missed late."""

images_timeout = pytest.mark.timeout(1200)


# ---- what the files say ------------------------------------------------------------------------------------


@pytest.mark.covers("4:image-agent")
def test_the_agent_imports_nothing_but_what_its_image_copies(tmp_path: Path) -> None:
    copy_code("agent", tmp_path)
    done = imports("runners.agent", [tmp_path])
    assert done.returncode == 0, done.stderr


@pytest.mark.covers("4:image-notebook")
def test_the_notebook_program_imports_nothing_of_ours_but_what_its_image_copies(tmp_path: Path) -> None:
    copy_code("notebook", tmp_path)
    done = imports("runners.notebook", [tmp_path, Path(sysconfig.get_path("purelib"))])
    assert done.returncode == 0, done.stderr


def imports(package: str, path: list[Path]) -> subprocess.CompletedProcess[str]:
    """Import all of a package from a path alone: -S keeps our own environment's additions away."""
    return subprocess.run(
        [sys.executable, "-S", "-c", EVERY_MODULE, package],
        env={"PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.covers("4:image-locks")
@pytest.mark.parametrize("image", WITH_LIBRARIES)
def test_an_image_holds_declared_libraries_in_the_versions_of_the_tests(image: str) -> None:
    tested, own = pins("test"), pins(f"image-{image}")
    assert own <= tested, own - tested
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    options = metadata["options"]["install_requires"] + metadata["options.extras_require"]["kubernetes"]
    declared = set(re.findall(r"^[a-z0-9-]+", options, re.MULTILINE))
    wanted = (ROOT / "deploy" / "images" / image / "requirements.in").read_text(encoding="utf-8")
    names = set(re.findall(r"^[a-z0-9-]+", wanted, re.MULTILINE))
    assert names <= declared, names - declared
    assert names <= {pin.partition("==")[0] for pin in own}


def pins(lock: str) -> set[str]:
    text = (ROOT / "deploy" / "locks" / f"{lock}.txt").read_text(encoding="utf-8")
    return set(re.findall(r"^(\S+==\S+)", text, re.MULTILINE))


ONLY = """
import importlib.machinery, importlib.metadata, sys
locked = set(sys.argv[1].split())
def known(names): return any(name.lower().replace("_", "-").replace(".", "-") in locked for name in names)
absent = {top for top, names in importlib.metadata.packages_distributions().items() if not known(names)}
absent -= {"job_templates", "runners", "uws_client", "uws_server"}
class Blind(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, *rest):
        return None if name.partition(".")[0] in absent else super().find_spec(name, *rest)
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Blind
"""
"""Makes Python blind for libraries that are not named in its argument."""


@pytest.mark.parametrize(
    "image",
    [
        pytest.param("notebook", marks=pytest.mark.covers("4:image-notebook")),
        pytest.param("server", marks=pytest.mark.covers("4:image-server")),
    ],
)
def test_the_libraries_of_its_lock_are_all_that_an_image_needs(image: str, tmp_path: Path) -> None:
    (imported,) = re.findall(r"^RUN python3 -c '([^']*)'", dockerfile(image), re.MULTILINE)
    locked = " ".join(pin.partition("==")[0].replace(".", "-") for pin in pins(f"image-{image}"))
    done = subprocess.run(
        [sys.executable, "-c", ONLY + imported.replace("\\\n", ""), locked],
        env=os.environ | {"HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("image", IMAGES)
def test_the_base_is_the_one_that_has_a_stand_in_and_no_file_names_a_registry(image: str) -> None:
    text = dockerfile(image)
    assert re.findall(r"^ARG BASE=(\S+)$", text, re.MULTILINE) == [stand_in.NAME]
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?$", text, re.MULTILINE)
    named = {name for _, name in stages if name}
    assert {base for base, _ in stages} <= {"${BASE}", *named}


@pytest.mark.parametrize("words", [["servre"], ["--tag"]])
def test_the_script_refuses_what_it_does_not_know(words: list[str]) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "images", *words], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("images: ")
    assert words[0] in done.stderr


# ---- the images --------------------------------------------------------------------------------------------


@pytest.fixture
def handed(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a directory that belongs to the user of the images."""

    def make(name: str) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        os.chown(directory, USER, USER)
        return directory

    return make


def volume(directory: Path, place: str) -> tuple[str, str]:
    return "--volume", f"{directory}:{place}"


@images_timeout
@pytest.mark.parametrize(
    "image",
    [
        pytest.param("agent", marks=pytest.mark.covers("4:image-agent")),
        pytest.param("notebook", marks=[pytest.mark.covers("4:image-notebook"), pytest.mark.long]),
        pytest.param("server", marks=[pytest.mark.covers("4:image-server"), pytest.mark.long]),
    ],
)
def test_an_image_names_its_user_and_has_no_compiler(
    engine: Engine, built: Callable[[str], str], image: str
) -> None:
    (config,) = json.loads(engine.docker("image", "inspect", built(image)).stdout)
    assert config["Config"]["User"] == f"{USER}:{USER}"
    look = "for name in cc gcc c++ clang tcc musl-gcc as ld make python3; do command -v $name; done"
    found = engine.docker("run", "--rm", *SHUT, "--entrypoint", "sh", built(image), "-c", look, check=False)
    assert [Path(line).name for line in found.stdout.split()] == ["python3"]


@images_timeout
def test_a_build_sees_our_packages_and_the_locks_and_nothing_else_of_the_checkout(engine: Engine) -> None:
    look = f"FROM {stand_in.NAME}\nCOPY . /seen\n"
    command = [PROGRAM, "build", "--network", "none", "--tag", "seen:test", "--file", "-", str(ROOT)]
    subprocess.run(
        command,
        input=look.encode(),
        env=engine.environment | {"DOCKER_BUILDKIT": "1"},
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    listed = engine.docker("run", "--rm", *SHUT, "seen:test", "find", "/seen", "-type", "f").stdout
    seen = [Path(line).relative_to("/seen") for line in listed.split("\n") if line]
    assert {path.parts[0] for path in seen} == {*PACKAGES, "deploy"}
    assert {path.parts[1] for path in seen if path.parts[0] == "deploy"} == {"images", "locks"}
    assert not [path for path in seen if path.suffix == ".pyc"]


@pytest.mark.long
@images_timeout
@pytest.mark.covers("4:image-locks")
@pytest.mark.parametrize("image", WITH_LIBRARIES)
def test_an_image_holds_what_its_lock_says(engine: Engine, built: Callable[[str], str], image: str) -> None:
    program = "import importlib.metadata as m; [print(f'{d.name}=={d.version}') for d in m.distributions()]"
    said = engine.docker("run", "--rm", *SHUT, "--entrypoint", "python3", built(image), "-c", program).stdout
    there = {pin.lower().replace("_", "-").replace(".", "-") for pin in said.split()}
    locked = {pin.lower().replace(".", "-") for pin in pins(f"image-{image}")}
    assert len(there) > 40
    assert there <= locked, there - locked


@pytest.mark.long
@images_timeout
@pytest.mark.covers("4:image-locks")
@pytest.mark.parametrize("image", IMAGES)
def test_built_again_an_image_holds_the_same_files(
    checkout: Path, engine: Engine, built: Callable[[str], str], image: str
) -> None:
    first = files_of(engine, built(image))
    for path in checkout.rglob("*"):
        os.utime(path, (10**9, 10**9))  # as if it had been checked out at another time
    build(checkout, engine, image, "again", "--no-cache")
    again = files_of(engine, f"uws-{image}:again")
    assert {path for path in first.keys() | again.keys() if first.get(path) != again.get(path)} == set()
    assert f"opt/uws/{'' if image == 'agent' else 'code/'}runners/__init__.py" in first


def files_of(engine: Engine, image: str) -> dict[str, str]:
    """Every file of an image: its path, and a digest of content, mode and owner."""
    identity = engine.docker("create", "--network", "none", image).stdout.strip()
    found = {}
    with subprocess.Popen(
        [PROGRAM, "export", identity], env=engine.environment, stdout=subprocess.PIPE
    ) as export:
        with tarfile.open(fileobj=export.stdout, mode="r|") as tar:
            for entry in tar:
                told = hashlib.sha256(f"{entry.mode} {entry.uid} {entry.gid} {entry.linkname}".encode())
                content = tar.extractfile(entry) if entry.isfile() else None
                if content is not None:
                    told.update(content.read())
                found[entry.name] = told.hexdigest()
        assert export.wait(PATIENCE) == 0
    engine.docker("rm", identity)
    return found


@images_timeout
@pytest.mark.covers("4:image-agent")
def test_the_agent_starts_and_each_module_of_it_is_there(engine: Engine, built: Callable[[str], str]) -> None:
    run = ("run", "--rm", *SHUT)
    started = engine.docker(*run, built("agent"), check=False)
    assert (started.returncode, started.stderr.partition(" ")[0]) == (2, "usage:")
    engine.docker(*run, "--entrypoint", "python3", built("agent"), "-c", EVERY_MODULE, "runners.agent")
    missing = engine.docker(
        *run, "--entrypoint", "python3", built("agent"), "-c", EVERY_MODULE, "runners.notebook", check=False
    )
    assert "No module named 'runners.notebook'" in missing.stderr


@images_timeout
@pytest.mark.covers("4:image-agent", "4:wrapper")
def test_the_wrapper_installs_itself_and_runs_in_an_image_without_anything_of_ours(
    engine: Engine, built: Callable[[str], str], handed: Callable[[str], Path]
) -> None:
    control, logs = handed("control"), handed("logs")
    install = ("--entrypoint", "/usr/local/bin/uws-wrapper", *volume(control, "/uws/control"))
    engine.docker("run", "--rm", *SHUT, *install, built("agent"), "install", "/uws/control")
    (control / "go").touch()
    places = (*volume(control, "/uws/control:ro"), *volume(logs, "/uws/logs"))
    command = ("/uws/control/uws-wrapper", "run", "/uws/control", "/uws/logs", "100000", "20", "10", "--")
    done = engine.docker(
        *(
            "run",
            "--rm",
            *SHUT,
            *places,
            stand_in.NAME,
            *command,
            "sh",
            "-c",
            "echo hello; id -u >&2; exit 3",
        ),
        check=False,
    )
    assert done.returncode == 3
    assert (logs / "stdout").read_text() == "hello\n"
    assert (logs / "stderr").read_text() == f"{USER}\n"


@pytest.mark.long
@images_timeout
@pytest.mark.covers("4:image-notebook")
def test_the_notebook_image_runs_the_shipped_light_curve_notebook(
    engine: Engine, built: Callable[[str], str], handed: Callable[[str], Path]
) -> None:
    work, inputs = handed("work"), handed("inputs")
    for name in ("outputs", "tmp"):
        (work / name).mkdir()
        os.chown(work / name, USER, USER)
    name = write_light_curve(inputs)
    shutil.copy(ROOT / "job_templates" / "data" / "lightcurve.ipynb", inputs)
    (inputs / "parameters.json").write_text(json.dumps({"light_curve": name}))
    variables = {
        "HOME": "/uws/work/tmp",
        "TMPDIR": "/uws/work/tmp",
        "UWS_INPUTS": "/uws/work/inputs",
        "UWS_OUTPUTS": "/uws/work/outputs",
        "UWS_PROGRESS": "/uws/work/progress",
    }
    done = engine.docker(
        *("run", "--rm", *SHUT, "--workdir", "/uws/work/outputs", "--tmpfs", "/tmp"),
        *volume(work, "/uws/work"),
        *volume(inputs, "/uws/work/inputs:ro"),
        *(word for key, value in variables.items() for word in ("--env", f"{key}={value}")),
        *("--entrypoint", "python3", built("notebook"), "-m", "runners.notebook"),
        *("/uws/work/inputs/lightcurve.ipynb", "--parameters", "/uws/work/inputs/parameters.json"),
        *("--outputs", "/uws/work/outputs"),
        seconds=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outputs = work / "outputs"
    assert sorted(path.name for path in outputs.iterdir()) == [
        "executed.html", "executed.ipynb", "periodogram.png", "result.json", "table.ecsv",
    ]  # fmt: skip
    assert json.loads((outputs / "result.json").read_text())["period"] == pytest.approx(0.93697, abs=2e-5)
    counted, of = (work / "progress").read_text().splitlines()[-1].split()
    assert counted == of


@pytest.mark.long
@images_timeout
@pytest.mark.covers("4:image-server")
def test_web_worker_and_watcher_run_a_job_from_containers_of_their_image(
    engine: Engine,
    built: Callable[[str], str],
    handed: Callable[[str], Path],
    redis_servers: Callable[[str], str],
) -> None:
    socket, data = Path(redis_servers("valkey").removeprefix("unix://")), handed("data")
    socket.chmod(0o777)
    (data / "hello.sh").write_text("echo hello")
    common = (
        *(*SHUT[2:], "--tmpfs", "/tmp", *volume(socket, "/run/redis"), *volume(data, "/var/lib/uws")),
        *("--env", "UWS_REDIS__URL=unix:///run/redis", "--env", "UWS_SERVER=http://127.0.0.1:8080"),
    )
    with ExitStack() as stack:

        def start(options: tuple[str, ...], *words: str) -> str:
            container = engine.container(built("server"), *words, options=(*options, *common))
            return stack.enter_context(container)

        def client(*words: str) -> subprocess.CompletedProcess[str]:
            return engine.docker("exec", web, "uws-job", *words, seconds=90, check=False)

        # A local site needs one machine: here it is what these three share, a loopback and process ids.
        web = start(("--network", "none"), "web")
        until(lambda: client("list", "script").returncode == 0, "web answers")
        beside = ("--network", f"container:{web}")
        worker = start(beside, "worker", "--site", "local")
        start((*beside, "--pid", f"container:{worker}"), "watch", "--site", "local")
        said = client(
            *("submit", "--wait", "--timeout", "60s", "script", "interpreter=sh"),
            "script=@/var/lib/uws/hello.sh",
        )
        assert said.returncode == 0, said.stderr + engine.docker("logs", worker).stderr
        engine.docker("exec", worker, "python3", "-c", EVERY_MODULE, "runners.kubernetes")
        assert client("logs", said.stdout.split()[0]).stdout == "hello\n"
