"""The answers that every family of resources gives."""

from __future__ import annotations

from flask import Response


def text(value: str) -> Response:
    """A value as exact bytes, nothing around it (UWS-73, UWS-75)."""
    return Response(
        # An error's detail may be a log with anything in it.
        value.encode(errors="replace"),
        200,
        [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ],
    )


def redirect(address: str) -> Response:
    """Exactly 303, to an absolute address (UWS-13)."""
    response = Response(b"", 303, [("Location", address), ("Cache-Control", "no-store")])
    response.autocorrect_location_header = False
    return response
