"""Log lines as JSON: one event a line, which says of which job and attempt it is."""

from __future__ import annotations

import ast
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.redis_servers import PROGRAMS
from tests.waiting import PATIENCE

pytestmark = pytest.mark.covers("4:logs")
ROOT = Path(__file__).parents[2]

SAYS = """
import logging
import threading
from uws_server import logs
logs.configure("json", "info")
log = logging.getLogger("uws_server.watcher")
log.info("job %s attempt %d is %s", "0abc", 2, "ERROR: a\\nb", extra={"site": "here"})
log.warning("job %s: %s", "0def", "odd")
log.warning("no job at all, 100 %")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("job %s attempt %d cannot be stopped", "0ghi", 1)
def broken():
    raise KeyError("in a thread")
thread = threading.Thread(target=broken, name="forget")
thread.start()
thread.join()
class Odd:
    def __del__(self):
        raise OSError("at its end")
del (odd := [Odd()])[0]
raise ValueError("two\\nlines")
"""


def test_a_line_says_of_which_job_and_attempt_it_is_whatever_happens() -> None:
    done = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    told = [(line["level"], line["message"], line.get("job"), line.get("attempt")) for line in lines]
    assert told == [
        ("info", "job 0abc attempt 2 is ERROR: a\nb", "0abc", 2),
        ("warning", "job 0def: odd", "0def", None),
        ("warning", "no job at all, 100 %", None, None),
        ("error", "job 0ghi attempt 1 cannot be stopped", "0ghi", 1),
        ("error", "thread forget ends by an error", None, None),
        ("error", "an error that nobody can catch", None, None),
        ("critical", "the process ends by an error", None, None),
    ]
    assert lines[0]["site"] == "here"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", lines[0]["time"])
    assert "ZeroDivisionError" in lines[3]["error"]
    assert "in a thread" in lines[4]["error"]
    assert "at its end" in lines[5]["error"]
    assert "two\nlines" in lines[6]["error"]


OPERATOR = """
import sys
import urllib.request
from uws_server import logs, operator_port
from uws_server.config import load
logs.configure("json", "info")
port = int(sys.argv[1])
settings = load(environment={}, options={"operator.port": port})
operator_port.written = lambda: "no bytes at all" + 1
with operator_port.listening(settings, {}):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)
    except OSError as error:
        print(error)
"""


def test_a_request_of_the_operator_that_fails_is_a_line_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", OPERATOR, str(port)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert line["message"] == "a request at the operator's port was not answered"
    assert "TypeError" in line["error"]
    assert done.stdout


def test_a_sentence_at_the_start_is_a_line_like_all_others(
    tmp_path: Path, redis_servers: Callable[[str], str]
) -> None:
    file = tmp_path / "uws.yaml"
    url = redis_servers(min(PROGRAMS))
    file.write_text(f"data: /dev/null/x\nredis: {{url: '{url}'}}\nlog: {{format: json}}\n")
    command = [sys.executable, "-m", "uws_server.cli", "reconcile", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (done.returncode, line["level"]) == (78, "critical")
    assert " cannot be made or written: " in line["message"]


def test_what_is_logged_of_a_job_begins_with_it() -> None:
    """As `logs.JsonFormatter` finds the job there."""
    messages = list(logged())
    assert len(messages) > 20
    about = [text for text in messages if re.search(r"\bjob %s|attempt %d", text)]
    assert len(about) > 4
    assert [text for text in about if not text.startswith("job %s")] == []
    assert [text for text in about if "attempt %d" in text and not text.startswith("job %s attempt %d")] == []


def logged() -> Iterator[str]:
    """The texts of all log calls of the server's processes."""
    for room in ("uws_server", "runners", "job_templates"):
        for file in (ROOT / room).rglob("*.py"):
            for call in ast.walk(ast.parse(file.read_text())):
                if (
                    isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Attribute)
                    and isinstance(call.func.value, ast.Name)
                    and call.func.value.id in {"log", "_log"}
                    and call.args
                    and isinstance(call.args[0], ast.Constant)
                ):
                    yield str(call.args[0].value)
