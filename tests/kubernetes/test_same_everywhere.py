"""The same job gives the same, on this machine and in a cluster, whichever client sends it.

One server has both sites, and the memory that a job asks for decides to which of them it goes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pyvo.dal import AsyncTAPJob

from tests.clients.plain import FORGOTTEN, Client
from tests.cluster import images
from tests.cluster.cluster import Cluster
from tests.light_curves import write_light_curve
from tests.up_jobs import UpJobs, notebook
from tests.up_process import running_up
from tests.waiting import PATIENCE, until

covers = pytest.mark.covers
# pyvo reads answers as streams and leaves them open.
pytestmark = [pytest.mark.filterwarnings(f"ignore:{said}") for said in FORGOTTEN]

UWS_JOB = (sys.executable, "-m", "uws_client.cli")
MEMORY = {"local": "1GiB", "cluster": "1100MiB"}
"""What jobs ask for that are to run at a site: this machine has no more than the first."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """One job as a user has it: a service, what is given to it, and what it cannot be without at first."""

    service: str
    first: Mapping[str, bytes]
    files: Mapping[str, Path]
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """What came of a job: its document, its manifest, and the content of its results."""

    site: str
    job: Document
    manifest: Document
    contents: Mapping[str, bytes]

    @property
    def results(self) -> dict[str, tuple[str, int, str]]:
        """Media type, size and SHA-256 by id, of the results that are the work's own."""
        return {
            one["id"]: (one["media_type"], one["size"], one["sha256"])
            for one in self.manifest["results"]
            if one["id"] not in TIMED
        }

    @property
    def listed(self) -> list[tuple[str, str]]:
        """Ids and media types of all results, in their order."""
        return [(one["id"], one["mediaType"]) for one in self.job["results"]]


TIMED = frozenset({"notebook", "html"})
"""Results that say when each cell ran: an executed notebook, and it as a page."""


class Both:
    """A server with both sites."""

    def __init__(self, jobs: UpJobs, work: Mapping[str, Work]) -> None:
        self.jobs = jobs
        self.client = Client(jobs.up.url)
        self._work = work
        self._made: dict[tuple[str, str, str], Made] = {}

    def made(self, name: str, client: str, site: str) -> Made:
        """What comes of a work by a client at a site; it runs when it is first asked for."""
        if (name, client, site) not in self._made:
            submit = {"pyvo": self.by_pyvo, "uws-job": self.by_uws_job}[client]
            self._made[name, client, site] = self._look(submit(self._work[name], site))
        return self._made[name, client, site]

    def by_pyvo(self, work: Work, site: str) -> str:
        """Have pyvo bring a job its files, run it and wait for its end; its URL.

        What pyvo makes by itself has a query, which these services do not take; and a job must have its
        main file from the beginning, which pyvo replaces.
        """
        url = self.client.upload(work.service, work.first, {"MEMORY": MEMORY[site], **work.words})
        job = AsyncTAPJob(url)
        for name, path in work.files.items():
            job.upload(**{name: str(path)})
        job.run().wait(timeout=PATIENCE)
        job.raise_if_error()
        assert job.phase == "COMPLETED"
        return url

    def by_uws_job(self, work: Work, site: str) -> str:
        """Have `uws-job` make a job, and wait for its end; its URL."""
        given = [f"{name}={value}" for name, value in work.words.items()]
        given += [f"{name}=@{path}" for name, path in work.files.items()]
        options = ("--server", self.jobs.up.url, "--memory", MEMORY[site], "--wait", "--quiet", "--json")
        done = uws_job("submit", *options, work.service, *given)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(json.loads(done.stdout.splitlines()[-1])["url"])

    def _look(self, url: str) -> Made:
        job = self.jobs.reach(url, "COMPLETED")
        contents = {one["id"]: self.jobs.result(url, one["id"]) for one in job["results"]}
        return Made(job["site"], job, json.loads(contents["manifest"]), contents)


