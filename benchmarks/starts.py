"""From submission to the first line of user code, beside the bare command; and notebooks beside papermill."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from benchmarks.parts import BIN, Server, until

_PRINT_TIME = b"import time\nprint(time.time_ns())\n"
_CELLS = (
    "import os, time\nopen(os.environ['BENCH_FIRST'], 'w').write(str(time.time_ns()))\n",
    "print('done')\n",
)


def measure(server: Server, rounds: int) -> dict[str, Any]:
    """Medians, in milliseconds."""
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory)
        script = where / "first.py"
        script.write_bytes(_PRINT_TIME)
        pairs = [(_bare(script), _submitted(server)) for _ in range(rounds)]
        books = [(_papermill(where), _notebook(where, "--no-html")) for _ in range(rounds)]
        rendered = [_notebook(where)[1] for _ in range(rounds)]
    return {
        "bare_command_ms": statistics.median(bare for bare, _ in pairs),
        "submit_to_first_line_ms": statistics.median(ours for _, ours in pairs),
        "papermill_first_cell_ms": statistics.median(plain[0] for plain, _ in books),
        "notebook_first_cell_ms": statistics.median(ours[0] for _, ours in books),
        "notebook_start_ratio": statistics.median(ours[0] / plain[0] for plain, ours in books),
        "papermill_whole_ms": statistics.median(plain[1] for plain, _ in books),
        "notebook_whole_ms": statistics.median(ours[1] for _, ours in books),
        "notebook_whole_with_html_ms": statistics.median(rendered),
    }


def _bare(script: Path) -> float:
    began = time.time_ns()
    output = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, check=True).stdout
    return (int(output) - began) / 1e6


def _submitted(server: Server) -> float:
    mark = uuid.uuid4().hex
    parts = (("script", "first.py", _PRINT_TIME), ("PHASE", "", b"RUN"))
    body = b""
    for name, file_name, content in parts:
        named = f'; filename="{file_name}"' if file_name else ""
        body += f'--{mark}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode()
        body += content + b"\r\n"
    body += f"--{mark}--\r\n".encode()
    request = urllib.request.Request(
        f"{server.url}/script/async", body, {"Content-Type": f"multipart/form-data; boundary={mark}"}
    )
    began = time.time_ns()
    with urllib.request.urlopen(request, timeout=60) as answer:  # follows the 303
        job = answer.url

    def ended() -> bool:
        with urllib.request.urlopen(f"{job}/phase", timeout=60) as phase:
            return phase.read() in {b"COMPLETED", b"ERROR", b"ABORTED"}

    until(ended, f"the end of {job}")
    with urllib.request.urlopen(f"{job}/results/stdout", timeout=60) as output:
        return (int(output.read()) - began) / 1e6


def _notebook_file(where: Path) -> Path:
    path = where / "two.ipynb"
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "id": f"c{n}",
            "source": text,
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        for n, text in enumerate(_CELLS)
    ]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = {"cells": cells, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(book))
    return path


def _papermill(where: Path) -> tuple[float, float]:
    return _timed(where, BIN / "papermill", "--no-progress-bar", _notebook_file(where), where / "out.ipynb")


def _notebook(where: Path, *more: str) -> tuple[float, float]:
    parameters = where / "parameters.json"
    parameters.write_text("{}")
    outputs = where / "outputs"
    outputs.mkdir(exist_ok=True)
    command = (sys.executable, "-m", "runners.notebook", _notebook_file(where))
    return _timed(where, *command, "--parameters", parameters, "--outputs", outputs, *more)


def _timed(where: Path, *command: str | Path) -> tuple[float, float]:
    """Milliseconds to the first cell, and to the end."""
    first = where / "first-cell"
    environment = {**os.environ, "UWS_PROGRESS": os.devnull, "BENCH_FIRST": str(first)}
    began = time.time_ns()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    ended = time.time_ns()
    return (int(first.read_text()) - began) / 1e6, (ended - began) / 1e6
