from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tests.client.conftest import Reply, Standin, Time
from uws_client import connection as module
from uws_client.connection import Connection
from uws_client.errors import NotUws, Refused, Unreachable
from uws_client.printing import printable


def test_busy_server_is_asked_again_when_it_says(
    standin: Standin, connection: Connection, fake_time: Time
) -> None:
    busy = Reply(b"", 503, {"Retry-After": "7"})
    standin.once_each("GET", "/a", busy, Reply(b"", 429, {"Retry-After": "2"}), "here")
    assert connection.get(standin.url + "/a").text == "here"
    assert fake_time.slept == [7.0, 2.0]


def test_retry_after_as_a_date(standin: Standin, connection: Connection, fake_time: Time) -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    standin.once_each("POST", "/a", Reply(b"", 503, {"Retry-After": at}), "here")
    connection.send("POST", standin.url + "/a", form={"PHASE": "RUN"})
    assert 10 < fake_time.slept[0] <= 20
    assert [asked.form for asked in standin.asked] == [{"PHASE": ["RUN"]}] * 2


def test_busy_for_too_long(standin: Standin, connection: Connection, fake_time: Time) -> None:
    standin.on("GET", "/a", Reply(b"down till noon\n", 503, {"Content-Type": "text/plain"}))
    with pytest.raises(Unreachable, match="503 Service Unavailable: down till noon"):
        connection.get(standin.url + "/a")
    assert fake_time.now <= module.BUSY_SECONDS


def test_busy_for_longer_than_we_wait_and_for_no_time_at_all(
    standin: Standin, connection: Connection, fake_time: Time
) -> None:
    standin.on("GET", "/a", Reply(b"", 503, {"Retry-After": "500"}))
    with pytest.raises(Unreachable, match="asks to come back in 500 s"):
        connection.get(standin.url + "/a")
    assert fake_time.slept == []
    standin.on("GET", "/a", Reply(b"", 429, {"Retry-After": "0"}))
    with pytest.raises(Unreachable):
        connection.get(standin.url + "/a")
    assert len(fake_time.slept) < 20


def test_refusal_has_the_servers_words(standin: Standin, connection: Connection) -> None:
    said = Reply(
        b"parameter \x1b[31mscale must be a number", 400, {"Content-Type": "text/plain; charset=utf-8"}
    )
    standin.on("POST", "/a", said)
    with pytest.raises(Refused, match=r"400 Bad Request: parameter .*scale must be a number") as raised:
        connection.send("POST", standin.url + "/a")
    assert raised.value.status == 400
    assert "\x1b" not in str(raised.value)


def test_a_change_whose_answer_is_lost_is_not_sent_again(standin: Standin, connection: Connection) -> None:
    standin.on("POST", "/a", Reply(b"0123456789", cut=2))
    with pytest.raises(Unreachable):
        connection.send("POST", standin.url + "/a", form={"x": "1"})
    assert len(standin.asked) == 1


def test_a_read_is_tried_again_while_there_is_patience(
    standin: Standin, connection: Connection, fake_time: Time
) -> None:
    standin.once_each("GET", "/a", Reply(b"0123", cut=2), Reply(b"", 502), "here")
    assert connection.get(standin.url + "/a", patience=30).text == "here"
    assert len(fake_time.slept) == 2


def test_nobody_there(fake_time: Time) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/a"
        with (
            Connection(url, sleep=fake_time.sleep, clock=fake_time.clock) as connection,
            pytest.raises(Unreachable, match="cannot be reached"),
        ):
            connection.get(url, patience=20)
    assert 15 < fake_time.now <= 20


def test_silence_is_a_time_out(fake_time: Time) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        with (
            Connection(url, timeout=0.1, sleep=fake_time.sleep, clock=fake_time.clock) as connection,
            pytest.raises(Unreachable, match="in time"),
        ):
            connection.get(url)


def test_a_document_has_a_largest_size(
    standin: Standin, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.on("GET", "/a", b"x" * (module.DOCUMENT_BYTES + 1))
    with pytest.raises(NotUws, match="more than"):
        connection.get(standin.url + "/a")


def test_token_is_shown_to_its_server_only(standin: Standin) -> None:
    other = Standin()
    try:
        standin.on("GET", "/a", Reply(b"", 303, {"Location": other.url + "/b"}))
        other.on("GET", "/b", "here")
        with Connection(standin.url, token="secret") as connection:
            assert connection.get(standin.url + "/a").text == "here"
            connection.get(other.url + "/b")
            with connection.stream(standin.url + "/a") as response:
                assert response.read() == b"here"
        assert [asked.headers["Authorization"] for asked in standin.asked] == ["Bearer secret"] * 2
        assert [asked.headers["Authorization"] for asked in other.asked] == [None] * 3
    finally:
        other.close()


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "results/r", "http://[::1"]
)
def test_only_http_is_fetched(standin: Standin, connection: Connection, url: str) -> None:
    with pytest.raises(NotUws):
        connection.get(url)


def test_redirects_without_end(standin: Standin, connection: Connection) -> None:
    standin.on("GET", "/a", Reply(b"", 302, {"Location": "/a"}))
    with pytest.raises(NotUws, match="redirects"):
        connection.get(standin.url + "/a")


def test_printable_keeps_words_and_drops_what_steers_a_terminal() -> None:
    assert printable("α\n\x1b[2J\x07\u202e") == "α\n\ufffd[2J\ufffd\ufffd"
