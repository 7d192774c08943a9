"""Trial permits for callers on event loops, which must not be kept waiting (rule 13).

Such a caller asks ahead, lets the loop go on, and takes what has come when he comes again.
"""

from __future__ import annotations

import asyncio
import secrets
import time

from circuitbreaker_django.backends.base import PAUSE, PERMIT_PATIENCE
from circuitbreaker_django.backends.process import Process, on_event_loop
from circuitbreaker_django.backends.remote_attached import ServedBackend
from circuitbreaker_django.backends.remote_process import Asked, RemoteProcess
from circuitbreaker_django.backends.remote_store import RemoteStore
from circuitbreaker_django.backends.store import Report, StoreBusy, StoreLost
from circuitbreaker_django.core import circuit as core
from circuitbreaker_django.core.circuit import Grant
from circuitbreaker_django.core.policy import Policy, micros
from circuitbreaker_django.core.states import CircuitState, Outcome
from circuitbreaker_django.core.trial import Trial, rides_on_a_trial
from circuitbreaker_django.core.view import View


class PermitsAhead(ServedBackend):
    """A backend that gets permits ready for event loops."""

    async def ask_ahead(self, view: View, policy: Policy) -> None:
        """Ask for a permit, if one may be had, and let the event loop go on meanwhile."""
        self.sync()
        process = self._here()
        if not process.alive.is_set() or not self._wants_permit(view, policy):
            return
        asked = self._ask_for_permit(process, view, policy)
        if asked is not None:
            await asyncio.wait({asyncio.wrap_future(asked.answer)}, timeout=PERMIT_PATIENCE)

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

    def _try(self, process: Process, view: View, policy: Policy) -> Trial | None:
        assert isinstance(process, RemoteProcess)
        if not (on_event_loop() and process.alive.is_set() and self.available) or view.local:
            return super()._try(process, view, policy)
        asked = self._ask_for_permit(process, view, policy)
        if asked is None or not asked.answer.done():
            return None
        with process.lock:
            if process.asked.pop(view, None) is not asked:
                return None  # another thread has taken it
        return self._take_permit(process, view, policy, asked)

    def _ask_for_permit(self, process: RemoteProcess, view: View, policy: Policy) -> Asked | None:
        """The permit that is on its way, or that has come and nobody has taken."""
        with process.lock:
            asked = process.asked.get(view)
            fence = (view.incarnation, view.shared_epoch)
            if asked is not None and asked.report.fence == fence:
                return asked
            if not self._may_write(process):
                return None
            report = Report(view.name, fence, secrets.token_hex(8), policy, Outcome.IGNORED, "")

            def ask(store: RemoteStore) -> Grant:
                try:
                    grant, changes = self._acquire(view.name, fence, report.token, policy, 0)
                except (StoreBusy, StoreLost):
                    return Grant(False)
                self._adopt(process, changes)
                return grant

            try:
                coming = process.submit(ask)
            except StoreBusy:
                return None
            asked = Asked(report, coming, time.monotonic() + PAUSE)
            process.asked[view] = asked
        return asked

    def _take_permit(
        self, process: RemoteProcess, view: View, policy: Policy, asked: Asked
    ) -> Trial | None:
        grant, now = asked.answer.result(), self.clock()
        if grant.granted:
            report = asked.report
            expires = now + micros(policy.trial_timeout)
            return Trial(view, report.fence, report.token, expires, local=False)
        if grant.wait is not None:
            view.pause_until = now + min(grant.wait, micros(PAUSE))
        return None

    def _give_back_permits(self, process: RemoteProcess) -> None:
        """Those that nobody has taken: whoever asked for them was cancelled, or comes no more."""
        now = time.monotonic()
        with process.lock:
            for view, asked in list(process.asked.items()):
                if now >= asked.good_until and asked.answer.done():
                    del process.asked[view]
                    self._pending.add_report(asked.report)
        if self._pending.reports:
            process.call_writer(urgent=True)
