"""Notebooks on real kernels: what is left behind tells what happened, however the run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat as untyped_nbformat
import pytest

from tests.waiting import PATIENCE, until

nbformat: Any = untyped_nbformat
ROOT = Path(__file__).resolve().parents[2]
PYTHON = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}


@dataclass
class Run:
    """One run of the program in a directory like an attempt's."""

    directory: Path
    extra: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, notebook: bytes, parameters: dict[str, Any] | None = None, *options: str) -> None:
        for name in ("outputs", "tmp", "uws"):
            (self.directory / name).mkdir()
        (self.directory / "notebook.ipynb").write_bytes(notebook)
        (self.directory / "parameters.json").write_text(json.dumps(parameters or {}))
        command = [sys.executable, "-m", "runners.notebook", str(self.directory / "notebook.ipynb")]
        command += ["--parameters", str(self.directory / "parameters.json")]
        command += ["--outputs", str(self.directory / "outputs"), *options]
        temporary = str(self.directory / "tmp")
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "LANG": "C.UTF-8",
            "HOME": temporary,
            "TMPDIR": temporary,
            "UWS_OUTPUTS": str(self.directory / "outputs"),
            "UWS_PROGRESS": str(self.directory / "uws" / "progress"),
            "UWS_ERROR": str(self.directory / "uws" / "error.json"),
            **self.extra,
        }
        with self.path("log").open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.directory / "outputs", env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def path(self, name: str) -> Path:
        return self.directory / name

    def wait_for(self, file: Path) -> str:
        """What a cell has written to `file`, as soon as it is there."""

        def look() -> str:
            if file.exists() and (text := file.read_text()):
                return text
            assert self.process is not None
            assert self.process.poll() is None, self.path("log").read_text()
            return ""

        return until(look, str(file))

    def end(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def executed(self) -> Any:
        notebook = nbformat.read(self.directory / "outputs" / "executed.ipynb", as_version=4)
        nbformat.validate(notebook)
        return notebook

    @property
    def statuses(self) -> list[str]:
        """Of the author's cells, without banners and the injected cell."""
        cells = self.executed.cells
        ours = ("papermill-error-cell-tag", "injected-parameters")
        return [
            c.metadata.papermill["status"] for c in cells if not set(ours) & set(c.metadata.get("tags", []))
        ]

    @property
    def error(self) -> dict[str, str]:
        error: dict[str, str] = json.loads(self.path("uws/error.json").read_text())
        assert 0 < len(error["message"]) <= 300
        assert "\x1b" not in error["message"] + error["detail"]
        return error

    @property
    def progress(self) -> list[str]:
        return self.path("uws/progress").read_text().splitlines()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    run.stop()


def notebook(
    *sources: str, metadata: dict[str, Any] | None = None, tags: dict[int, str] | None = None
) -> bytes:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    for index, tag in (tags or {}).items():
        cells[index].metadata["tags"] = [tag]
    made = nbformat.v4.new_notebook(cells=cells, metadata=PYTHON if metadata is None else metadata)
    text: str = nbformat.writes(made)
    return text.encode()


def text_of(cell: Any, name: str = "stdout") -> str:
    return "".join(out.text for out in cell.outputs if out.output_type == "stream" and out.name == name)


@pytest.mark.covers("3:names-n-and-N", "3:notebook-progress", "3:notebook-kept", "3:notebook-html")
def test_parameters_named_phase_n_and_big_n_keep_their_case_and_type(run: Run) -> None:
    source = "phase = 'x'\nN = 1\nn = 2\nlast = None\n"
    show = "print(repr((phase, N, n, last)))"
    run.start(
        notebook(source, show, tags={0: "parameters"}),
        {"phase": 'a "quoted" \\ é\n', "N": 7, "n": 0.5, "last": [1, {"k": None}]},
    )
    assert run.end() == 0, run.path("log").read_text()
    values = repr(('a "quoted" \\ é\n', 7, 0.5, [1, {"k": None}]))
    assert text_of(run.executed.cells[-1]).strip() == values
    assert run.statuses == ["completed", "completed"]
    assert run.executed.metadata.papermill["parameters"]["N"] == 7
    assert run.progress == ["0 2", "1 2", "2 2"]
    assert values in run.path("log").read_text()  # what is printed is in the log too
    assert "<html" in run.path("outputs/executed.html").read_text()
    assert sorted(p.name for p in run.path("outputs").iterdir()) == ["executed.html", "executed.ipynb"]
    assert not list(run.path("tmp").glob("jupyter-*"))  # no sockets left behind
    assert not run.path("uws/error.json").exists()


@pytest.mark.covers("3:notebook-cell-states", "3:notebook-error-cell", "3:notebook-kept", "3:notebook-html")
def test_a_cell_that_raises_is_named_and_the_rest_is_pending(run: Run) -> None:
    run.start(notebook("x = 1", "{}['flux']", "y = 2"))
    assert run.end() == 1
    assert run.statuses == ["completed", "failed", "pending"]
    assert run.executed.metadata.papermill["exception"] is True
    assert run.error["message"] == "Cell 2 of the notebook raised KeyError: 'flux'"
    assert "Traceback" in run.error["detail"]
    assert run.progress[-1] == "1 3"
    assert "Cell 2 of the notebook raised" in run.executed.cells[0].source  # the banner
    assert "Cell 2 of the notebook raised" in run.path("outputs/executed.html").read_text()


@pytest.mark.covers("3:notebook-error-cell")
def test_a_message_is_one_short_line_whatever_is_raised(run: Run) -> None:
    run.start(notebook("raise ValueError('\\x1b[31mred\\n\\x00' + 'x' * 3_000_000)"))
    assert run.end() == 1
    assert run.error["message"].startswith("Cell 1 of the notebook raised ValueError: red xxx")
    assert run.error["message"].isprintable()
    assert len(run.error["detail"]) < 40_000
    assert run.path("outputs/executed.ipynb").stat().st_size < 1_500_000


@pytest.mark.covers("3:notebook-cell-states")
def test_sys_exit_with_a_number_is_a_failure(run: Run) -> None:
    run.start(notebook("import sys; sys.exit(3)", "y = 2"))
    assert run.end() == 1
    assert run.statuses == ["failed", "pending"]
    assert run.error["message"] == "Cell 1 of the notebook called sys.exit(3)"


@pytest.mark.parametrize("source", ["import sys; sys.exit(0)", "raise SystemExit", "exit"])
@pytest.mark.covers("3:notebook-cell-states")
def test_a_notebook_may_end_itself_well(run: Run, source: str) -> None:
    run.start(notebook("x = 1", source, "y = 2"))
    assert run.end() == 0
    assert run.statuses == ["completed", "completed", "pending"]
    assert not run.executed.metadata.papermill["exception"]
    assert run.progress[-1] == "2 3"
    assert not run.path("uws/error.json").exists()


def test_a_cell_may_be_expected_to_raise(run: Run) -> None:
    run.start(notebook("1 / 0", "print('on')", tags={0: "raises-exception"}))
    assert run.end() == 0
    assert run.statuses == ["completed", "completed"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL while cell 2"),
        ("import os; os._exit(5)", "ended with exit code 5 while cell 2"),
    ],
)
@pytest.mark.covers("3:bad-kills-kernel", "3:notebook-cell-states", "3:notebook-kept")
def test_a_dead_kernel_fails_the_cell_that_was_running(run: Run, source: str, words: str) -> None:
    run.start(notebook("print('before')", f"print('here', flush=True); {source}", "y = 2"))
    assert run.end() == 4
    assert run.statuses == ["completed", "failed", "pending"]
    assert run.executed.metadata.papermill["exception"] is True
    assert words in run.error["message"]
    assert run.progress[-1] == "1 3"
    dead = run.executed.cells[3]  # behind the banner, the first cell and the anchor
    assert any(out.output_type == "error" and words in out.evalue for out in dead.outputs)


