"""What a site says just after it was silent may be of before: nodes tell late what ended meanwhile."""

from __future__ import annotations

import pytest

from runners.base import Unreachable
from tests.engine import Engine
from uws_server.domain.phase import Phase


@pytest.mark.covers("4:fault-api-server")
def test_no_code_is_ended_for_its_time_on_what_a_site_says_right_after_a_silence() -> None:
    engine = Engine()
    job = engine.submit(duration=60)
    engine.work()
    engine.runner.run(job.id, 1)
    engine.look()
    engine.runner.unreachable = "silent"
    engine.now += 80_000
    with pytest.raises(Unreachable):
        engine.look()
    engine.runner.unreachable = ""
    engine.look()
    assert engine.job(job.id).phase is Phase.EXECUTING
    engine.now += 60_000  # by now it has told what there was to tell
    engine.look()
    assert engine.job(job.id).phase is Phase.ABORTED


@pytest.mark.covers("4:fault-node")
def test_no_code_is_ended_for_its_time_while_its_own_node_is_silent() -> None:
    engine = Engine()
    silent, heard = engine.submit(duration=60), engine.submit(duration=60)
    engine.work()
    for job in (silent, heard):
        engine.runner.run(job.id, 1)
    engine.runner.silence(silent.id, 1)
    engine.now += 200_000
    engine.look()
    assert engine.job(silent.id).phase is Phase.EXECUTING
    assert engine.job(heard.id).phase is Phase.ABORTED
    engine.hand_in(silent)
    engine.runner.end(silent.id, 1)  # so says the node when it is back
    engine.look()
    assert engine.job(silent.id).phase is Phase.COMPLETED


@pytest.mark.covers("4:fault-node")
def test_code_that_runs_on_when_its_node_is_heard_of_again_is_ended() -> None:
    engine = Engine()
    job = engine.submit(duration=60)
    engine.work()
    engine.runner.run(job.id, 1)
    engine.runner.silence(job.id, 1)
    engine.now += 200_000
    engine.look()
    engine.runner.silence(job.id, 1, silent=False)
    engine.look()
    assert engine.job(job.id).phase is Phase.ABORTED


@pytest.mark.covers("4:fault-node")
def test_a_site_has_the_time_to_miss_a_node_before_code_is_ended_for_its_time() -> None:
    engine = Engine()
    engine.runner.overrun_seconds = 75.0
    job = engine.submit(duration=60)
    engine.work()
    engine.runner.run(job.id, 1)
    engine.look()
    engine.now += 60_000 + 74_000
    engine.look()
    assert engine.job(job.id).phase is Phase.EXECUTING
    engine.now += 2_000
    engine.look()
    assert engine.job(job.id).phase is Phase.ABORTED
