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
