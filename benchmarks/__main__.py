"""``python -m benchmarks``: what a protected call costs, as one table of ratios."""

from __future__ import annotations

import asyncio
import gc
import json
import platform
import random
import statistics
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import repeat
from pathlib import Path
from typing import Any

import pyperf

from benchmarks.cases import Case, Group, all_groups
from circuitbreaker_django import CircuitBreaker
from circuitbreaker_django.backends.memory import MemoryBackend
from circuitbreaker_django.backends.sqlite import SQLiteBackend

# How to get ratios that can be trusted from a machine whose speed changes from second to second:
# pyperf starts fresh processes one after the other (each has its own memory layout and hash
# seed), and in each of them *all* cases run in turn, in slices of a millisecond and in another
# order every round, so that a slow moment meets all alike. Of each case the fastest slice of the
# process counts (what slows a slice down is the machine), the ratio is made within the process,
# and the table shows the median of the processes with their quartiles. pyperf's usual way, all
# the processes of one case before those of the next, would divide times taken minutes apart.
SLICE = 0.001

BREAKERS = 10_000
MOST_BYTES = 3 * 1024
PACKAGES = (
    "circuitbreaker-django",
    "Django",
    "circuitbreaker",
    "purgatory",
    "pybreaker",
    "aiobreaker",
    "interlock-cb",
    "pyperf",
)

Timer = Callable[[int], float]
#: For each group, for each of its cases, the fastest seconds per call in one process.
Times = list[list[float]]


def main() -> None:
    runner = pyperf.Runner(
        processes=10, values=10, program_args=("-m", "benchmarks"), add_cmdline_args=pass_on
    )
    runner.argparser.add_argument("--times", type=Path, help="for the workers: where to write")
    runner.argparser.set_defaults(quiet=True)  # what it would say of a round's mean is no matter
    args = runner.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name, asyncio.Runner() as loop:
        folder = Path(name)
        groups = all_groups(folder)
        rounds = Rounds(groups, loop)
        if args.worker:
            runner.bench_time_func("a round of all cases", rounds.run)
            if not args.calibrate_loops:
                with args.times.open("a") as file:
                    file.write(json.dumps(rounds.fastest) + "\n")
            return
        args.times = folder / "times"
        print(f"{args.processes} processes, a few seconds each ...", file=sys.stderr)
        runner.bench_time_func("a round of all cases", rounds.run)
        runs: list[Times] = [json.loads(line) for line in args.times.read_text().splitlines()]
        print("\n".join(report(groups, runs, folder)))


def pass_on(command: list[str], args: Any) -> None:
    command.extend(("--times", str(args.times)))


class Rounds:
    """All cases in turn, and the fastest slice of each."""

    def __init__(self, groups: list[Group], loop: asyncio.Runner) -> None:
        self.groups = groups
        self.loop = loop
        self.fastest: Times = [[float("inf")] * len(group.cases) for group in groups]
        self.slices: list[tuple[int, int, Timer, int]] = []

    def run(self, loops: int) -> float:
        """Run rounds; pyperf says how many. Gives the seconds that they took."""
        if not self.slices:
            self.prepare()
        total = 0.0
        for _ in range(loops):
            random.shuffle(self.slices)
            for group, case, timer, calls in self.slices:
                seconds = timer(calls)
                total += seconds
                self.fastest[group][case] = min(self.fastest[group][case], seconds / calls)
        return total

    def prepare(self) -> None:
        for number, group in enumerate(self.groups):
            for position, case in enumerate(group.cases):
                timer = async_timer(case, self.loop) if group.is_async else sync_timer(case)
                timer(1000)  # what a first call sets up, and CPython's specialization
                each = min(timer(500) / 500 for _ in range(5))
                calls = case.calls or max(1, round(SLICE / each))
                self.slices.append((number, position, timer, calls))
        gc.collect()
        gc.freeze()


# Each case has a loop of its own, compiled for it: CPython specializes code where it stands.
LOOP = """
{prefix}def timer(calls):
    {setup}
    start = clock()
    for _ in repeat(None, calls):
        {statement}
    return clock() - start
"""


def sync_timer(case: Case) -> Timer:
    return compiled("", case)


def async_timer(case: Case, loop: asyncio.Runner) -> Timer:
    timer = compiled("async ", case)
    return lambda calls: loop.run(timer(calls))


def compiled(prefix: str, case: Case) -> Any:
    names = {"clock": pyperf.perf_counter, "repeat": repeat, **case.names}
    exec(LOOP.format(prefix=prefix, setup=case.setup, statement=case.statement), names)
    return names["timer"]


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    label: str
    ratios: list[float]
    nanoseconds: float
    verdict: str

    def __str__(self) -> str:
        low, middle, high = quartiles(self.ratios)
        return (
            f"| {self.label} | {middle:.2f} | {low:.2f}-{high:.2f} "
            f"| {self.nanoseconds:,.0f} | {self.verdict} |"
        )


def report(groups: list[Group], runs: list[Times], folder: Path) -> Iterator[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    yield f"Python {platform.python_version()}; {versions}."
    yield f"{len(runs)} processes; the median of their ratios, and their quartiles."
    yield ""
    yield "| | ratio | quartiles | overhead, ns | target |"
    yield "|---|--:|--:|--:|---|"
    for number, group in enumerate(groups):
        yield f"| *{group.title}: overhead ÷ {group.yardstick}'s* | | | | |"
        yield from map(str, rows(group, [run[number] for run in runs]))
    yield f"| *Memory of a breaker, of {BREAKERS:,} that were each called once* | | | | |"
    for label, each in memory(folder):
        verdict = f"≤ 3 KB: {met(each <= MOST_BYTES)}"
        yield f"| {label} | {each:,.0f} bytes | | | {verdict} |"


def rows(group: Group, runs: list[list[float]]) -> Iterator[Row]:
    labels = [case.label for case in group.cases]

    def quotients(position: int, other: str) -> list[float]:
        divisor = labels.index(other)
        return [(times[position] - times[0]) / (times[divisor] - times[0]) for times in runs]

    for position, case in list(enumerate(group.cases))[1:]:
        overheads = [times[position] - times[0] for times in runs]
        ratios = quotients(position, group.yardstick)
        verdict = ""
        if case.target is not None:
            verdict = f"≤ {case.target}: {met(statistics.median(ratios) <= case.target)}"
        if case.dearer is not None:
            other, least = case.dearer
            times_dearer = statistics.median(quotients(position, other))
            verdict = f"≥ {least:g} times ours ({times_dearer:.1f}): {met(times_dearer >= least)}"
        yield Row(case.label, ratios, statistics.median(overheads) * 1e9, verdict)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def met(reached: bool) -> str:
    return "met" if reached else "**missed**"


def nothing() -> None:
    return None


def memory(folder: Path) -> Iterator[tuple[str, float]]:
    """Bytes per breaker, by tracemalloc."""
    sqlite = SQLiteBackend(location=folder / "many.sqlite3")
    for label, backend in (
        ("**one MemoryBackend for all**", MemoryBackend()),
        ("**one SQLiteBackend for all**", sqlite),
        ("**a MemoryBackend each (the default)**", None),
    ):
        tracemalloc.start()
        breakers = []
        for number in range(BREAKERS):
            breaker = CircuitBreaker(f"breaker {number}", backend=backend)
            breaker.call(nothing)
            breakers.append(breaker)
        gc.collect()
        yield label, tracemalloc.get_traced_memory()[0] / BREAKERS
        tracemalloc.stop()


if __name__ == "__main__":
    main()
