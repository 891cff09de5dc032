"""Where everything is found: absolute URLs below the one public base URL (UWS-13)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from uws_server.web.hosts import host_of


@dataclass(frozen=True, slots=True)
class Addresses:
    """URLs below ``base``, such as ``https://archive.example/uws``, which has no slash at its end."""

    base: str

    def service(self, service: str) -> str:
        """What belongs to one service."""
        return f"{self.base}/{service}"

    def jobs(self, service: str) -> str:
        """The job list."""
        return f"{self.base}/{service}/async"

    def job(self, service: str, job_id: str) -> str:
        """One job."""
        return f"{self.base}/{service}/async/{job_id}"

    def result(self, service: str, job_id: str, result_id: str) -> str:
        """One result."""
        return f"{self.base}/{service}/async/{job_id}/results/{quote(result_id)}"

    def parameter(self, service: str, job_id: str, name: str) -> str:
        """One parameter."""
        return f"{self.base}/{service}/async/{job_id}/parameters/{quote(name, safe='')}"

    def page(self, service: str, job_id: str = "") -> str:
        """The page for people about a service's jobs, or about one of them."""
        return f"{self.base}/ui/{service}/{job_id}".rstrip("/")

    @property
    def style(self) -> str:
        """The style sheet that makes our XML readable in a browser."""
        return f"{self.base}/static/uws.css"


def of_request(environ: dict[str, Any]) -> Addresses:
    """Addresses as the client used them, where no base URL is configured.

    :raises BadRequest: the request names no host that could be one.
    """
    mounted = quote(environ.get("SCRIPT_NAME", ""))
    return Addresses(f"{environ['wsgi.url_scheme']}://{host_of(environ)}{mounted}".rstrip("/"))
