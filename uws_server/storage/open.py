"""Choose the object store by the scheme of its URL. Each one is imported only when it is asked for."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from uws_server.storage.base import Aside, ObjectStore, directly
from uws_server.storage.links import Links


def open_store(url: str, links: Links, aside: Aside = directly) -> ObjectStore:
    """The object store at ``url``: ``file:///absolute/directory``.

    ``links`` signs for the stores that cannot; ``aside`` is how steps that wait for a disk are run.
    The directory of a file store is made when it is not there.

    :raises ValueError: with the schemes that there are.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        from pathlib import Path

        from uws_server.storage.file import FileStore

        path = unquote(parts.path)
        if parts.netloc not in {"", "localhost"} or not path.startswith("/"):
            raise ValueError(f"{url!r} is not an absolute path on this machine, such as file:///var/lib/uws")
        return FileStore(Path(path), links, aside)
    raise ValueError(f"{url!r} names no object store; there is file:///directory")
