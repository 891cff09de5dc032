"""Names that are taken already: a template may not use them for something of its own."""

from __future__ import annotations

SERVICE_NAMES = frozenset({
    "account", "admin", "agent", "api", "async", "auth", "availability", "capabilities", "docs",
    "examples", "favicon", "health", "healthz", "jobs", "limits", "live", "login", "logout", "metrics",
    "oauth", "openapi", "portal", "ready", "readyz", "robots", "schema", "search", "services", "sites",
    "static", "status", "storage", "sync", "tables", "templates", "token", "tokens", "ui", "usage",
    "user", "users", "uws", "version",
})  # fmt: skip
"""Paths that the server keeps for itself beside the services'."""

RESULT_IDS = frozenset({"stdout", "stderr", "manifest"})
"""What every job has beside the results of its own."""

CONTROL_WORDS = frozenset({
    "PHASE", "RUNID", "EXECUTIONDURATION", "DESTRUCTION", "ACTION", "WAIT", "AFTER", "LAST",
    "REQUEST", "RESPONSEFORMAT", "MAXREC", "UPLOAD",
})  # fmt: skip
"""What UWS and DALI take for themselves, in any case of letters (UWS-54)."""

RESOURCE_WORDS = ("CPU", "MEMORY", "DISK", "GPU")
"""What every template accepts up to its ceilings."""

RUNNER_WORDS = frozenset({"inputs", "outputs", "parameters", "python"})
"""What a runner replaces in a command: ``{inputs}`` and so on."""


def resource_word(name: str) -> str:
    """``CPU`` for a parameter name that is that resource word in any case, '' for another name."""
    return name.upper() if name.isascii() and name.upper() in RESOURCE_WORDS else ""
