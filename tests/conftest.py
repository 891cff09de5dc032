"""What every test gets: the rules of the suite and the marks that tie tests to items."""

from __future__ import annotations

pytest_plugins = [
    "tests.cluster.fixtures",
    "tests.plugins.covers",
    "tests.plugins.rules",
    "tests.readme",
    "tests.redis_servers",
    "tests.s3_servers",
    "tests.wrapper_program",
]
