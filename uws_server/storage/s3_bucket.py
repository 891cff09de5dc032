"""A bucket of an S3 store: where it is, who we are there, and what its refusals mean in words."""

from __future__ import annotations

from dataclasses import dataclass

from uws_server.storage.keys import MAX_KEY_BYTES, segments
from uws_server.storage.sigv4 import Key

PART_BYTES = 64 * 1024**2
"""What is longer is stored in parts of this size by those who have links."""

SENTENCES = {
    "NoSuchBucket": "there is no such bucket",
    "InvalidAccessKeyId": "it does not know our access key",
    "XAdminUserNotFound": "it does not know our access key",
    "SignatureDoesNotMatch": "it takes our secret key for a wrong one",
    "AccessDenied": "it does not permit our access key to do that",
    "ExpiredToken": "our access key has expired",
    "InvalidToken": "it does not take the token of our access key",
    "RequestTimeTooSkewed": "its clock and ours differ by more than it permits",
    "SlowDown": "it is asked too much at once",
    "InsufficientStorage": "it is full",
    "QuotaExceeded": "it is full",
}
"""By the code of the answer."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where the objects lie and who we are there.

    ``endpoint`` is where S3 is asked, ``public_endpoint`` where clients outside find the same; empty means
    Amazon's in ``region``, and the same as ``endpoint``. Without ``key`` it is looked for as obstore does:
    a web identity, a container's or the machine's own role.
    """

    name: str
    prefix: str = ""
    endpoint: str = ""
    public_endpoint: str = ""
    region: str = "us-east-1"
    key: Key | None = None

    @property
    def below(self) -> str:
        """What every key of ours begins with in the bucket."""
        return f"{self.prefix}/" if self.prefix else ""

    def path(self, key: str) -> str:
        """What a key of ours is called in the bucket.

        :raises ValueError: it is no key.
        """
        segments(key)
        path = f"{self.below}{key}"
        if len(path.encode()) > MAX_KEY_BYTES:
            raise ValueError(f"the key {key[:64]!r}… is too long with the store's own prefix")
        return path

    @property
    def said(self) -> str:
        """How messages begin that are about this store."""
        return f"the object store at {self.address}, bucket {self.name}"

    @property
    def address(self) -> str:
        """The endpoint, the default one included."""
        return (self.endpoint or f"https://s3.{self.region}.amazonaws.com").rstrip("/")
