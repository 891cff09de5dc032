from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uws_server.domain.instants import from_iso, to_iso

EARLIEST = -62135596800000  # 0001-01-01
LATEST = 253402300799999  # 9999-12-31


@pytest.mark.covers("UWS-30", "UWS-31")
@given(st.integers(EARLIEST, LATEST))
def test_what_is_written_is_read_back_exactly(instant: int) -> None:
    text = to_iso(instant)
    assert len(text) == 24
    assert text.endswith("Z")
    assert from_iso(text) == instant


@pytest.mark.covers("UWS-32")
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2015", datetime(2015, 1, 1, tzinfo=UTC)),
        ("20151026", datetime(2015, 10, 26, tzinfo=UTC)),
        ("2015-10-26", datetime(2015, 10, 26, tzinfo=UTC)),
        ("2015-10-26 09:00", datetime(2015, 10, 26, 9, tzinfo=UTC)),
        ("2015-10-26T09:00:01", datetime(2015, 10, 26, 9, 0, 1, tzinfo=UTC)),
        ("2031-01-01T00:00:00.000000Z", datetime(2031, 1, 1, tzinfo=UTC)),
        (" 2015-10-26T09:00:01Z ", datetime(2015, 10, 26, 9, 0, 1, tzinfo=UTC)),
    ],
)
def test_the_forms_that_clients_send(text: str, meant: datetime) -> None:
    assert from_iso(text) == int(meant.timestamp() * 1000)


@pytest.mark.covers("UWS-32")
@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "2015-13-01", "2015-02-30", "2015-10-26T25:00", "-1", "99999"),
        *("2015-10-26T09:00:01+01:00", "2015-10-26T09:00:01+00:00", "٢٠١٥", "2015-10-26T09:00:01ZZ"),
    ],
)
def test_anything_else_is_refused_with_a_sentence_that_quotes_it(text: str) -> None:
    with pytest.raises(ValueError, match="is not an instant"):
        from_iso(text)


@given(st.text())
def test_no_text_does_more_harm_than_a_refusal(text: str) -> None:
    try:
        instant = from_iso(text)
    except ValueError:
        return
    assert EARLIEST <= instant <= LATEST
