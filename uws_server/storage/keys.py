"""Which keys an object store takes, the same for every scheme."""

from __future__ import annotations

MAX_KEY_BYTES = 1024  # what S3 takes
MAX_SEGMENT_BYTES = 255  # what a file name may be
MAX_SEGMENTS = 64


def segments(key: str) -> tuple[str, ...]:
    """The segments of a key that is fit for every store.

    :raises ValueError: a segment is empty, ``.`` or ``..``, too long, not UTF-8, or holds a control
        character, or there are too many.
    """
    parts = tuple(key.split("/"))
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError as error:
        raise ValueError(f"the key {key[:64]!r} is not valid UTF-8") from error
    if any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f"the key {key[:64]!r} has an empty, '.' or '..' segment")
    if any(
        character < " " or "\x7f" <= character < "\xa0" or character in "\ufffe\uffff" for character in key
    ):
        raise ValueError(f"the key {key[:64]!r} has a control character, or one that XML has not")
    if max(lengths) > MAX_SEGMENT_BYTES or sum(lengths) + len(parts) - 1 > MAX_KEY_BYTES:
        raise ValueError(
            f"the key {key[:64]!r}… is too long: {MAX_SEGMENT_BYTES} bytes a segment, {MAX_KEY_BYTES} in all"
        )
    if len(parts) > MAX_SEGMENTS:
        raise ValueError(f"the key {key[:64]!r}… has more than {MAX_SEGMENTS} segments")
    return parts
