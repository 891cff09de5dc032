"""What a job does, told a second time: a small model of phases, claims and attempts.

Nothing of the server is used here. It says what every request is answered with and what every turn of a
worker, watcher or reconciler leaves behind, for one site with room for everything.
"""

from __future__ import annotations

from dataclasses import dataclass, field

EDGES = {
    ("", "PENDING"),
    ("", "QUEUED"),  # created with PHASE=RUN
    ("PENDING", "QUEUED"),
    ("PENDING", "ABORTED"),
    ("QUEUED", "EXECUTING"),
    ("QUEUED", "ABORTED"),
    ("QUEUED", "ERROR"),
    ("EXECUTING", "COMPLETED"),
    ("EXECUTING", "ERROR"),
    ("EXECUTING", "ABORTED"),
    ("COMPLETED", "ARCHIVED"),
    ("ERROR", "ARCHIVED"),
    ("ABORTED", "ARCHIVED"),
}
"""Every phase change that this server can be brought to make."""

FINAL = {"COMPLETED", "ERROR", "ABORTED", "ARCHIVED"}
HOUR = 3600_000
MARGIN = 15_000  # ms that the site has to end an attempt by itself when its time is over
ATTEMPTS = 2
LOST_AFTER = 300_000  # ms that an attempt may be missing at a site that answers


@dataclass
class Attempt:
    """An attempt as the site has it. ``cause`` is set once it has ended."""

    started: int | None = None
    finishing: bool = False
    cause: str = ""


