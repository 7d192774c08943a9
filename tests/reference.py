"""What one circuit does, written down a second time: with lists and plain ifs, slow and naive.

It shares no code with ``circuitbreaker_django.core``, so that an error in one of the two shows
as a difference. Times are microseconds of one clock that does not step back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SECOND = 1_000_000
#: Of a circuit that ramps up, the share of calls that is admitted at least.
LEAST_SHARE = 0.1
#: How often a process tells the others of its successes.
TELLS_EVERY = SECOND // 4


@dataclass
class Rules:
    """The numbers of a breaker, and what its store is like."""

    threshold: int | None
    window: int
    rate: float | None
    slow: int | None
    slow_rate: float
    minimum: int
    row: int | None
    quorum: int
    recovery: int
    backoff: int
    longest: int
    jitter: float
    most: int
    needed: int
    lease: int
    ramp: int
    initial_mode: str
    #: How long a rate waits for what others have to tell.
    patience: int
    #: By how much one who has opened alone lengthens his wait.
    local_jitter: int

    @property
    def counts_calls(self) -> bool:
        return self.rate is not None or self.slow is not None


@dataclass
class Ended:
    """A call that was counted."""

    time: int
    process: int
    failed: bool
    slow: bool

    @property
    def is_bad(self) -> bool:
        return self.failed or self.slow


@dataclass(eq=False)
class Record:
    """A circuit without the will of operators: the shared one, one process's, one on paper."""

    is_open: bool = False
    waits_until: int = 0
    openings: int = 0
    closed_at: int = 0
    successes: int = 0
    #: Calls that were told of.
    calls: list[Ended] = field(default_factory=list)
    suspect_since: int = 0
    trials: list[Call] = field(default_factory=list)
    spared: int = 0

    def forget_calls(self) -> None:
        self.calls = []
        self.successes = 0


@dataclass(eq=False)
class Call:
    """A call that was let through."""

    process: int
    started: int
    #: ``counted``, ``trial``, or ``free``, which moves nothing.
    kind: str
    record: Record
    life: int
    #: When the lease of a trial ends.
    ends: int = 0
    is_over: bool = False


@dataclass(eq=False)
class Process:
    """What one process knows by itself, since the life began."""

    number: int
    #: Its failures, for the number of failures.
    failures: list[Ended] = field(default_factory=list)
    #: All its calls, for rates; forgotten with each change of the settings.
    calls: list[Ended] = field(default_factory=list)
    untold: list[Ended] = field(default_factory=list)
    told_at: int = -TELLS_EVERY
    row: int = 0
    #: The circuit that it has opened for itself only.
    alone: Record | None = None

    def forget_calls(self) -> None:
        self.calls, self.untold, self.told_at, self.row = [], [], -TELLS_EVERY, 0

    def begin_life(self) -> None:
        self.forget_calls()
        self.failures = []
        self.alone = None


