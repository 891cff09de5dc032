"""What an image runs by itself: its registry is asked, by the OCI distribution spec.

Names of images come from users. So a registry is asked only where the site's settings list it, in bounded
time and bytes (`bounded_http`), and the site's login goes to it, or to where it says that logins go, alone.

Cost of a start that gives no command: two requests, for an image's manifest and its configuration; one more
for an image of several platforms; three more, for refusal, pull secret and token, where the registry wants a
login; one for each redirect. None while the answer is remembered: a minute for a tag, an hour for a digest.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from runners.base import NotYet, Unrunnable
from runners.ending import clean
from runners.kubernetes.bounded_http import Answer, Away, BoundedHttp, Never, Origin
from runners.kubernetes.logins import Login
from runners.kubernetes.reference import DIGEST, Image, Reference, names_registry, parse

_T = TypeVar("_T")

SECONDS = 10.0
"""How long all that is asked for one image may take."""
MOST = 4 * 1024**2
"""Bytes of a manifest, as the spec advises, and of a configuration."""

_MOST_OF_TOKEN = 256 * 1024
_MINUTE, _HOUR = 60.0, 3600.0
_PAUSE, _LONGEST_PAUSE = 10.0, 300.0  # s, before a registry is asked again that gave no answer
_REMEMBERED = 1000  # images, of those known and of those that cannot be read just now
_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_CONFIGURATIONS = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_TOO_MANY = 429
_OVERLOADED = frozenset({408, _TOO_MANY, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Registry:
    """How a registry is asked.

    ``url`` is '' for https and its own name; ``authorities`` a file of certificates, None for the system's.
    """

    url: str = ""
    authorities: Path | None = None


def _nobody(_image: Reference) -> Login | None:
    return None


@dataclass(slots=True)
class _Asking:
    """The requests for one image."""

    image: Reference
    base: str
    until: float
    authorization: str = ""

    @property
    def origin(self) -> Origin:
        return Origin.of(self.base)


@dataclass(slots=True)
class Images:
    """The images of the registries that a site may ask, for one platform.

    ``login`` gives who pulls an image; it is called when a registry wants to know, and may raise as
    `ask` does.
    """

    registries: Mapping[str, Registry] = field(default_factory=dict)
    default_registry: str = ""
    architecture: str = "amd64"
    login: Callable[[Reference], Login | None] = _nobody
    clock: Callable[[], float] = time.monotonic
    _http: BoundedHttp = field(init=False)
    _known: dict[str, tuple[float, Image]] = field(init=False, default_factory=dict)
    # Until when who gives no answer, or has had too many requests, is left alone; and an image for which
    # there is no good answer, as there may be for others of the same registry. With the words for it.
    _away: dict[str, tuple[float, str]] = field(init=False, default_factory=dict)
    _failing: dict[str, tuple[float, str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._http = BoundedHttp(
            {Origin.of(_base(host, said)): said.authorities for host, said in self.registries.items()}
        )

    def in_full(self, name: str) -> str:
        """An image's name with the default registry, where it names none and there is one."""
        full = not self.default_registry or names_registry(name)
        return name if full else f"{self.default_registry}/{name}"

    def ask(self, name: str) -> Image:
        """What an image runs by itself.

        :raises NotYet: its registry gives no answer just now.
        :raises Unrunnable: it will not be known, with what to do.
        """
        try:
            image = parse(name, self.default_registry)
        except ValueError as error:
            raise _unknown(name, str(error)) from error
        known = self._known.get(str(image))
        if known is not None and known[0] > self.clock():
            return known[1]
        said = self.registries.get(image.host)
        if said is None:
            raise _unknown(name, f"the site's settings do not list {image.host} among the registries to ask")
        for until, words in (
            self._away.get(image.host, (0.0, "")),
            self._failing.get(str(image), (0.0, "")),
        ):
            if until > self.clock():
                raise _not_yet(name, words)
        began = time.monotonic()
        try:
            return self._read(_Asking(image, _base(image.host, said), began + SECONDS))
        except Away as error:
            # One that is silent must not have the worker wait for it most of the time.
            pause = min(max(error.pause, _PAUSE, 3 * (time.monotonic() - began)), _LONGEST_PAUSE)
            if error.answered:
                _keep(self._failing, str(image), (self.clock() + pause, str(error)))
            else:
                self._away[image.host] = (self.clock() + pause, str(error))
            raise _not_yet(name, str(error)) from error
        except Never as error:
            raise _unknown(name, str(error)) from error

    def greet(self, host: str) -> bool:
        """See that a listed registry answers, and takes the login; False where there is none that it wants.

        :raises Away: it gives no answer.
        :raises Never: it is no registry, or refuses the login.
        :raises Busy: the login cannot be read.
        """
        base = _base(host, self.registries[host])
        asking = _Asking(Reference(host, "", ""), base, time.monotonic() + SECONDS)
        answer = self._ask(asking, f"{base}/v2/", "*/*")
        if answer.status == 401 and answer.origin == asking.origin:
            try:
                asking.authorization = self._authorization(asking, answer)
                answer = self._ask(asking, f"{base}/v2/", "*/*")
                self._must_be_good(asking, answer, "registry", asking.origin)
            except Never:
                if self.login(asking.image) is None:
                    return False
                raise
        self._must_be_good(asking, answer, "registry", asking.origin)
        return True

    def _read(self, asking: _Asking) -> Image:
        image = asking.image
        digest, manifest = self._manifest(asking, image.wanted)
        top = digest
        if "manifests" in manifest:
            digest, manifest = self._manifest(asking, self._for_platform(manifest))
            if "manifests" in manifest:
                raise Never("the image's index leads to another index")
        described = _part(manifest, "config")
        if described.get("mediaType") not in _CONFIGURATIONS:
            raise Never("it is no image of a container")
        content = self._get(asking, f"blobs/{_digest(described)}", "*/*")
        _check(content, _digest(described))
        command = self._command(_document(content, "the image's configuration"))
        found = Image(image.at(digest), command)
        self._remember(str(image), found, _HOUR if image.digest else _MINUTE)
        for pinned in {image.at(top), image.at(digest)} - {str(image)}:
            self._remember(pinned, found, _HOUR)
        return found

    def _manifest(self, asking: _Asking, wanted: str) -> tuple[str, dict[str, Any]]:
        content = self._get(asking, f"manifests/{wanted}", _MANIFESTS)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if DIGEST.fullmatch(wanted):
            _check(content, wanted)
        document = _document(content, "the image's manifest")
        if "manifests" in document and {"config", "layers"} & document.keys():
            raise Never("the image's manifest is an index as well, and so says two things")
        return digest, document

    def _for_platform(self, index: dict[str, Any]) -> str:
        listed = index["manifests"]
        if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
            raise Never("the image's index cannot be read")
        for one in listed:
            platform = one.get("platform")
            if isinstance(platform, dict) and (platform.get("os"), platform.get("architecture")) == (
                "linux",
                self.architecture,
            ):
                return _digest(one)
        raise Never(f"the image is not there for linux/{self.architecture}, on which this site runs jobs")

    def _command(self, configuration: dict[str, Any]) -> tuple[str, ...]:
        platform = f"{configuration.get('os')}/{configuration.get('architecture')}"
        if platform != f"linux/{self.architecture}":
            raise Never(f"the image is for {clean(platform)}, this site runs linux/{self.architecture}")
        said = configuration.get("config") or {}
        if not isinstance(said, dict):
            raise Never("the image's configuration cannot be read")
        words: list[Any] = []
        for part in (said.get("Entrypoint"), said.get("Cmd")):
            if part and not (isinstance(part, list) and all(_is_word(word) for word in part)):
                raise Never("the image's ENTRYPOINT or CMD is no list of words")
            words += part or ()
        if not words:
            raise Never("the image has neither ENTRYPOINT nor CMD")
        return tuple(words)

    def _get(self, asking: _Asking, path: str, accept: str) -> bytes:
        url = f"{asking.base}/v2/{asking.image.repository}/{path}"
        answer = self._ask(asking, url, accept)
        # Whoever else a redirect led to is told no login, whatever it asks for.
        if answer.status == 401 and answer.origin == asking.origin and not asking.authorization:
            asking.authorization = self._authorization(asking, answer)
            answer = self._ask(asking, url, accept)
        self._must_be_good(asking, answer, "registry", asking.origin)
        return answer.body

    def _ask(self, asking: _Asking, url: str, accept: str) -> Answer:
        headers = {"Accept": accept}
        if asking.authorization:
            headers["Authorization"] = asking.authorization
        return self._http.get(url, headers, MOST, asking.until)

    def _authorization(self, asking: _Asking, refusal: Answer) -> str:
        """What the registry wants to be shown, by its own word."""
        challenge = refusal.headers.get("www-authenticate", "")
        scheme = challenge.partition(" ")[0].lower()
        login = self.login(asking.image)
        basic = "" if login is None else _basic(login)
        if scheme == "basic" and basic:
            return basic
        if scheme == "bearer":
            return self._token(asking, dict(_CHALLENGE.findall(challenge)), basic)
        raise Never(_words(asking, refusal, "registry"))

    def _token(self, asking: _Asking, said: Mapping[str, str], basic: str) -> str:
        repository = asking.image.repository
        query = {"scope": f"repository:{repository}:pull"} if repository else {}
        if "service" in said:
            query["service"] = said["service"]
        realm = said.get("realm", "")
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        headers = {"Authorization": basic} if basic else {}
        answer = self._http.get(url, headers, _MOST_OF_TOKEN, asking.until)
        self._must_be_good(asking, answer, "registry's login", Origin.of(url))
        document = _document(answer.body, "the registry's token")
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise Never("the registry's token cannot be read")
        return f"Bearer {token}"

    def _must_be_good(self, asking: _Asking, answer: Answer, who: str, asked: Origin) -> None:
        if answer.status == 200:
            return
        words = _words(asking, answer, who)
        if answer.status in _OVERLOADED:
            after = answer.headers.get("retry-after", "")
            whole = answer.status == _TOO_MANY and answer.origin == asked
            raise Away(words, float(after) if after.isdecimal() else 0.0, answered=not whole)
        raise Never(words)

    def _remember(self, name: str, image: Image, seconds: float) -> None:
        _keep(self._known, name, (self.clock() + seconds, image))