@pytest.mark.covers("3:notebook-cell-states", "3:bad-endless")
def test_a_cell_over_its_time_is_interrupted_and_failed(run: Run) -> None:
    endless = "import time\nprint('started', flush=True)\nwhile True: time.sleep(0.1)"
    run.start(notebook("x = 1", endless, "y = 2"), None, "--cell-timeout", "2")
    assert run.end() == 5
    assert run.statuses == ["completed", "failed", "pending"]
    assert run.error["message"] == "Cell 2 of the notebook ran longer than its limit of 2 s"
    errors = [out.ename for out in run.executed.cells[3].outputs if out.output_type == "error"]
    assert errors == ["KeyboardInterrupt", "CellTimeoutError"]  # where it was, and why it ended


@pytest.mark.parametrize(
    ("signum", "code", "word"), [(signal.SIGTERM, 143, "stopped"), (signal.SIGINT, 130, "interrupted")]
)
@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.covers("3:notebook-cell-states", "3:notebook-kept", "3:bad-endless")
def test_a_signal_interrupts_the_cell_and_saves(
    run: Run, signum: int, code: int, word: str, deaf: bool
) -> None:
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" if deaf else ""
    endless = (
        ignore + "import os, time\nprint('here', flush=True)\nopen('started', 'w').write(str(os.getpid()))\n"
    )
    # ipykernel sets its own handler for each cell, so a deaf cell ignores the signal within it
    run.start(notebook("x = 1", endless + "while True: time.sleep(0.1)", "y = 2"))
    kernel = int(run.wait_for(run.path("outputs/started")))
    assert run.process is not None
    began = time.monotonic()
    run.process.send_signal(signum)
    assert run.end() == code
    assert time.monotonic() - began < 10  # the grace period
    assert run.statuses == ["completed", "interrupted", "pending"]
    assert run.executed.metadata.papermill["exception"] is True
    assert run.error["message"] == f"The notebook was {word} while cell 2 of the notebook was running"
    assert run.progress[-1] == "1 3"
    assert "here" in text_of(run.executed.cells[3])
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)


