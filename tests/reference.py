"""What one circuit does, written down a second time: with lists and plain ifs, slow and naive.

It shares no code with ``circuitbreaker_django.core``, so that an error in one of the two shows
as a difference. Times are microseconds of one clock that does not step back.
"""

from __future__ import annotations


class Call:
    """A call that was let through."""

    def __init__(self, life: int, ends: int | None = None) -> None:
        self.life = life
        #: When the lease of a trial ends; ``None`` for a call of a closed circuit.
        self.ends = ends
        self.is_over = False


class Reference:
    """One circuit, as everybody who shares it must see it.

    ``life`` goes up by one with every transition and every command.
    """

    def __init__(
        self, *, threshold: int, window: int, recovery: int, most: int, needed: int, lease: int
    ) -> None:
        self.threshold = threshold
        self.window = window
        self.recovery = recovery
        self.most = most
        self.needed = needed
        self.lease = lease

        self.life = 1
        self.is_open = False
        self.waits_until = 0
        self.is_held = False
        self.held_until: int | None = None
        self.failures: list[int] = []
        self.successes = 0
        self.trials: list[Call] = []

    # -- what is seen -------------------------------------------------------------------------

    def state(self, now: int) -> str:
        self._let_go(now)
        if self.is_held:
            return "open"
        if not self.is_open:
            return "closed"
        if now < self.waits_until:
            return "open"
        return "half_open"

    def mode(self, now: int) -> str:
        self._let_go(now)
        return "forced_open" if self.is_held else "auto"

    def wait(self, now: int) -> int | None:
        """How long an open circuit will reject; ``None`` for ever."""
        assert self.state(now) == "open"
        until = self.held_until if self.is_held else self.waits_until
        return None if until is None else until - now

    def running_trials(self, now: int) -> int:
        running = 0
        for trial in self.trials:
            if not trial.is_over and trial.ends is not None and now < trial.ends:
                running += 1
        return running

    # -- what happens -------------------------------------------------------------------------

    def begin(self, now: int) -> Call | None:
        """A call, or ``None`` for one that is rejected."""
        state = self.state(now)
        if state == "closed":
            return Call(self.life)
        if state == "open" or self.running_trials(now) >= self.most:
            return None
        trial = Call(self.life, ends=now + self.lease)
        self.trials.append(trial)
        return trial

    def end(self, call: Call, outcome: str, now: int) -> None:
        self._let_go(now)
        if call.is_over or call.life != self.life:
            call.is_over = True
            return
        call.is_over = True
        if outcome == "ignored":
            return
        if call.ends is None and outcome == "failure":
            self.failures.append(now)
            young = [time for time in self.failures if now - time < self.window]
            if len(young) >= self.threshold:
                self._open(now)
        if call.ends is not None and outcome == "failure":
            self._open(now)
        if call.ends is not None and outcome == "success":
            self.successes += 1
            if self.successes >= self.needed:
                self._close()

    def trip(self, now: int) -> None:
        self._let_go(now)
        self._open(now)

    def hold(self, now: int, duration: int | None) -> None:
        self._let_go(now)
        self._begin_life()
        self.is_held = True
        self.held_until = None if duration is None else now + duration

    def reset(self, now: int) -> None:
        self._let_go(now)
        self._close()
        self.is_held = False
        self.held_until = None

    def _begin_life(self) -> None:
        self.life += 1
        self.trials = []

    def _open(self, now: int) -> None:
        self._begin_life()
        self.is_open = True
        self.waits_until = now + self.recovery
        self.failures = []
        self.successes = 0

    def _close(self) -> None:
        self._begin_life()
        self.is_open = False
        self.failures = []
        self.successes = 0

    def _let_go(self, now: int) -> None:
        if self.is_held and self.held_until is not None and now >= self.held_until:
            self.is_open = True
            self.waits_until = self.held_until
            self.is_held = False
            self.held_until = None
            self.failures = []
            self.successes = 0