@dataclass
class ModelJob:
    """A job. ``work`` is what the site owes it: none, waiting, claimed, active or stopping."""

    owner: str
    created: int
    destruction: int
    duration: int = 3600
    phase: str = "PENDING"
    work: str = "none"
    attempt: int = 0
    notes: dict[str, str] = field(default_factory=dict)
    lapses: int = 0  # claims of this attempt that lapsed, so that it may run although it waits
    ran: bool = False  # user code, in any attempt
    begun: int | None = None  # user code, in this attempt
    error: bool = False
    results: bool = False
    deleted: bool = False
    clear_at: int | None = None
    removed: bool = False
    manifests: set[int] = field(default_factory=set)  # attempts that have handed one in
    site: dict[int, Attempt] = field(default_factory=dict)
    vanished: dict[int, Attempt] = field(default_factory=dict)  # from the site, to come back perhaps
    missing: tuple[int, int] | None = None  # attempt, and since when its watcher has missed it
    unwanted: set[int] = field(default_factory=set)  # attempts that the site may have and need not keep

    # -- wishes: the status that they are answered with ------------------------------------------------

    def run(self) -> int:
        if self.phase != "PENDING":
            return 403
        self.phase, self.work, self.attempt = "QUEUED", "waiting", 1
        return 303

    def abort(self) -> int:
        if self.phase == "ABORTED":
            return 303
        if self.phase in FINAL:
            return 403
        self._end("ABORTED")
        return 303

    def delete(self, now: int) -> int:
        self.deleted, self.destruction, self.clear_at = True, now, 0
        self.work = self._ended_at_site()
        return 303

    def set_note(self, name: str, value: str) -> int:
        if self.phase != "PENDING":
            return 403
        self.notes[name] = value
        return 303

    def set_duration(self, seconds: int) -> int:
        if self.phase in FINAL or self._held or self.ran:
            return 403
        self.duration = seconds
        return 303

    def set_destruction(self, at: int) -> int:
        if self.phase == "ARCHIVED":
            return 403
        if self.work == "stopping" and at != self.destruction:
            self.unwanted.add(self.attempt)  # each change says so again: the stop may have made a new one
        self.destruction = at
        return 303

    # -- agents ----------------------------------------------------------------------------------------

    def door(self, attempt: int) -> int:
        """What an agent of this attempt is answered, when all is well with what it says."""
        if self.removed:
            return 404
        return 204 if attempt == self.attempt and self.work != "none" else 403

    # -- turns of worker, watcher and reconciler ---------------------------------------------------------

    def started(self) -> None:
        """A worker has started it and said so."""
        self.site.setdefault(self.attempt, Attempt())
        self.work = "active"

    def stop(self, attempt: int) -> None:
        """The site is asked to end an attempt; it obeys at once."""
        found = self.site.setdefault(attempt, Attempt())
        if not found.cause:
            found.cause = "stopped"

    def looked_at(self, now: int) -> None:
        """The watcher brings into the record what the site has, and ends what runs on too long."""
        listed, wanted, unwanted = set(self.site), self.work == "active", set(self.unwanted)
        given = self.attempt  # what the site was asked about; news of it may make another one
        running = {number for number, seen in self.site.items() if seen.started and not seen.cause}
        for number, seen in sorted(self.site.items()):
            if not self.removed:
                if seen.started or seen.cause:
                    self._hear(number, seen)
                elif self._current(number) and self.work in ("waiting", "claimed"):
                    self.work = "active"
            if number in unwanted if self.removed else self._unwanted(number):
                if seen.cause:
                    del self.site[number]
                else:
                    self.stop(number)
        if not self.removed and self.attempt in running and self._overrun(now):
            self._end("ABORTED")
        self.unwanted -= unwanted - listed
        if not wanted or given in listed:
            self.missing = None
            return
        if self.missing is None or self.missing[0] != self.attempt:
            self.missing = self.attempt, now
        if now - self.missing[1] >= LOST_AFTER:
            self._lost()

    def _lost(self) -> None:
        self._ended_at_site()
        if self.attempt >= ATTEMPTS:
            self.phase, self.work, self.error = "ERROR", "none", True
            self.results = self.attempt in self.manifests
        else:
            self.attempt, self.work, self.begun, self.lapses = self.attempt + 1, "waiting", None, 0

    def _hear(self, number: int, seen: Attempt) -> None:
        if (
            seen.started
            and self._current(number)
            and self.begun is None
            and self.phase in ("QUEUED", "EXECUTING")
        ):
            self.phase, self.work, self.begun, self.ran = "EXECUTING", "active", seen.started, True
        if not seen.cause:
            return
        alive = self._current(number) and self.phase not in FINAL
        if alive and seen.cause == "succeeded" and number in self.manifests:
            self._ended_at_site()
            self.phase, self.work, self.results = "COMPLETED", "none", True
        elif alive and seen.cause in ("failed", "refused"):
            self._ended_at_site()
            self.phase, self.work, self.error = "ERROR", "none", True
            self.results = number in self.manifests
        elif alive and seen.cause == "timed-out":
            self._end("ABORTED")
        elif alive:
            self._lost()
        if number == self.attempt and self.work != "none" and (self.phase in FINAL or self.deleted):
            self._ended_at_site()
            self.work, self.results = "none", self.results or number in self.manifests

    def reconciled(self, now: int, claims_lapse: bool) -> None:
        if self.removed:
            return
        if self.work == "claimed" and claims_lapse and not self.deleted:
            self.work, self.lapses = "waiting", self.lapses + 1
        if not self.deleted and self.phase != "ARCHIVED" and self.destruction <= now:
            if self.phase not in FINAL:
                self._end("ABORTED")
            elif self.work == "none":
                self.phase, self.results = "ARCHIVED", False
        if self.clear_at is not None and self.clear_at <= now:
            self._cleared(now)

    def _overrun(self, now: int) -> bool:
        if self.deleted or self.phase != "EXECUTING" or self.begun is None or not self.duration:
            return False
        return self.begun + self.duration * 1000 <= now - MARGIN

    def _cleared(self, now: int) -> None:
        if self.work != "none":
            self.clear_at = now + 5000
        elif now < self.destruction + HOUR:
            self.clear_at = self.destruction + HOUR
        else:
            self.removed, self.clear_at = True, None

    # -- small parts -------------------------------------------------------------------------------------

    @property
    def _held(self) -> bool:
        return self.work in ("claimed", "active", "stopping")

    @property
    def visible(self) -> bool:
        return not self.deleted

    def _ended_at_site(self) -> str:
        """The attempt is not wanted any more; what is left to do about it."""
        if self._held or (self.work == "waiting" and self.lapses):
            self.unwanted.add(self.attempt)
            return "stopping"
        return "none"

    def _end(self, phase: str) -> None:
        self.work = self._ended_at_site()
        self.phase = phase

    def _current(self, attempt: int) -> bool:
        return attempt == self.attempt and not self.deleted

    def _unwanted(self, attempt: int) -> bool:
        return self.attempt > attempt or (self.work == "none" and (self.phase in FINAL or self.deleted))