class Reference:
    """One circuit, as everybody who shares it must see it.

    ``life`` goes up by one with every transition and every command. ``opened`` is the record
    that has opened since it was last looked at: if its wait has jitter, somebody has to say how
    long it is.
    """

    def __init__(self, rules: Rules, processes: int) -> None:
        self.rules = rules
        self.processes = [Process(number) for number in range(processes)]
        self.life = 1
        self.record = Record()
        #: The mode that an operator has given, when it ends, and what it has set aside.
        self.given: str | None = None
        self.given_until: int | None = None
        self.aside: Record | None = None
        self.opened: Record | None = None

    # -- what is seen -------------------------------------------------------------------------

    def mode(self, now: int) -> str:
        self._let_go(now)
        return self.given or self.rules.initial_mode

    def state(self, process: int, now: int) -> str:
        mode = self.mode(now)
        if mode == "forced_open":
            return "open"
        if mode != "auto":
            return "closed"
        record = self._record_of(process)
        if not record.is_open:
            return "closed"
        return "open" if now < record.waits_until else "half_open"

    def wait(self, process: int, now: int) -> int | None:
        """How long an open circuit will reject; ``None`` for ever."""
        assert self.state(process, now) == "open"
        if self.mode(now) == "forced_open":
            return None if self.given_until is None else self.given_until - now
        longest = self.rules.longest * (1 + self.rules.jitter)
        return min(self._record_of(process).waits_until - now, round(longest))

    def share(self, process: int, now: int) -> float:
        """The share of calls that a closed circuit admits."""
        return self._share(self._record_of(process), now)

    def is_alone(self, process: int) -> bool:
        return self.processes[process].alone is not None

    def may_try(self, process: int, now: int) -> bool:
        """Whether a half-open circuit has a permit left."""
        record = self._record_of(process)
        most = 1 if self.is_alone(process) else self.rules.most
        return self.running_trials(record, now) < most

    def running_trials(self, record: Record, now: int) -> int:
        running = 0
        for trial in record.trials:
            if not trial.is_over and now < trial.ends:
                running += 1
        return running

    # -- calls --------------------------------------------------------------------------------

    def begin(self, process: int, now: int, chance: float) -> Call | None:
        """A call, or ``None`` for one that is rejected."""
        mode = self.mode(now)
        record = self._record_of(process)
        if mode == "disabled":
            return Call(process, now, "free", record, self.life)
        if mode == "forced_open":
            return None
        if not record.is_open and chance < self._share(record, now):
            return Call(process, now, "counted", record, self.life)
        if record.is_open and now >= record.waits_until and self.may_try(process, now):
            trial = Call(process, now, "trial", record, self.life, ends=now + self.rules.lease)
            record.trials.append(trial)
            return trial
        if mode == "metrics_only":
            self.record.spared += 1
            self._tell(self.processes[process], now)
            return Call(process, now, "free", record, self.life)
        return None

    def end(
        self, call: Call, outcome: str, now: int, *, timed: bool = True, asked: int = 0
    ) -> None:
        """The end of a call; ``asked`` is how long the failing answer asks to be left alone."""
        self._let_go(now)
        is_over, call.is_over = call.is_over, True
        process = self.processes[call.process]
        if is_over or call.kind == "free" or outcome == "ignored":
            return
        limit = self.rules.slow
        slow = timed and limit is not None and now - call.started >= limit
        failed = outcome == "failure"
        if call.record is not self._record_of(call.process) or call.life != self.life:
            return
        if call.kind == "counted":
            self._count(process, Ended(now, call.process, failed, slow), asked if failed else 0)
        elif call not in call.record.trials:
            return  # of an earlier opening
        elif failed or slow:
            self._open(call.record, now, asked if failed else 0)
        else:
            call.record.successes += 1
            if call.record.successes >= self.rules.needed:
                self._close(call.record, now)

    def _count(self, process: Process, call: Ended, asked: int) -> None:
        rules, now, life = self.rules, call.time, self.life
        process.calls.append(call)
        process.untold.append(call)
        process.row = process.row + 1 if call.failed else 0
        if call.failed:
            process.failures.append(call)
        tells = call.is_bad
        if rules.counts_calls and self._is_suspect(self.record, process, now):
            due = now >= process.told_at + TELLS_EVERY
            tells = tells or due or self._rate_is_reached(process.calls, now)
        if not tells:
            return
        self._tell(process, now, call.is_bad, asked)
        if self.life == life and self._has_reached(process, now):
            process.alone = Record(openings=self.record.openings, closed_at=self.record.closed_at)
            process.failures = []
            process.forget_calls()
            self._open(process.alone, now, asked)
            process.alone.waits_until += rules.local_jitter

    def _tell(self, process: Process, now: int, is_bad: bool = False, asked: int = 0) -> None:
        """Tell the others of all calls that they do not know of; they may open for it."""
        record, rules = self.record, self.rules
        news, process.untold, process.told_at = process.untold, [], now
        if record.is_open:
            return
        was_suspect = self._is_suspect(record, None, now)
        record.calls += news
        if not was_suspect and self._is_suspect(record, None, now):
            record.suspect_since = now
        if rules.quorum > 1:
            witnesses = {call.process for call in record.calls if self._is_witness(call, now)}
            if len(witnesses) < rules.quorum:
                return
        patient = now - record.suspect_since >= rules.patience
        if (
            (is_bad and self._share(record, now) < 1)
            or self._failed_too_often(record.calls, now)
            or (rules.row is not None and process.row >= rules.row)
            or (
                patient
                and self._is_suspect(record, None, now)
                and self._rate_is_reached(record.calls, now)
            )
        ):
            self._open(record, now, asked)

    def keep_house(self, now: int) -> None:
        """Every process tells what others wait for, and those who were alone come back."""
        self._let_go(now)
        for process in self.processes:
            alone = process.alone
            if alone is not None and not alone.is_open:
                process.begin_life()
            if self.mode(now) not in ("auto", "metrics_only") or not self.rules.counts_calls:
                continue
            if process.alone is not None or self._is_suspect(self.record, process, now):
                self._tell(process, now)

    # -- rules --------------------------------------------------------------------------------

    def _has_reached(self, process: Process, now: int) -> bool:
        """Whether what a process has seen by itself is enough."""
        bad = [call for call in (*process.failures, *process.calls) if call.is_bad]
        return (
            (self._share(self.record, now) < 1 and any(self._counts(call, now) for call in bad))
            or self._failed_too_often(process.failures, now)
            or (self.rules.row is not None and process.row >= self.rules.row)
            or self._rate_is_reached(process.calls, now)
        )

    def _failed_too_often(self, calls: list[Ended], now: int) -> bool:
        if self.rules.threshold is None:
            return False
        young = [call for call in calls if call.failed and now - call.time < self.rules.window]
        return len(young) >= self.rules.threshold

    def _rate_is_reached(self, calls: list[Ended], now: int) -> bool:
        rules = self.rules
        live = [call for call in calls if self._counts(call, now)]
        if not rules.counts_calls or len(live) < rules.minimum:
            return False
        if not any(call.is_bad for call in live):
            return False
        failed = len([call for call in live if call.failed])
        slow = len([call for call in live if call.slow])
        if rules.rate is not None and failed / len(live) >= rules.rate:
            return True
        return rules.slow is not None and slow / len(live) >= rules.slow_rate

    def _is_suspect(self, record: Record, process: Process | None, now: int) -> bool:
        """Whether a failure or a slow call is in the window: a told one, or a process's own."""
        if not self.rules.counts_calls or record.is_open:
            return False
        calls = record.calls if process is None else [*record.calls, *process.calls]
        return any(call.is_bad and self._counts(call, now) for call in calls)

    def _is_witness(self, call: Ended, now: int) -> bool:
        if call.failed:
            return now - call.time < self.rules.window
        return call.slow and self._counts(call, now)

    def _counts(self, call: Ended, now: int) -> bool:
        """Whether a rate is still of this call: the window moves in steps of a tenth."""
        step = max(1, self.rules.window // 10)
        return now - (call.time - call.time % step) < self.rules.window

    def _share(self, record: Record, now: int) -> float:
        if record.is_open or record.openings == 0 or self.rules.ramp == 0:
            return 1.0
        return min(1.0, max(LEAST_SHARE, (now - record.closed_at) / self.rules.ramp))

    # -- transitions --------------------------------------------------------------------------

    def _record_of(self, process: int) -> Record:
        return self.processes[process].alone or self.record

    def _begin_life(self) -> None:
        self.life += 1
        self.record.trials = []
        for process in self.processes:
            process.begin_life()

    def _open(self, record: Record, now: int, asked: int = 0, *, by_hand: bool = False) -> None:
        if record.is_open or self._share(record, now) < 1:
            record.openings += not by_hand
        else:
            record.openings = 1
        wait = self.rules.recovery
        for _ in range(record.openings - 1):
            wait = min(wait * self.rules.backoff, self.rules.longest)
        record.is_open = True
        record.waits_until = now + min(max(wait, asked), self.rules.longest)
        record.trials = []
        record.forget_calls()
        self.opened = record
        if record is self.record:
            self._begin_life()

    def _close(self, record: Record, now: int) -> None:
        record.is_open = False
        record.closed_at = now
        record.openings = record.openings if self.rules.ramp else 0
        record.trials = []
        record.forget_calls()
        if record is self.record:
            self._begin_life()

    def _let_go(self, now: int) -> None:
        """End a mode whose time is over."""
        if self.given_until is not None and now >= self.given_until:
            self._end_mode(self.given_until)

    def _end_mode(self, now: int) -> None:
        if (self.given or self.rules.initial_mode) == "metrics_only":
            self.record = self.aside or Record()
            self._begin_life()
        if (self.given or self.rules.initial_mode) == "forced_open":
            self.record.is_open = True
            self.record.waits_until = now
            self.record.openings = max(1, self.record.openings)
            self.record.forget_calls()
        self.given = self.given_until = self.aside = None

    # -- commands -----------------------------------------------------------------------------

    def trip(self, now: int) -> None:
        self._let_go(now)
        self._open(self.record, now, by_hand=True)

    def begin_mode(self, mode: str, now: int, duration: int | None) -> None:
        self._let_go(now)
        self.record = self.aside or self.record
        self.aside = None
        self._begin_life()
        if mode == "metrics_only":
            self.aside, self.record = self.record, Record()
        self.given = mode
        self.given_until = None if duration is None else now + duration

    def enable(self, now: int) -> None:
        if self.mode(now) == "auto":
            return
        self._end_mode(now)
        if self.rules.initial_mode != "auto":
            self.given = "auto"
        self._begin_life()

    def reset(self, now: int) -> None:
        self._let_go(now)
        self.record = Record()
        self.given = self.given_until = self.aside = None
        self._begin_life()

    # -- settings and stores ------------------------------------------------------------------

    def change(self, rules: Rules) -> None:
        """Other settings: what a process has seen for rates by itself it counts anew."""
        self.rules = rules
        for process in self.processes:
            process.forget_calls()

    def lose(self, now: int) -> None:
        """Another store: nothing is left but a mode that somebody has given."""
        if self.given_until is not None and now >= self.given_until:
            self.given = self.given_until = None
        self.record = Record()
        self.aside = Record() if self.given == "metrics_only" else None
        self._begin_life()
