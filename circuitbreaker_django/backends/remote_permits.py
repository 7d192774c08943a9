"""Trial permits where the store is asked by a thread of its own (rule 13).

A caller waits for the answer for 50 ms, on an event loop he lets the loop go on meanwhile. A permit
that comes later is not lost: it is for the process's next call. So a store whose answers always
take longer lets trials through all the same. What nobody takes is given back: after a second, or
after twice the time between two calls where there are few of them.
"""

from __future__ import annotations

import asyncio
import secrets
import time

from circuitbreaker_django.backends.base import PAUSE, PERMIT_PATIENCE, rest
from circuitbreaker_django.backends.process import Process
from circuitbreaker_django.backends.remote_attached import ServedBackend
from circuitbreaker_django.backends.remote_process import Asked, RemoteProcess
from circuitbreaker_django.backends.remote_store import RemoteStore
from circuitbreaker_django.backends.store import Fence, Report, StoreBusy, StoreLost
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import Grant
from circuitbreaker_django.core.policy import Policy, micros
from circuitbreaker_django.core.states import CircuitState, Outcome
from circuitbreaker_django.core.trial import Trial, rides_on_a_trial
from circuitbreaker_django.core.view import View


class PermitsAhead(ServedBackend):
    """A backend whose permits come when they come, and are kept for a moment."""

    async def ask_ahead(self, view: View, policy: Policy) -> None:
        """Ask for a permit, if one may be had, and let the event loop go on meanwhile."""
        self.sync()
        process = self._here()
        if not process.alive.is_set() or not self._wants_permit(view, policy):
            return
        asked = self._ask_for_permit(process, view, policy)
        if asked is not None:
            patience = asked.asked_at + PERMIT_PATIENCE - time.monotonic()
            if patience > 0:
                await asyncio.wait({asyncio.wrap_future(asked.answer)}, timeout=patience)

    def _wants_permit(self, view: View, policy: Policy) -> bool:
        """Whether a call would have to ask the store for a permit."""
        with self._here().lock:
            now = self.clock()
            view.settle(policy, now)
            circuit = view.circuit
            return (
                self.available
                and not view.local
                and core.counts(circuit, policy)
                and core.automatic(circuit, policy, now).state is CircuitState.HALF_OPEN
                and now >= view.pause_until
                and not rides_on_a_trial(view, now)
            )

    def _try(
        self, process: Process, view: View, policy: Policy, patient_until: float
    ) -> Trial | None:
        assert isinstance(process, RemoteProcess)
        if not (process.alive.is_set() and self.available) or view.local:
            return super()._try(process, view, policy, patient_until)
        asked = self._ask_for_permit(process, view, policy)
        if asked is None:
            return None
        try:
            # Whoever comes later than this is spared the wait: the store is slow.
            grant = asked.answer.result(rest(min(patient_until, asked.asked_at + PERMIT_PATIENCE)))
        except (TimeoutError, StoreBusy):
            return None
        with process.lock:
            if process.asked.get(view) is not asked:
                return None  # another thread has taken it
            del process.asked[view]
            now = self.clock()
            if grant.wait is not None:
                view.pause_until = now + min(grant.wait, micros(PAUSE))
        if grant.granted and now < asked.expires:
            return Trial(view, asked.report.fence, asked.report.token, asked.expires, local=False)
        return None

    def _ask_for_permit(self, process: RemoteProcess, view: View, policy: Policy) -> Asked | None:
        """The permit that is on its way, or that has come and nobody has taken."""
        with process.lock:
            asked = process.asked.get(view)
            fence = (view.incarnation, view.shared_epoch)
            if asked is not None and asked.report.fence == fence:
                return asked
            report = given_back(view.name, fence, secrets.token_hex(8), policy)

            def ask(store: RemoteStore) -> Grant:
                try:
                    grant, changes = self._acquire(view.name, fence, report.token, policy, 0)
                except StoreLost:
                    return Grant(False)
                self._adopt(process, changes)
                return grant

            expires = self.clock() + micros(policy.trial_timeout)
            try:
                coming = process.submit(ask)
            except StoreBusy:
                return None
            now = time.monotonic()
            kept = _kept(now - view.asked_at, policy.trial_timeout)
            view.asked_at = now
            asked = process.asked[view] = Asked(report, coming, expires, now, kept)
        return asked

    def _give_back_permits(self, process: RemoteProcess, *, all: bool = False) -> None:
        """Those that nobody has taken in time, or all that nobody has taken."""
        now = time.monotonic()
        with process.lock:
            for view, asked in list(process.asked.items()):
                if (all or now >= asked.asked_at + asked.kept) and asked.answer.done():
                    del process.asked[view]
                    if asked.is_granted():
                        self._pending.add_report(asked.report)
        if self._pending.reports:
            process.call_writer(urgent=True)


def _kept(since: float, lease: float) -> float:
    """For how many seconds a permit waits for a caller.

    Meanwhile no other process may have it. So only where this one has asked not long ago it is
    long enough for the next call to come, and never more than half of the lease.

    Args:
        since: seconds since a permit was last asked for: so often there are calls.
        lease: seconds that a permit lasts.
    """
    return max(PAUSE, 2 * since) if since < lease / 4 else PAUSE


def given_back(name: str, fence: Fence, token: str, policy: Policy) -> Report:
    """What gives a permit back that nobody has used."""
    return Report(name, fence, token, policy, Outcome.IGNORED, "")
