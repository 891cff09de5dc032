"""What an image runs by itself, asked of a registry over real HTTP."""

from __future__ import annotations

import json
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runners.base import Busy, Unrunnable
from runners.kubernetes import registry as module
from runners.kubernetes.logins import KEY, Login, login
from runners.kubernetes.reference import Reference, parse
from runners.kubernetes.registry import Images, Registry
from tests.unit.registry_double import (
    BASIC,
    CONFIG,
    PASSWORD,
    TOKEN,
    USER,
    RegistryDouble,
    Sent,
    serving_registry,
    sha256,
)
from tests.waiting import PATIENCE

NAME = "registry.example/team/stars"
WORDS = {"Entrypoint": ["/bin/stars", "--all"], "Cmd": ["m31"]}
pytestmark = pytest.mark.covers("4:any-image")


class Clock:
    """A clock that goes on when it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def registry() -> Iterator[RegistryDouble]:
    with serving_registry() as double:
        yield double


@pytest.fixture
def other() -> Iterator[RegistryDouble]:
    """A second one, which no setting names."""
    with serving_registry() as double:
        yield double


def asking(registry: RegistryDouble, *, known: Login | None = None, **more: Any) -> Images:
    return Images(
        {"registry.example": Registry(f"http://{registry.address}")}, login=lambda _image: known, **more
    )


US = Login(USER, PASSWORD)


def refused(images: Images, name: str = f"{NAME}:1") -> str:
    with pytest.raises(Unrunnable) as said:
        images.ask(name)
    assert str(said.value).startswith(f"What the image {name} runs by itself is not known: ")
    assert str(said.value).endswith(". Give a command.")
    return str(said.value)


# ---- what is read ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "command"),
    [
        (WORDS, ("/bin/stars", "--all", "m31")),
        ({"Entrypoint": ["stars"], "Cmd": None}, ("stars",)),
        ({"Cmd": ["sh", "-c", "true"], "Entrypoint": []}, ("sh", "-c", "true")),
    ],
)
def test_entrypoint_and_cmd_are_the_command(
    registry: RegistryDouble, config: dict[str, Any], command: tuple[str, ...]
) -> None:
    digest = registry.add("1", config)
    found = asking(registry).ask(f"{NAME}:1")
    assert (found.name, found.command) == (f"{NAME}@{digest}", command)
    assert len(registry.requests) == 2


def test_of_several_platforms_the_sites_is_read_and_pinned(registry: RegistryDouble) -> None:
    amd = registry.add("amd", {"Cmd": ["amd"]})
    arm = registry.add("arm", {"Cmd": ["arm"]}, architecture="arm64")
    listed = [("unknown", "unknown", amd), ("windows", "arm64", amd), ("linux", "amd64", amd)]
    registry.index("1", [*listed, ("linux", "arm64", arm)])
    assert asking(registry).ask(f"{NAME}:1").name == f"{NAME}@{amd}"
    found = asking(registry, architecture="arm64").ask(f"{NAME}:1")
    assert (found.name, found.command) == (f"{NAME}@{arm}", ("arm",))


def test_a_digest_is_asked_for_and_has_the_last_word(registry: RegistryDouble) -> None:
    registry.add("1", {"Cmd": ["new"]})
    old = registry.add("0", {"Cmd": ["old"]})
    assert asking(registry).ask(f"{NAME}:1@{old}").command == ("old",)


def test_a_name_without_a_registry_is_the_default_ones(registry: RegistryDouble) -> None:
    digest = registry.add("latest", WORDS)
    images = asking(registry, default_registry="registry.example/team")
    assert images.ask("stars").name == f"{NAME}@{digest}"
    assert images.in_full("stars:2") == f"{NAME}:2"
    assert images.in_full("localhost/stars:2") == "localhost/stars:2"
    assert "names no registry" in refused(asking(registry), "stars")
    assert asking(registry).in_full("stars:2") == "stars:2"


# ---- logging in --------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_registry_that_wants_a_login_gets_it_and_only_then(registry: RegistryDouble, auth: str) -> None:
    registry.auth = auth
    registry.add("1", WORDS)
    assert asking(registry, known=US).ask(f"{NAME}:1").command[0] == "/bin/stars"
    bearer = f"Bearer {TOKEN} repository:team/stars:pull"
    shown = [allowed for _, allowed in registry.requests]
    assert shown == ["", BASIC, BASIC] if auth == "basic" else ["", BASIC, bearer, bearer]


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_without_a_login_it_is_the_registrys_word(registry: RegistryDouble, auth: str) -> None:
    registry.auth = auth
    registry.add("1", WORDS)
    assert "the registry registry.example answers 401: authentication required" in refused(asking(registry))


def test_a_wrong_login_is_asked_for_once(registry: RegistryDouble) -> None:
    registry.auth = "basic"
    assert "401" in refused(asking(registry, known=Login(USER, "guessed")))
    assert len(registry.requests) == 2


def test_a_login_elsewhere_must_be_encrypted_or_named(
    registry: RegistryDouble, other: RegistryDouble
) -> None:
    registry.auth, registry.realm = "bearer", f"http://{other.address}/token"
    assert "without encryption" in refused(asking(registry, known=US))
    registry.realm = f"https://{other.address}/token"
    assert "where the site's settings permit no request" in refused(asking(registry, known=US))
    assert other.requests == []


def test_the_pull_secret_is_read_as_the_kubelet_does() -> None:
    def said(**entries: Any) -> Login | None:
        document = json.dumps({"auths": {name.replace("__", "/"): one for name, one in entries.items()}})
        return login({"data": {KEY: b64encode(document.encode()).decode()}}, parse(f"{NAME}:1"))

    host, ours = "registry.example", {"username": USER, "password": PASSWORD}
    encoded = {"auth": b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
    for name in (
        host,
        f"https://{host}/v1/",
        f"{host}/v2/",
        "*.example",
        f"{host}/team",
        f"{host}/team/stars",
    ):
        assert said(**{name: ours}) == US, name
    assert said(**{host: encoded}) == US
    assert said(**{host: {"username": "x"}, f"{host}/team": ours}) == US
    for name in ("registry.example.org", f"{host}:5000", f"{host}/tea", "*", "example"):
        assert said(**{name: ours}) is None, name
    assert said(**{host: {}}) is None
    for broken in ({}, {"data": {KEY: "!"}}, {"data": {KEY: b64encode(b"[]").decode()}}):
        with pytest.raises(ValueError, match="dockerconfigjson"):
            login(broken, Reference(host, "a", "1"))


# ---- what cannot be had ------------------------------------------------------------------------------


def test_an_image_that_is_not_there_is_the_registrys_word(registry: RegistryDouble) -> None:
    assert "the registry registry.example answers 404: it is not known here" in refused(asking(registry))


def test_a_registry_that_is_not_listed_is_not_asked(registry: RegistryDouble) -> None:
    name = f"{registry.address}/team/stars:1"
    assert f"do not list {registry.address} among the registries" in refused(asking(registry), name)
    assert registry.requests == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_a_registry_that_is_away_is_asked_again_later(registry: RegistryDouble, status: int) -> None:
    clock = Clock()
    images = asking(registry, clock=clock)
    registry.instead = lambda _path: (status, {"Retry-After": "20"}, b"")
    for _ in range(2):
        with pytest.raises(Busy, match=f"registry.example answers {status}; its registry is asked again"):
            images.ask(f"{NAME}:1")
    assert len(registry.requests) == 1
    registry.instead = lambda _path: None
    registry.add("1", WORDS)
    clock.now += 19.9
    with pytest.raises(Busy):
        images.ask(f"{NAME}:1")
    clock.now += 0.2
    assert images.ask(f"{NAME}:1").command[0] == "/bin/stars"


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
@pytest.mark.parametrize("part", ["manifests/bad", "blobs/"])
def test_an_image_that_cannot_be_read_just_now_keeps_no_other_waiting(
    registry: RegistryDouble, status: int, part: str
) -> None:
    clock = Clock()
    images = asking(registry, clock=clock)
    registry.add("bad", {"Cmd": ["bad"]})
    bad = next(iter(registry.blobs))
    registry.add("good", {"Cmd": ["good"]})
    part = part if "manifests" in part else part + bad
    registry.instead = lambda path: (status, {"Retry-After": "200"}, b"") if part in path else None
    for _ in range(2):
        with pytest.raises(Busy, match=f"answers {status}"):
            images.ask(f"{NAME}:bad")
    assert images.ask(f"{NAME}:good").command == ("good",)
    asked = registry.paths
    assert len(asked) == len(set(asked))
    clock.now += 201
    registry.instead = lambda _path: None
    assert images.ask(f"{NAME}:bad").command == ("bad",)


def test_an_image_whose_answer_breaks_off_keeps_no_other_waiting(registry: RegistryDouble) -> None:
    images = asking(registry)
    registry.add("good", WORDS)
    broken = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"
    registry.instead = lambda path: iter([broken]) if path.endswith("/bad") else None
    with pytest.raises(Busy, match="broke off"):
        images.ask(f"{NAME}:bad")
    assert images.ask(f"{NAME}:good").command[0] == "/bin/stars"


def test_a_registry_that_has_had_too_many_requests_is_left_alone_for_all_images(
    registry: RegistryDouble,
) -> None:
    clock = Clock()
    images = asking(registry, clock=clock)
    registry.add("good", WORDS)
    registry.instead = lambda _path: (429, {"Retry-After": "20"}, b"")
    for tag in ("bad", "good"):
        with pytest.raises(Busy, match="answers 429"):
            images.ask(f"{NAME}:{tag}")
    assert len(registry.requests) == 1
    clock.now += 20.1
    registry.instead = lambda _path: None
    assert images.ask(f"{NAME}:good").command[0] == "/bin/stars"


def test_who_keeps_the_blobs_does_not_say_how_long_the_registry_is_left_alone(
    registry: RegistryDouble, other: RegistryDouble
) -> None:
    registry.add("bad", {"Cmd": ["bad"]})
    registry.instead = _redirecting(f"http://{other.address}", next(iter(registry.blobs)))
    other.instead = lambda _path: (429, {"Retry-After": "300"}, b"")
    registry.add("good", WORDS)
    images = Images(
        {
            "registry.example": Registry(f"http://{registry.address}"),
            "blobs.example": Registry(f"http://{other.address}"),
        }
    )
    with pytest.raises(Busy, match=rf"registry\.example \(at {other.address}\) answers 429"):
        images.ask(f"{NAME}:bad")
    assert images.ask(f"{NAME}:good").command[0] == "/bin/stars"


def test_no_more_than_so_many_failures_are_remembered(
    registry: RegistryDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 4)
    images = asking(registry)
    registry.instead = lambda _path: (500, {}, b"")
    for number in (0, 1, 2, 3, 4, 4, 0):
        with pytest.raises(Busy):
            images.ask(f"{NAME}:{number}")
    assert [path.rpartition("/")[2] for path in registry.paths] == ["0", "1", "2", "3", "4", "0"]


def test_a_port_where_nobody_listens_is_busy() -> None:
    with serving_registry() as gone:
        images = asking(gone)
    with pytest.raises(Busy, match="does not answer"):
        images.ask(f"{NAME}:1")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "neither ENTRYPOINT nor CMD"),
        (None, "neither ENTRYPOINT nor CMD"),
        ({"Entrypoint": [], "Cmd": []}, "neither ENTRYPOINT nor CMD"),
        ({"Entrypoint": "stars"}, "no list of words"),
        ({"Cmd": {"a": 1}}, "no list of words"),
        ({"Cmd": ["a", 1]}, "no list of words"),
        ({"Cmd": ["a\0b"]}, "no list of words"),
        ([], "neither ENTRYPOINT nor CMD"),
        ("x", "cannot be read"),
    ],
)
def test_a_configuration_that_says_nothing_to_run_is_refused(
    registry: RegistryDouble, config: Any, words: str
) -> None:
    registry.add("1", config)
    assert words in refused(asking(registry))


def test_an_image_for_other_processors_is_refused(registry: RegistryDouble) -> None:
    digest = registry.add("1", WORDS, architecture="arm64")
    assert "the image is for linux/arm64, this site runs linux/amd64" in refused(asking(registry))
    registry.index("2", [("linux", "arm64", digest)])
    assert "not there for linux/amd64" in refused(asking(registry), f"{NAME}:2")


_NOTHING = {"digest": sha256(b""), "mediaType": CONFIG}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "cannot be read"),
        ({}, "no 'config'"),
        ({"config": 1}, "no 'config'"),
        ({"config": {"mediaType": "application/vnd.oci.empty.v1+json"}}, "no image of a container"),
        ({"config": {"mediaType": CONFIG}}, "names no digest"),
        ({"config": {"mediaType": CONFIG, "digest": "sha256:../../x"}}, "names no digest"),
        ({"config": _NOTHING}, "answers 404"),
        ({"manifests": 1}, "index cannot be read"),
        ({"manifests": [1]}, "index cannot be read"),
        ({"manifests": [], "layers": []}, "says two things"),
        ({"manifests": []}, "not there for"),
        ({"manifests": [{"platform": {"os": "linux", "architecture": "amd64"}}]}, "names no digest"),
    ],
)
def test_a_manifest_that_is_none_is_refused(registry: RegistryDouble, document: Any, words: str) -> None:
    registry.put("1", document)
    assert words in refused(asking(registry))


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'"text"', b"<html>"])
def test_what_is_no_json_is_refused(registry: RegistryDouble, content: bytes) -> None:
    registry.manifests["1"] = content
    assert "cannot be read" in refused(asking(registry))


def test_an_index_in_an_index_is_refused(registry: RegistryDouble) -> None:
    inner = registry.index("inner", [])
    registry.index("1", [("linux", "amd64", inner)])
    assert "another index" in refused(asking(registry))


def test_content_that_is_not_what_its_digest_says_is_refused(registry: RegistryDouble) -> None:
    registry.add("1", WORDS)
    config = next(iter(registry.blobs))
    registry.blobs[config] = registry.blobs[config].replace(b"m31", b"m32")
    assert f"{config} is something else" in refused(asking(registry))
    digest = registry.add("2", WORDS)
    registry.manifests[digest] += b" "
    assert f"{digest} is something else" in refused(asking(registry), f"{NAME}@{digest}")


# ---- bounds ------------------------------------------------------------------------------------------


def _too_large(path: str) -> Sent:
    return 200, {"Content-Length": str(module.MOST + 2)}, b" " * (module.MOST + 1)


@pytest.mark.covers("4:registry-bounds")
@pytest.mark.parametrize("what", ["manifests", "blobs", "token"])
def test_what_is_too_large_is_not_read_to_its_end(registry: RegistryDouble, what: str) -> None:
    registry.auth = "bearer"
    registry.add("1", WORDS)
    registry.instead = lambda path: _too_large(path) if what in path else None
    assert "answers with more than" in refused(asking(registry, known=US))


def _drip(first: bytes) -> Iterator[bytes]:
    yield first
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        yield b"x"
        time.sleep(0.02)


@pytest.mark.covers("4:registry-bounds")
@pytest.mark.parametrize("first", [b"HTTP/1.1 200 OK\r\nA: ", b"HTTP/1.1 200 OK\r\n\r\n", b"", b"HTTP/1.1 1"])
def test_an_answer_without_end_is_given_up(
    registry: RegistryDouble, first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.5)
    registry.instead = lambda _path: _drip(first)
    began = time.monotonic()
    with pytest.raises(Busy, match=r"takes too long to answer|does not answer"):
        asking(registry).ask(f"{NAME}:1")
    assert time.monotonic() - began < PATIENCE / 2


@pytest.mark.covers("4:registry-bounds")
def test_who_was_silent_is_left_alone_for_longer_than_it_was_waited_for(
    registry: RegistryDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.2)
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    clock = Clock()
    images = asking(registry, clock=clock)
    registry.instead = lambda _path: _drip(b"")
    for later in (0.0, 0.59):
        clock.now += later
        with pytest.raises(Busy):
            images.ask(f"{NAME}:1")
    assert len(registry.requests) == 1


def test_an_answer_that_breaks_off_is_busy(registry: RegistryDouble) -> None:
    registry.instead = lambda _path: iter([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"])
    with pytest.raises(Busy, match="broke off"):
        asking(registry).ask(f"{NAME}:1")


def test_no_http_at_all_is_busy(registry: RegistryDouble) -> None:
    registry.instead = lambda _path: iter([b"220 mail.example ESMTP\r\n"])
    with pytest.raises(Busy, match="does not answer"):
        asking(registry).ask(f"{NAME}:1")


# ---- redirects ---------------------------------------------------------------------------------------


def _redirecting(to: str, part: str = "/blobs/") -> Any:
    return lambda path: (307, {"Location": to + path}, b"") if part in path else None


@pytest.mark.covers("4:registry-bounds")
def test_a_blob_is_read_where_it_is_without_the_login(
    registry: RegistryDouble, other: RegistryDouble
) -> None:
    registry.auth = "basic"
    registry.add("1", WORDS)
    other.blobs |= registry.blobs
    registry.instead = _redirecting(f"http://{other.address}")
    images = Images(
        {
            "registry.example": Registry(f"http://{registry.address}"),
            "blobs.example": Registry(f"http://{other.address}"),
        },
        login=lambda _image: US,
    )
    assert images.ask(f"{NAME}:1").command[0] == "/bin/stars"
    assert [allowed for _, allowed in registry.requests] == ["", BASIC, BASIC]
    assert [allowed for _, allowed in other.requests] == [""]


@pytest.mark.covers("4:registry-bounds")
@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Bearer realm="http://{}/token",service="x"'])
def test_who_keeps_the_blobs_is_given_no_login_however_it_asks(
    registry: RegistryDouble, other: RegistryDouble, challenge: str
) -> None:
    registry.add("1", WORDS)
    registry.instead = _redirecting(f"http://{other.address}")
    asked = {"WWW-Authenticate": challenge.format(other.address)}
    other.instead = lambda _path: (401, asked, b"")
    images = Images(
        {
            "registry.example": Registry(f"http://{registry.address}"),
            "blobs.example": Registry(f"http://{other.address}"),
        },
        login=lambda _image: US,
    )
    assert "answers 401" in refused(images)
    assert [allowed for _, allowed in registry.requests + other.requests] == ["", "", ""]


@pytest.mark.covers("4:registry-bounds")
@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("http://127.0.0.1:1", "without encryption"),
        ("https://127.0.0.1:1", "permit no request"),
        ("https://10.0.0.1", "permit no request"),
        ("https://[::1]:1", "permit no request"),
        ("https://[::ffff:10.0.0.1]", "permit no request"),
        ("https://169.254.169.254", "permit no request"),
        ("https://100.100.100.200", "permit no request"),
        ("https://168.63.129.16", "permit no request"),
        ("https://0.0.0.0", "permit no request"),
        ("file:///etc/passwd", "no plain http or https URL"),
        ("ftp://127.0.0.1", "no plain http or https URL"),
        ("https://user@127.0.0.1", "no plain http or https URL"),
        ("https://127.0.0.1:99999", "Port out of range"),
        ("https://[::1", "redirects to an address that is none"),
    ],
)
def test_no_redirect_leads_to_where_only_the_operator_may_send(
    registry: RegistryDouble, to: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add("1", WORDS)
    registry.instead = _redirecting(to)
    # An address is what it stands for; the tests' own guard lets nobody look up another machine's.
    monkeypatch.setattr(
        "runners.kubernetes.bounded_http.socket.getaddrinfo",
        lambda host, port, **_: [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port))],
    )
    assert words in refused(asking(registry))


@pytest.mark.covers("4:registry-bounds")
@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "100.100.100.200"])
def test_not_even_the_operator_sends_to_a_metadata_address(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "runners.kubernetes.bounded_http.socket.getaddrinfo",
        lambda _host, port, **_: [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port))],
    )
    images = Images({"registry.example": Registry("http://registry.example")})
    assert "permit no request" in refused(images)


def test_a_ring_of_redirects_is_left(registry: RegistryDouble) -> None:
    registry.instead = lambda path: (302, {"Location": path}, b"")
    assert "redirects more than 3 times" in refused(asking(registry))
    assert len(registry.requests) == 4


# ---- what is remembered ------------------------------------------------------------------------------


def test_a_tag_is_remembered_for_a_minute_and_a_digest_for_an_hour(registry: RegistryDouble) -> None:
    clock = Clock()
    images = asking(registry, clock=clock)
    digest = registry.add("1", {"Cmd": ["old"]})
    assert images.ask(f"{NAME}:1").command == ("old",)
    registry.add("1", {"Cmd": ["new"]})
    clock.now += 59
    assert images.ask(f"{NAME}:1").command == ("old",)
    assert images.ask(f"{NAME}@{digest}").command == ("old",)
    assert len(registry.requests) == 2
    clock.now += 2
    assert images.ask(f"{NAME}:1").command == ("new",)
    assert images.ask(f"{NAME}@{digest}").command == ("old",)
    assert len(registry.requests) == 4
    clock.now += 3600
    assert images.ask(f"{NAME}@{digest}").command == ("old",)
    assert len(registry.requests) == 6


def test_no_more_than_so_many_are_remembered(
    registry: RegistryDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 4)
    images = asking(registry)
    for number in range(4):
        registry.add(str(number), {"Cmd": [str(number)]})
        images.ask(f"{NAME}:{number}")
    asked = len(registry.requests)
    images.ask(f"{NAME}:3")
    assert len(registry.requests) == asked
    images.ask(f"{NAME}:0")
    assert len(registry.requests) > asked


# ---- encryption --------------------------------------------------------------------------------------


def test_certificates_that_cannot_be_read_are_named(registry: RegistryDouble) -> None:
    said = Registry(f"https://{registry.address}", Path("/nowhere/ca.crt"))
    with pytest.raises(Busy, match=r"certificates in /nowhere/ca\.crt cannot be read"):
        Images({"registry.example": said}).ask(f"{NAME}:1")


@pytest.mark.covers("4:registry-bounds")
def test_encryption_gets_no_more_time_than_connecting_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now, allowed = [time.monotonic()], list[float | None]()

    class Slow(socket.socket):
        def connect(self, address: Any) -> None:
            super().connect(address)
            now[0] += 9.5

    class Unencrypted:
        verify_flags = 0

        def wrap_socket(self, sock: socket.socket, **_: Any) -> Any:
            allowed.append(sock.gettimeout())
            raise ssl.SSLError("as who listens here speaks no TLS")

    with serving_registry() as there:
        clock = SimpleNamespace(monotonic=lambda: now[0])
        monkeypatch.setattr("runners.kubernetes.bounded_http.time", clock)
        monkeypatch.setattr("runners.kubernetes.bounded_http.socket.socket", Slow)
        monkeypatch.setattr(
            "runners.kubernetes.bounded_http.ssl.create_default_context",
            lambda **_: Unencrypted(),
        )
        with pytest.raises(Busy, match="speaks no TLS"):
            Images({"registry.example": Registry(f"https://{there.address}")}).ask(f"{NAME}:1")
    assert allowed == [pytest.approx(0.5, abs=0.4)]