@pytest.mark.covers("3:notebook-kept")
def test_after_sigkill_the_last_save_tells_how_far_it_came(run: Run) -> None:
    endless = "import os, time\nopen('started', 'w').write(str(os.getpid()))\nwhile True: time.sleep(0.1)"
    run.start(notebook("x = 1", endless, "y = 2"))
    kernel = int(run.wait_for(run.path("outputs/started")))
    until(lambda: run.statuses == ["completed", "running", "pending"], lambda: str(run.statuses))
    run.stop()
    with suppress(ProcessLookupError):
        os.kill(kernel, signal.SIGKILL)
    assert run.statuses == ["completed", "running", "pending"]


@pytest.mark.covers("3:notebook-kernel", "3:bad-kernel-missing", "3:notebook-kept")
def test_a_missing_kernel_is_named_with_its_language_and_what_there_is(run: Run) -> None:
    metadata = {"kernelspec": {"name": "julia-1.9", "language": "julia", "display_name": "Julia"}}
    run.start(notebook("x = 1", metadata=metadata))
    assert run.end() == 3
    message = run.error["message"]
    assert "'julia-1.9'" in message
    assert "for julia" in message
    assert "python3 (python)" in message
    assert run.statuses == ["pending"]


@pytest.mark.covers("3:notebook-kernel")
def test_another_kernel_of_the_same_language_will_do(run: Run) -> None:
    metadata = {
        "kernelspec": {"name": "my-conda-env", "display_name": "x"},
        "language_info": {"name": "Python"},
    }
    run.start(notebook("x = 1", metadata=metadata))
    assert run.end() == 0
    assert "my-conda-env is not installed; using python3" in run.path("log").read_text()


