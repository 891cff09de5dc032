"""From what a person types to a job list or a job: addresses of servers, services and jobs."""

from __future__ import annotations

import json
from urllib.parse import quote, urlsplit

from uws_client.connection import Connection
from uws_client.documents import read_job_list
from uws_client.errors import NotUws, Refused, UwsError
from uws_client.protocol import JobList, RemoteJob

_LIST_WORDS = frozenset({"async", "jobs"})


class Server:
    """What stands behind ``--server``: one job list, or the base URL of a server with several services."""

    def __init__(self, url: str, connection: Connection) -> None:
        self.url = url.partition("?")[0].rstrip("/")
        self._connection = connection

    def job_lists(self, service: str = "") -> dict[str, JobList]:
        """The job lists by service: of one service, or all of them; '' names the only one.

        :raises NotUws: no job list is found there.
        :raises Refused: 404, the server tells its services, and this is none of them.
        """
        if service:
            names = self._services()
            if names and service not in names:
                raise Refused(
                    f"{self.url} has no service {service!r}; it has: {', '.join(sorted(names))}", 404
                )
            return {service: self._job_list(service)}
        if self._last_word in _LIST_WORDS:
            return {"": JobList(self.url, self._connection)}
        names = self._services()
        if names:
            return {name: self._job_list(name) for name in names}
        for url in (self.url, f"{self.url}/async"):
            if self._lists_jobs(url):
                return {"": JobList(url, self._connection)}
        raise NotUws(
            f"{self.url} is no UWS job list and names no services; give the address of a job list, "
            "which often ends in /async"
        )

    def job_list(self, service: str = "") -> JobList:
        """The one job list that a new job goes to.

        :raises UwsError: there are several, or it cannot have services.
        :raises NotUws: there is none.
        """
        if service and self._last_word in _LIST_WORDS:
            raise UwsError(
                f"{self.url} is one job list, so {service!r} cannot be a service of it; "
                "give NAME=VALUE parameters only, or the server's base address"
            )
        lists = self.job_lists(service)
        if len(lists) > 1:
            raise UwsError(f"{self.url} has several services; name one of: {', '.join(sorted(lists))}")
        return next(iter(lists.values()))

    def job(self, job: str) -> RemoteJob:
        """A job by its id or as SERVICE/ID; where an id alone may be in several services, each is asked.

        :raises Refused: 404, there is no such job.
        """
        service, _, job_id = job.rpartition("/")
        lists = list(self.job_lists(service).values())
        if len(lists) == 1:
            return lists[0].job(job_id)
        for one in lists:
            remote = one.job(job_id)
            try:
                remote.read()
            except Refused as refused:
                if refused.status == 404:
                    continue
                raise
            return remote
        raise Refused(f"no service of {self.url} has a job {job_id!r}", 404)

    def _job_list(self, service: str) -> JobList:
        return JobList(f"{self.url}/{quote(service, safe='')}/async", self._connection)

    @property
    def _last_word(self) -> str:
        return urlsplit(self.url).path.rpartition("/")[2]

    def _services(self) -> list[str]:
        """The names that ``/services`` lists, as our own server does; none where it does not."""
        try:
            answer = self._connection.get(f"{self.url}/services", accept="application/json")
            listed = json.loads(answer.content)
        except (Refused, ValueError, RecursionError):
            return []
        if isinstance(listed, dict):
            listed = listed.get("services")
        if not isinstance(listed, list):
            return []
        names = (item.get("name") if isinstance(item, dict) else item for item in listed)
        return [name for name in names if isinstance(name, str) and name]

    def _lists_jobs(self, url: str) -> bool:
        try:
            answer = self._connection.get(url, [("LAST", "1")])
            read_job_list(answer.content, answer.url)
        except (Refused, NotUws):
            return False
        return True
