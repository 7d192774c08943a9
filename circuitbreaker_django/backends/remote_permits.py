"""Trial permits where the store is asked by a thread of its own (rule 13).

A caller waits for the answer for 50 ms, on an event loop he lets the loop go on meanwhile. A permit
that comes later is not lost: it is for the process's next call. So a store whose answers always
take longer lets trials through all the same. What nobody takes is given back: after two seconds,
or after twice the time between two calls where there are few of them.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from concurrent.futures import CancelledError

from circuitbreaker_django.backends.base import PAUSE, PERMIT_PATIENCE, patience_left
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


class RemotePermits(ServedBackend):
    """A backend whose permits come when they come, and are kept for a moment."""

    async def ask_ahead(self, view: View, policy: Policy) -> None:
        """Ask for a permit, if one may be had, and let the event loop go on meanwhile."""
        self.sync()
        process = self._here()
        if not process.alive.is_set() or not self._wants_permit(view, policy):
            return
        asked = self._ask_for_permit(process, view, policy)
        if asked is not None:
            patience = asked.wait_until - time.monotonic()
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
        """A permit that has come, or comes while this caller waits; threads share a question."""
        assert isinstance(process, RemoteProcess)
        # Nor does the thread that would have to answer: a listener of it may call a breaker.
        may_ask = process.alive.is_set() and threading.current_thread() is not process.writer
        if not may_ask:
            return super()._try(process, view, policy, patient_until)
        if not self.available or view.local:
            return self._local_trial(process, view, policy)
        while (asked := self._ask_for_permit(process, view, policy)) is not None:
            try:
                grant = asked.answer.result(patience_left(min(patient_until, asked.wait_until)))
            except (TimeoutError, CancelledError):
                return None
            if not grant.granted:
                return None
            with process.lock:
                if process.asked.get(view) is asked:
                    del process.asked[view]
                    report = asked.report
                    return Trial(view, report.fence, report.token, asked.expires, local=False)
            if not patience_left(patient_until):
                return None
        return None

    def _ask_for_permit(self, process: RemoteProcess, view: View, policy: Policy) -> Asked | None:
        """The permit that is on its way, or that has come and nobody has taken."""
        with process.lock:
            fence = (view.incarnation, view.shared_epoch)
            asked = process.asked.get(view)
            if asked is not None and asked.report.fence == fence:
                is_over = asked.answer.done() and self.clock() >= asked.good_until
                return None if is_over else asked  # it is about to be given back
            report = given_back(view.name, fence, secrets.token_hex(8), policy)

            def ask(store: RemoteStore) -> Grant:
                try:
                    grant, changes = self._acquire(
                        process, view.name, fence, report.token, policy, 0
                    )
                    self._adopt(process, changes)
                except StoreLost:
                    grant = Grant(False)
                with process.lock:
                    # A denial of now need not be true at the next call.
                    if not grant.granted and process.asked.get(view) is asked:
                        del process.asked[view]
                        self._pause(view, grant)
                return grant

            try:
                coming = process.submit(ask)
            except StoreBusy:
                return None
            now, clock = time.monotonic(), self.clock()
            slow = any(one.is_late(now) for one in process.asked.values())
            asked = process.asked[view] = Asked(
                report,
                coming,
                wait_until=now if slow else now + PERMIT_PATIENCE,
                good_until=clock + micros(_kept(now - view.asked_at, policy.trial_timeout)),
                expires=clock + micros(policy.trial_timeout),
            )
            view.asked_at = now
        return asked

    def _give_back_permits(self, process: RemoteProcess, *, all: bool = False) -> None:
        """Those that nobody has taken in time, or all that nobody has taken."""
        now = self.clock()
        with process.lock:
            for view, asked in list(process.asked.items()):
                if asked.answer.done() and (all or now >= asked.good_until):
                    del process.asked[view]
                    self._pending.add_report(asked.report)
        if self._pending.reports:
            process.call_writer(urgent=True)


def _kept(since: float, lease: float) -> float:
    """For how many seconds a permit waits for a caller.

    Meanwhile no other process may have it. So it is long enough for the next call to come only
    where this process has asked not long ago, and leaves half of the lease to the trial.

    Args:
        since: seconds since a permit was last asked for: so often there are calls.
        lease: seconds that a permit lasts.
    """
    return min(2 * max(PAUSE, since if since < lease / 4 else 0), lease / 2)


def given_back(name: str, fence: Fence, token: str, policy: Policy) -> Report:
    """What gives a permit back that nobody has used."""
    return Report(name, fence, token, policy, Outcome.IGNORED, "")
