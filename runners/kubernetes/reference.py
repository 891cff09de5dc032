"""Names of images → registry, repository, tag and digest, as the OCI distribution spec has them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*(?::[0-9]{{1,5}})?")
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST = 512
_DEFAULT_TAG = "latest"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in full. ``host`` is the registry, with its port if it has one; ``digest`` may be ''."""

    host: str
    repository: str
    tag: str
    digest: str = ""

    @property
    def wanted(self) -> str:
        """What the registry is asked for: a digest has the last word."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return self.at(self.digest) if self.digest else f"{self.host}/{self.repository}:{self.tag}"

    def at(self, digest: str) -> str:
        """The same image, pinned to a digest."""
        return f"{self.host}/{self.repository}@{digest}"


@dataclass(frozen=True, slots=True)
class Image:
    """What a container runs: an image by name or digest, and its own ENTRYPOINT and CMD where these count."""

    name: str
    command: tuple[str, ...] = ()


def parse(text: str, default_registry: str = "") -> Reference:
    """Read an image's name.

    Its first part is a registry if it has a dot or a port, or is ``localhost``. What names none is looked for
    below ``default_registry``, which may have a path.

    :raises ValueError: it is no name of an image, or names no registry where there is no default.
    """
    if len(text) > _LONGEST:
        raise ValueError("it is too long")
    rest, at, digest = text.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise ValueError("its digest is not sha256 and 64 hexadecimal digits")
    if not names_registry(rest):
        if not default_registry:
            raise ValueError("it names no registry")
        rest = f"{default_registry}/{rest}"
    host, _, rest = rest.partition("/")
    repository, colon, tag = rest.partition(":")
    if not _HOST.fullmatch(host):
        raise ValueError("it begins with no name of a host")
    if not _REPOSITORY.fullmatch(repository):
        raise ValueError("what follows the registry is no name of a repository")
    if colon and not _TAG.fullmatch(tag):
        raise ValueError("what follows the colon is no tag")
    return Reference(host, repository, tag or _DEFAULT_TAG, digest)


def names_registry(text: str) -> bool:
    """Whether the first part of an image's name is a registry."""
    first, slash, _ = text.partition("/")
    return bool(slash) and ("." in first or ":" in first or first == "localhost")