@pytest.mark.covers("3:notebook-kernel")
def test_a_kernel_of_the_name_is_preferred(run: Run) -> None:
    spec = run.path("jupyter/kernels/mine")
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    described = {"argv": argv, "display_name": "mine", "language": "python", "env": {"WHO": "mine"}}
    spec.joinpath("kernel.json").write_text(json.dumps(described))
    run.extra["JUPYTER_PATH"] = str(run.path("jupyter"))
    metadata = {"kernelspec": {"name": "mine", "language": "python", "display_name": "x"}}
    run.start(notebook("import os; print(os.environ['WHO'])", metadata=metadata))
    assert run.end() == 0
    assert text_of(run.executed.cells[0]) == "mine\n"


@pytest.mark.covers("3:notebook-kernel")
def test_a_kernel_asked_for_by_name_is_that_one_or_none(run: Run) -> None:
    run.start(notebook("x = 1"), None, "--kernel", "another")
    assert run.end() == 3
    assert "'another'" in run.error["message"]


def test_a_kernel_that_cannot_start_is_a_failure_of_its_own(run: Run) -> None:
    spec = run.path("jupyter/kernels/broken")
    spec.mkdir(parents=True)
    described = {
        "argv": [sys.executable, "-c", "raise SystemExit(9)"],
        "display_name": "b",
        "language": "python",
    }
    spec.joinpath("kernel.json").write_text(json.dumps(described))
    run.extra["JUPYTER_PATH"] = str(run.path("jupyter"))
    run.start(notebook("x = 1"), None, "--kernel", "broken")
    assert run.end() == 6
    assert run.error["message"].startswith("The kernel did not start")
    assert run.statuses == ["pending"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n", "not UTF-8"),
        (b"{", "not valid JSON"),
        (b"[1]", "not a Jupyter notebook"),
        (b'{"nbformat": 3, "worksheets": []}', "format 3"),
        (b'{"nbformat": 4, "cells": [{"cell_type": "code"}]}', "Cell 1"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"nbformat": 4, "metadata": {}, "cells": 7}', "no list of cells"),
    ],
)
@pytest.mark.covers("3:bad-not-a-notebook", "3:bad-json-bomb")
def test_what_is_no_notebook_is_refused_in_one_sentence(run: Run, content: bytes, words: str) -> None:
    run.start(content)
    assert run.end() == 2
    assert words in run.error["message"]
    assert "Traceback" not in run.path("log").read_text()


@pytest.mark.parametrize("parameters", [{"x; import os": 1}, {"lambda": 1}, {"": 1}])
def test_a_name_that_is_none_is_refused(run: Run, parameters: dict[str, Any]) -> None:
    run.start(notebook("x = 1"), parameters)
    assert run.end() == 7
    assert "cannot be the name of a parameter" in run.error["message"]


@pytest.mark.covers("3:bad-prints")
def test_two_hundred_megabytes_of_print_stay_out_of_memory_and_notebook(run: Run) -> None:
    prints = "for i in range(2_000_000): print(f'line {i:07d} ' + 'x' * 86)"
    run.start(notebook("x = 1", prints, "print('after')"))
    assert run.process is not None
    status = Path(f"/proc/{run.process.pid}/status")  # of our process; the kernel's memory is the user's
    peak = 0
    while run.process.poll() is None:
        with suppress(OSError, StopIteration):
            line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            peak = max(peak, int(line.split()[1]))
        time.sleep(0.05)
    assert run.end() == 0, run.path("log").read_bytes()[-2000:]
    assert run.statuses == ["completed"] * 3
    text = text_of(run.executed.cells[1])
    assert text.startswith("line 0000000")
    assert text.endswith("x\n")
    assert "characters left out here" in text
    assert len(text) < 1.1 * 1024**2
    assert text_of(run.executed.cells[2]) == "after\n"
    assert run.path("outputs/executed.html").stat().st_size < 4 * 1024**2
    assert peak < 500 * 1024, f"{peak} kB"


