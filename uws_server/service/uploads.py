"""Content that comes with a job (UWS-56): checked first, then stored, and removed when it is not wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from job_templates.template import Template
from uws_server.domain.errors import Refused, TooLarge, Unavailable
from uws_server.domain.job import Parameter, Upload, prefix_of
from uws_server.service.notebooks import readable
from uws_server.storage.base import NotStored, ObjectStore


@dataclass(frozen=True, slots=True)
class Content:
    """Content of one inline upload. ``size`` in bytes, None while it is still on its way to us.

    ``chunks`` can be gone through again where the size is known, and once where it is not.
    """

    chunks: Iterable[bytes]
    media_type: str
    size: int | None = None


class Uploads:
    """The contents of the parameters of all jobs. One content has at most ``most_bytes``."""

    def __init__(self, objects: ObjectStore, new_id: Callable[[], str], most_bytes: int) -> None:
        self._objects = objects
        self._new_id = new_id
        self._most_bytes = most_bytes

    def check_before(
        self,
        template: Template,
        job_id: str,
        parameters: tuple[Parameter, ...],
        uploads: Mapping[str, Content],
    ) -> None:
        """Refuse what can be refused before any of the content is stored.

        :raises BadRequest: as `Template.check`.
        """
        coming = {template.canonical(name): content for name, content in uploads.items()}
        expected = [
            replace(parameter, upload=Upload(coming[parameter.name].size or 0, "", ""))
            if parameter.name in coming
            else parameter
            for parameter in parameters
        ]
        if streamed(uploads):
            template.check(expected)
        else:
            self.check(template, job_id, expected, coming)

    def check(
        self,
        template: Template,
        job_id: str,
        parameters: Sequence[Parameter],
        coming: Mapping[str, Content] | None = None,
    ) -> None:
        """Hold a job's parameters against its template; ``coming`` is content that is not stored yet."""

        def notebook(name: str) -> bytes:
            if coming and name in coming:
                return readable(coming[name].chunks)
            wanted = next(p for p in parameters if p.name == name and p.upload is not None)
            try:
                return readable(self._objects.read(parameter_key(job_id, wanted)))
            except NotStored:
                raise Unavailable(f"parameter {name!r} is being replaced just now; try again") from None

        template.check(parameters, notebook)

    def store(
        self,
        job_id: str,
        template: Template,
        parameters: tuple[Parameter, ...],
        uploads: Mapping[str, Content],
    ) -> tuple[Parameter, ...]:
        """The parameters with what was stored for them; when one content cannot be, none is.

        :raises TooLarge: over a limit.
        """
        stored: dict[str, Upload] = {}
        try:
            for name, content in uploads.items():
                canonical = template.canonical(name)
                stored[canonical] = self._store(job_id, template, canonical, content)
        except Refused:
            self.remove(job_id, stored.values())
            raise
        return tuple(
            replace(parameter, upload=stored.get(parameter.name, parameter.upload))
            for parameter in parameters
        )

    def _store(self, job_id: str, template: Template, name: str, content: Content) -> Upload:
        kind = template.find(name)
        limit = self._most_bytes if kind is None else min(self._most_bytes, kind.max_bytes)
        digest = hashlib.sha256()
        key = f"{hashlib.sha256(name.encode()).hexdigest()[:16]}-{self._new_id()[-16:]}"
        try:
            entry = self._objects.put(_content_key(job_id, key), _hashed(content.chunks, digest), limit=limit)
        except ValueError:
            raise TooLarge(f"the file for parameter {name!r} is larger than {limit} bytes") from None
        return Upload(entry.size, digest.hexdigest(), content.media_type, key)

    def remove(self, job_id: str, uploads: Iterable[Upload]) -> None:
        """Remove what was stored for a job."""
        for upload in uploads:
            self._objects.delete(_content_key(job_id, upload.key))

    def read(self, job_id: str, parameter: Parameter) -> Iterator[bytes]:
        """One content.

        :raises NotStored: it is gone.
        """
        return self._objects.read(parameter_key(job_id, parameter))


def parameter_key(job_id: str, parameter: Parameter) -> str:
    """Where the content of an inline upload lies.

    :raises ValueError: the parameter has none.
    """
    if parameter.upload is None:
        raise ValueError(f"parameter {parameter.name!r} has no content")
    return _content_key(job_id, parameter.upload.key)


def _content_key(job_id: str, key: str) -> str:
    return f"{prefix_of(job_id)}/parameters/{key}"


def streamed(uploads: Mapping[str, Content]) -> bool:
    """Whether some content can be looked at only once it is stored."""
    return any(content.size is None for content in uploads.values())


def contents(parameters: Iterable[Parameter]) -> dict[str, Upload]:
    """What is stored for parameters, by key."""
    return {parameter.upload.key: parameter.upload for parameter in parameters if parameter.upload}


def _hashed(chunks: Iterable[bytes], digest: hashlib._Hash) -> Iterable[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
