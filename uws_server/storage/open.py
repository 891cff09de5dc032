"""Choose the object store by the scheme of its URL. Each one is imported only when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from uws_server.storage.base import Aside, ObjectStore, directly
from uws_server.storage.links import Links
from uws_server.storage.s3_bucket import PART_BYTES


@dataclass(frozen=True, slots=True)
class Cloud:
    """How an S3 store is reached, beside its URL; see the settings ``objects``."""

    endpoint: str = ""
    public_endpoint: str = ""
    region: str = ""
    credentials_file: Path | None = None
    part_bytes: int = PART_BYTES


def open_store(
    url: str,
    links: Links | None,
    aside: Aside = directly,
    cloud: Cloud = Cloud(),
    environment: Mapping[str, str] = os.environ,
) -> ObjectStore:
    """The object store at ``url``: ``file:///absolute/directory`` or ``s3://bucket/prefix``.

    ``links`` signs for the stores that cannot, None where nothing is signed; ``aside`` is how steps that wait
    for a disk or a server are run. The directory of a file store is made when it is not there, a bucket
    is not.

    :raises ValueError: with the schemes that there are, or what is wrong with the access key.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        from uws_server.storage.file import FileStore

        path = unquote(parts.path)
        if parts.netloc not in {"", "localhost"} or not path.startswith("/"):
            raise ValueError(f"{url!r} is not an absolute path on this machine, such as file:///var/lib/uws")
        return FileStore(Path(path), links, aside)
    if parts.scheme == "s3":
        return _open_s3(parts, aside, cloud, environment)
    raise ValueError(f"{url!r} names no object store; there are file:///directory and s3://bucket/prefix")


def _open_s3(parts: SplitResult, aside: Aside, cloud: Cloud, environment: Mapping[str, str]) -> ObjectStore:
    from uws_server.storage import credentials
    from uws_server.storage.s3 import S3Store
    from uws_server.storage.s3_bucket import Bucket

    # Whatever stands before an @ may be a secret, so that it is not repeated here.
    if not parts.netloc or not set(parts.netloc).isdisjoint("@:") or parts.query or parts.fragment:
        raise ValueError(
            "an S3 store is s3://bucket/prefix; endpoint, region and access key have settings of their own"
        )
    bucket = Bucket(
        name=parts.netloc,
        prefix=unquote(parts.path).strip("/"),
        endpoint=cloud.endpoint,
        public_endpoint=cloud.public_endpoint,
        region=cloud.region or environment.get("AWS_REGION", "") or "us-east-1",
        key=credentials.find(cloud.credentials_file, environment),
    )
    return S3Store(bucket, aside, cloud.part_bytes)