def _keep(among: dict[str, _T], name: str, what: _T) -> None:
    """Remember something, and no more than so many."""
    among.pop(name, None)
    while len(among) >= _REMEMBERED:
        among.pop(next(iter(among)))
    among[name] = what


def _base(host: str, said: Registry) -> str:
    return (said.url or f"https://{host}").rstrip("/")


def _unknown(name: str, why: str) -> Unrunnable:
    return Unrunnable(f"What the image {name} runs by itself is not known: {clean(why)}. Give a command.")


def _not_yet(name: str, why: str) -> NotYet:
    return NotYet(
        f"what the image {name} runs by itself is not known yet: {clean(why)}; its registry is asked again, "
        "and need not be for a job that gives a command"
    )


def _basic(login: Login) -> str:
    return f"Basic {b64encode(f'{login.user}:{login.password}'.encode()).decode()}"


def _is_word(word: object) -> bool:
    return isinstance(word, str) and "\0" not in word


def _words(asking: _Asking, answer: Answer, who: str) -> str:
    led = "" if answer.origin == asking.origin else f" (at {answer.origin})"
    return f"the {who} {asking.image.host}{led} answers {answer.status}{_said(answer)}"


def _said(answer: Answer) -> str:
    """The registry's own word for people, if it has one in the form of the spec."""
    try:
        first = json.loads(answer.body)["errors"][0]
        words = clean(first.get("message") or first.get("code"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        words = ""
    return f": {words}" if words else ""


def _document(content: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Never(f"{what} cannot be read") from error
    if not isinstance(document, dict):
        raise Never(f"{what} cannot be read")
    return document


def _part(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = document.get(name)
    if not isinstance(part, dict):
        raise Never(f"the image's manifest has no {name!r} that can be read")
    return part


def _digest(described: Mapping[str, Any]) -> str:
    digest = described.get("digest")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise Never("the image's manifest names no digest that can be read")
    return digest


def _check(content: bytes, digest: str) -> None:
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        raise Never(f"what the registry gives for {digest} is something else")
