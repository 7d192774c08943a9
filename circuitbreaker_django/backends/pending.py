"""What a process has seen and its store was not told of yet, in bounded memory (rule 6).

Nothing here is safe for threads: whoever uses it holds the process's lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Final

from circuitbreaker_django.backends.store import Evidence, Report
from circuitbreaker_django.core.traffic import NOTHING, Counts, plus

#: Reports kept for a store that is away.
MAX_REPORTS: Final = 1000


class Pending:
    """Calls and ends of trials that are to be delivered: a sum per circuit, and a bounded list."""

    def __init__(self) -> None:
        self.evidence: dict[str, Evidence] = {}
        self.reports: list[Report] = []

    def __bool__(self) -> bool:
        return bool(self.evidence or self.reports)

    def add(self, name: str, evidence: Evidence, now: int) -> None:
        """Add what was seen of a circuit's calls."""
        kept = self.evidence.get(name)
        if kept is None:
            self.evidence[name] = evidence
        else:
            kept.add(evidence, now)

    def add_report(self, report: Report) -> None:
        """Add the end of a trial; when there are too many, its permit's lease has to run out."""
        if len(self.reports) < MAX_REPORTS:
            self.reports.append(report)

    def take(self, most: int | None) -> tuple[dict[str, Evidence], list[Report]]:
        """Take out what one delivery may hold: of so many circuits, so many reports; or all."""
        names = list(islice(self.evidence, most))
        taken = {name: self.evidence.pop(name) for name in names}
        reports = self.reports[:most]
        self.reports = self.reports[len(reports) :]
        return taken, reports

    def put_back(self, evidence: dict[str, Evidence], reports: list[Report], now: int) -> None:
        """Keep what was taken and could not be delivered, as older than what has come since."""
        newer, self.evidence = self.evidence, evidence
        for name, one in newer.items():
            self.add(name, one, now)
        self.reports = [*reports, *self.reports][:MAX_REPORTS]


class Uncounted:
    """What was counted of calls and not told yet, by name of circuit (rule 23).

    Args:
        now: in microseconds; counts are of the time since.
    """

    def __init__(self, now: int) -> None:
        self.counts: dict[str, Counts] = {}
        self.since = now
        #: How many are telling now what they took, and who has inherited meanwhile.
        self.telling = 0
        self._heirs: dict[str, str] = {}

    def add(self, name: str, counts: Counts) -> None:
        """Add what was counted of a circuit's calls."""
        if any(counts):
            self.counts[name] = plus(self.counts.get(name, NOTHING), counts)

    def take(self, now: int) -> tuple[dict[str, Counts], int]:
        """Take out everything, with the microseconds in which it was counted."""
        taken, self.counts = self.counts, {}
        age, self.since = max(0, now - self.since), now
        return taken, age

    def put_back(self, counts: Mapping[str, Counts], age: int) -> None:
        """Keep what was taken and could not be told."""
        for name, one in counts.items():
            self.add(self._heirs.get(name, name), one)
        self.since -= age

    def bequeath(self, name: str, heir: str) -> None:
        """Count for its heir what was counted of a circuit, also what is just being told."""
        self.add(heir, self.counts.pop(name, NOTHING))
        if self.telling:
            self._heirs[name] = heir

    def end_telling(self) -> None:
        """What was taken was told, or put back."""
        self.telling -= 1
        if not self.telling:
            self._heirs.clear()