def uws_job(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `uws-job` to its end."""
    return subprocess.run(
        [*UWS_JOB, *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


PARAMETERS = "scale = 1.0\nlabel = ''\ntable = ''"
NOTEBOOK = notebook(
    PARAMETERS,
    """
import json
from pathlib import Path
rows = [float(line) for line in Path(table).read_text().split()]
Path("scaled.csv").write_text("".join(f"{scale * row}\\n" for row in rows))
Path("deep").mkdir()
Path("deep/label.json").write_text(json.dumps({"label": label, "rows": len(rows)}))
print(label, "is written")
""",
)
SCRIPT = """
import os, sys
from pathlib import Path
(found,) = Path(os.environ["UWS_INPUTS"], "input").iterdir()
Path("lines.txt").write_text(f"{found.name}: {len(found.read_text().split())}\\n")
print("arguments:", *sys.argv[1:])
print("to be heard", file=sys.stderr)
"""
COMMAND = """
sort -n $UWS_INPUTS/input/table.csv | uniq -c > $UWS_OUTPUTS/counted.txt
gzip -n -c $UWS_INPUTS/input/table.csv > $UWS_OUTPUTS/table.csv.gz
echo "$GREETING"
"""
NETS = {"local": {"runner": "local", "cpu": 2, "jobs": 2, "memory": MEMORY["local"], "network": "none"}}


def tagged(document: bytes) -> bytes:
    """A notebook whose first cell has its parameters."""
    found = json.loads(document)
    found["cells"][0]["metadata"]["tags"] = ["parameters"]
    return json.dumps(found).encode()


def works(directory: Path) -> dict[str, Work]:
    """What is run, by its name; the files are written into the directory."""
    curve = directory / write_light_curve(directory)
    table, program, script = (directory / name for name in ("table.csv", "work.ipynb", "work.py"))
    table.write_text("3\n1\n2\n1\n")
    program.write_bytes(tagged(NOTEBOOK))
    script.write_text(SCRIPT)
    words = {"p.scale": "2.5", "p.label": "größer & <kleiner>", "p.table": "{inputs}/input/table.csv"}
    container = {
        "image": "localhost/busybox:1",
        "command": json.dumps(["sh", "-c", COMMAND]),
        "env": "GREETING=gr\u00fc\u00df $HOME",
    }
    return {
        "demo": Work("lightcurve", {"light_curve": b"another comes"}, {"light_curve": curve}),
        "notebook": Work(
            "notebook",
            {"notebook": tagged(notebook(PARAMETERS))},
            {"notebook": program, "input": table},
            words,
        ),
        "script": Work(
            "script",
            {"script": b"another comes"},
            {"script": script, "input": table},
            {"args": '["a b", "$HOME"]'},
        ),
        "container": Work("container", {}, {"input": table}, container),
    }


@pytest.fixture(scope="module")
def both(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    cluster.import_image(images.agent_image())
    cluster.import_image(images.notebook_image())
    directory = tmp_path_factory.mktemp("everywhere")
    with cluster.namespace({"pod-security.kubernetes.io/enforce": "restricted"}) as namespace:
        pods = {
            "kubeconfig": str(cluster.kubeconfig),
            "namespace": namespace,
            "agent_image": "localhost/agent:1",
            "notebook_image": "localhost/notebook:1",
        }
        environment = {
            "UWS_WEB__HOST": cluster.layout.host_ip,
            "UWS_AUTH__ANONYMOUS": "anywhere",
            "UWS_SITES": json.dumps({**NETS, "cluster": {"runner": "kubernetes", "kubernetes": pods}}),
        }
        with running_up(directory / "data", environment=environment) as up:
            yield Both(UpJobs(up), works(directory))


OTHERS = [
    ("pyvo", "cluster"),
    pytest.param("uws-job", "cluster", marks=pytest.mark.long),
    pytest.param("pyvo", "local", marks=pytest.mark.long),
]
"""Beside `uws-job` at the site `local`, what that is compared to."""


def compare(one: Made, other: Made) -> None:
    """Everything but jobs' ids, instants, the site and what is in `TIMED` is the same."""
    assert one.listed == other.listed
    assert one.results == other.results
    assert one.results
    for name in {*one.contents} - TIMED - {"manifest"}:
        assert one.contents[name] == other.contents[name], name
    for key in {*one.manifest} - {"job", "results"}:
        assert one.manifest[key] == other.manifest[key], key
    for key in ("service", "executionDuration", "attempt", "progress", "errorSummary"):
        assert one.job[key] == other.job[key], key
    assert parameters(one) == parameters(other)


def parameters(made: Made) -> list[Document]:
    """The parameters but for the memory, which decides on the site, and the types that clients give files."""
    text = json.dumps([one for one in made.job["parameters"] if one["id"] != "MEMORY"])
    found: list[Document] = json.loads(text.replace(made.job["jobId"], "ID"))
    for one in found:
        one.pop("mediaType", None)
    return found


def told(content: bytes) -> list[tuple[str, str]]:
    """Source and printed text of an executed notebook's cells; the cell of injected parameters left out."""
    return [
        (
            "".join(cell["source"]),
            "".join("".join(one.get("text", "")) for one in cell.get("outputs", [])),
        )
        for cell in json.loads(content)["cells"]
        if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]


@covers("4:same-demo", "3:template-lightcurve")
@pytest.mark.parametrize(("client", "site"), OTHERS)
def test_the_demo_gives_the_same_everywhere(both: Both, client: str, site: str) -> None:
    here, there = both.made("demo", "uws-job", "local"), both.made("demo", client, site)
    assert (here.site, there.site) == ("local", site)
    compare(here, there)
    assert {*here.results} == {"period", "table", "figure"}
    assert abs(json.loads(there.contents["period"])["period"] - 0.93697) < 1e-4
    assert told(here.contents["notebook"]) == told(there.contents["notebook"])


@covers("4:same-notebook", "4:same-script")
@pytest.mark.parametrize("name", ["notebook", "script"])
@pytest.mark.parametrize(("client", "site"), OTHERS)
def test_notebooks_and_scripts_give_the_same_everywhere(
    both: Both, name: str, client: str, site: str
) -> None:
    here, there = both.made(name, "uws-job", "local"), both.made(name, client, site)
    assert (here.site, there.site) == ("local", site)
    compare(here, there)
    if name == "script":
        assert there.contents["result"] == b"table.csv: 4\n"
        assert there.contents["stdout"] == b"arguments: a b $HOME\n"
        assert there.contents["stderr"] == b"to be heard\n"
    else:
        assert there.contents["output.scaled.csv"] == b"7.5\n2.5\n5.0\n2.5\n"
        label = json.loads(there.contents["output.deep.label.json"])
        assert label == {"label": "größer & <kleiner>", "rows": 4}
        assert told(here.contents["notebook"]) == told(there.contents["notebook"])


@covers("4:same-container")
def test_a_container_that_nobody_of_us_made_gives_the_same_by_each_client(both: Both) -> None:
    one, other = (both.made("container", client, "cluster") for client in ("uws-job", "pyvo"))
    assert (one.site, other.site) == ("cluster", "cluster")
    compare(one, other)
    assert one.contents["result.counted.txt"].split() == b"2 1 1 2 1 3".split()
    assert one.contents["stdout"].decode() == "grüß $HOME\n"


ENDLESS = notebook("print('begun', flush=True)", "import time\nwhile True:\n    time.sleep(0.1)")


@covers("4:same-live")
@pytest.mark.parametrize("site", MEMORY)
def test_log_and_progress_are_seen_while_a_notebook_runs(both: Both, site: str) -> None:
    job = both.jobs.submit("notebook", ENDLESS, MEMORY=MEMORY[site])
    with subprocess.Popen([*UWS_JOB, "logs", "-f", job], stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "begun\n"
        until(lambda: both.jobs.look(job)["progress"] == {"done": 1, "of": 2}, "the first cell's end")
        seen = both.jobs.look(job)
        assert (seen["phase"], seen["site"]) == ("EXECUTING", site)
        both.jobs.ask(f"{job}/phase", b"PHASE=ABORT")
        assert follower.stdout.read() == ""
        assert follower.wait(PATIENCE) == 3  # ABORTED
    both.jobs.reach(job, "ABORTED")
    assert both.jobs.states(job)[0] == "completed"