@pytest.mark.covers("3:bad-prints")
def test_large_and_many_rich_outputs_are_bounded(run: Run) -> None:
    large = "from IPython.display import HTML, display\ndisplay(HTML('<p>' + 'y' * 20_000_000))"
    # with a breath now and then, as a kernel drops messages when more than a thousand wait
    loop = "for i in range(3000):\n display({'text/plain': str(i)}, raw=True)\n i % 100 or time.sleep(0.05)"
    many = f"import time\n{loop}"
    run.start(notebook(large, many))
    assert run.end() == 0
    first, second = run.executed.cells
    assert "20.0 MB was left out" in first.outputs[0].data["text/plain"]
    assert len(second.outputs) == 1001
    assert second.outputs[999].data["text/plain"] == "999"
    assert second.outputs[1000].text == "[2000 further outputs of this cell were left out]\n"


def test_a_notebook_that_cannot_be_saved_is_said_in_a_sentence(run: Run) -> None:
    # root may write everywhere, so the directory is taken away instead of closed
    code = "import os, shutil\nshutil.rmtree(os.environ['UWS_OUTPUTS'])"
    run.start(notebook(code))
    assert run.end() == 8
    assert run.error["message"].startswith("The executed notebook could not be saved: ")


def test_cells_without_a_good_id_get_one(run: Run) -> None:
    cells: list[dict[str, Any]]
    cells = [{"cell_type": "code", "source": f"print({i})", "id": "twice"} for i in range(2)]
    cells.append({"cell_type": "code", "source": ["print(2)\n", "print(3)"]})
    run.start(json.dumps({"nbformat": 4, "nbformat_minor": 5, "cells": cells}).encode())
    assert run.end() == 0
    assert [text_of(cell) for cell in run.executed.cells] == ["0\n", "1\n", "2\n3\n"]
    assert len({cell.id for cell in run.executed.cells}) == 3


def test_files_of_the_notebook_do_not_shadow_our_modules(run: Run) -> None:
    run.start(notebook("open('nbconvert.py', 'w').write('raise SystemExit(77)')"))
    assert run.end() == 0
    assert run.path("outputs/executed.html").exists()


def test_a_deep_directory_falls_back_to_a_short_one_for_sockets(run: Run) -> None:
    deep = run.path("d" * 100)
    deep.mkdir()
    run.extra |= {"TMPDIR": str(deep), "HOME": str(deep)}
    run.start(notebook("import os; print(os.environ['JUPYTER_RUNTIME_DIR'])"))
    assert run.end() == 0, run.path("log").read_text()
    directory = text_of(run.executed.cells[0]).strip()
    assert len(directory) < 100
    assert not Path(directory).exists()


def test_unusable_arguments_are_not_taken_for_a_bad_notebook() -> None:
    command = [sys.executable, "-m", "runners.notebook", "--nonsense"]
    assert (
        subprocess.run(command, cwd=ROOT, capture_output=True, timeout=PATIENCE, check=False).returncode == 64
    )


def test_the_kernel_is_reached_without_network(run: Run) -> None:
    code = "from ipykernel.connect import get_connection_info\nprint(get_connection_info())"
    run.start(notebook(code))
    assert run.end() == 0
    assert json.loads(text_of(run.executed.cells[0]))["transport"] == "ipc"


def test_a_signal_before_the_first_cell_leaves_all_cells_pending(run: Run) -> None:
    spec = run.path("jupyter/kernels/slow")
    spec.mkdir(parents=True)
    argv = [
        sys.executable,
        "-c",
        f"import time; open({str(run.path('started'))!r}, 'w').write('x'); time.sleep(600)",
    ]
    spec.joinpath("kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "s", "language": "python"})
    )
    run.extra["JUPYTER_PATH"] = str(run.path("jupyter"))
    run.start(notebook("x = 1"), None, "--kernel", "slow")
    run.wait_for(run.path("started"))
    run.wait_for(run.path("outputs/executed.ipynb"))
    assert run.process is not None
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 143
    assert run.statuses == ["pending"]
    assert run.error["message"] == "The notebook was stopped while no cell was running"
