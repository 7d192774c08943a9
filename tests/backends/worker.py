"""A worker process of the tests: does what lines on its standard input say, and answers each."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from circuitbreaker_django import CircuitBreaker, CircuitOpenError
from circuitbreaker_django.backends import remote
from circuitbreaker_django.backends.redis import RedisBackend
from circuitbreaker_django.backends.sqlite import SQLiteBackend
from circuitbreaker_django.backends.sqlite_process import SQLiteProcess
from circuitbreaker_django.core.news import News, StateChanged
from circuitbreaker_django.core.telling import listeners
from circuitbreaker_django.core.trial import Trial

remote.CLOSE_PATIENCE = 20  # type: ignore[misc] # the host of the tests may be busy

#: As a project keeps its registries: until the process ends.
kept: list[Worker] = []


class Down(Exception):
    """The dependency's failure."""


class Warned(logging.Handler):
    """Remembers what was warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(self.format(record))


def fail() -> None:
    raise Down


class Counting(SQLiteBackend):
    """Counts its housekeeping, so that a test can wait for it."""

    rounds = 0

    def keep_house(self, process: SQLiteProcess) -> None:
        super().keep_house(process)
        self.rounds += 1


def open_backend(location: str) -> Any:
    """On the server of a URL, or in a file."""
    return RedisBackend(location) if "://" in location else Counting(location)


class Worker:
    def __init__(self, location: str, options: dict[str, Any]) -> None:
        self.location = location
        self.backend = open_backend(location)
        self.breaker = CircuitBreaker("payments", backend=self.backend, **options)
        self.warned = Warned()
        logging.getLogger("circuitbreaker_django").addHandler(self.warned)
        self.trials: list[Trial] = []
        self.heard: list[tuple[str, str, bool]] = []
        listeners.append(self.hear)

    def hear(self, news: News) -> None:
        if isinstance(news, StateChanged):
            event = news.event
            self.heard.append((event.before.value, event.after.value, news.origin))

    # Every method below is a command; what it returns is the answer.

    def ok(self) -> str:
        try:
            self.breaker.call(lambda: None)
        except CircuitOpenError:
            return "rejected"
        return "ok"

    def fail(self) -> str:
        try:
            self.breaker.call(fail)
        except Down:
            return "failed"
        except CircuitOpenError:
            return "rejected"
        return "?"

    def calls(self, pattern: str) -> str:
        """Calls that fail where there is an F: what has come of each, an R where it was rejected.

        It ends with a rejection.
        """
        told = ""
        for letter in pattern:
            answer = self.fail() if letter == "F" else self.ok()
            told += {"failed": "F", "ok": "S", "rejected": "R"}[answer]
            if answer == "rejected":
                break
        return told

    def chance(self, value: float) -> str:
        """What decides who is admitted while it ramps up."""
        self.backend.chance = lambda: value
        return "done"

    def rounds(self) -> int:
        """How often this process has kept house."""
        return int(self.backend.rounds)

    def storm(self, start: float) -> tuple[int, int]:
        """Calls that fail until one is rejected; all workers begin at once.

        Returns:
            How many there were, and how many of them had to leave their failure to the thread
            because the store was busy: in flight for longer than their call (rule 27).
        """
        time.sleep(max(0.0, start - time.time()))
        count = late = 0
        while self.fail() == "failed":
            count += 1
            late += bool(self.backend._pending.evidence)
            time.sleep(0.003)
        return count, late

    def enter(self) -> str:
        admission = self.breaker.enter()
        if isinstance(admission, Trial):
            self.trials.append(admission)
            return "local" if admission.local else "trial"
        return type(admission).__name__

    def leave(self, failed: bool = False) -> str:
        """The end of the trial that was entered."""
        self.breaker.leave_block(self.trials.pop(), Down() if failed else None)
        return "done"

    def jump(self, by: float) -> str:
        """Let the wall clock of this process jump by so many seconds."""
        wall, wall_ns = time.time, time.time_ns
        time.time = lambda: wall() + by
        time.time_ns = lambda: wall_ns() + int(by * 1e9)
        return "done"

    def state(self) -> str:
        return self.breaker.state.value

    def mode(self) -> str:
        return self.breaker.mode.value

    def spared(self) -> int:
        found = self.backend.overview().circuits.get("payments")
        return 0 if found is None else found.spared

    def disable(self) -> str:
        self.breaker.disable()
        return "done"

    def metrics_only(self, duration: float | None = None) -> str:
        self.breaker.metrics_only(duration=duration)
        return "done"

    def enable(self) -> str:
        self.breaker.enable()
        return "done"

    def trip(self) -> str:
        self.breaker.trip()
        return "done"

    def hold(self) -> str:
        self.breaker.trip(hold=True)
        return "done"

    def reset(self) -> str:
        self.breaker.reset()
        return "done"

    def touch(self) -> str:
        """As at the beginning of a request."""
        self.backend.touch()
        return "done"

    def available(self) -> bool:
        self.backend.sync()
        return bool(self.backend.available)

    def threads(self) -> int:
        return sum(one.name.startswith("circuitbreaker") for one in threading.enumerate())

    def wait_for(self, state: str) -> str:
        """The state, when it is that, or after a while."""
        deadline = time.monotonic() + 10
        while self.state() != state and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.state()

    def wait_for_open(self) -> str:
        return self.wait_for("open")

    def wait_until_rejected(self) -> str:
        """By calls alone, as a worker that only serves."""
        deadline = time.monotonic() + 10
        while (answer := self.ok()) == "ok" and time.monotonic() < deadline:
            time.sleep(0.005)
        return answer

    def pids(self) -> list[int]:
        return sorted(process.pid for process in self.backend.overview().processes)

    def alone(self) -> list[int]:
        """The processes that have something open alone."""
        return [process.pid for process in self.backend.overview().processes if process.alone]

    def counted(self) -> list[int]:
        stats = self.backend.stats().get("payments")
        return [] if stats is None else list(stats.last_hour)

    def openings(self) -> int:
        found = self.backend.overview().circuits.get("payments")
        return 0 if found is None else found.openings

    def failures(self) -> int:
        found = self.backend.overview().circuits.get("payments")
        return 0 if found is None else len(found.failures)

    def warnings(self) -> list[str]:
        return [message for message in self.warned.told if "own until" in message]

    def told(self) -> list[str]:
        return self.warned.told

    def changes(self) -> list[tuple[str, str, bool]]:
        return self.heard

    def healthy(self) -> bool:
        file = self.backend._here().file
        if file is None or self.backend.problem is not None:
            return False
        file.verify()
        return bool(self.backend.available and file.bell.word[()] > 0)

    def die(self, step: str) -> str:
        """Kill this process at a step around its next loud commit."""
        file = self.backend._here().file
        assert file is not None
        ring, writer, kill = file._ring, file._writer, self.kill

        def ringing(word: float) -> None:
            if step == "before the dirty word":
                kill()
            ring(word)
            if step == ("after the dirty word" if word < 0 else "after the clean word"):
                kill()

        class Writer:
            def execute(self, sql: str, *values: Any) -> Any:
                result = writer.execute(sql, *values)
                if sql == "COMMIT" and step == "after the commit":
                    kill()
                return result

            def __getattr__(self, name: str) -> Any:
                return getattr(writer, name)

        file._ring = ringing
        file._writer = Writer()
        return "armed"

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def freeze(self) -> str:
        """Stop this process inside of a transaction."""
        file = self.backend._here().file
        assert file is not None
        with self.backend._here().writing.taken(1), file.writing(1):
            os.kill(os.getpid(), signal.SIGSTOP)
        return "thawed"

    def limit(self, size: int) -> str:
        """Let no file grow beyond this size; the disk is full."""
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size if size >= 0 else hard, hard))
        return "done"

    def fork(self, what: list[str]) -> list[Any]:
        """What a fork answers to some commands, and how it ended, as a program ends."""
        return self._fork(os.fork, what)

    def fork_without_hooks(self, what: list[str]) -> list[Any]:
        """The same with a fork that Python does not hear of, as uWSGI's."""
        return self._fork(ctypes.PyDLL(None).fork, what)

    def fork_in_a_trial(self, what: list[str]) -> list[Any]:
        """The fork leaves the block too, and nobody shall hear of that."""
        pid = os.getpid()
        try:
            with self.breaker:
                answers = self._fork(os.fork, what)
                raise Down
        except Down:
            return answers
        finally:
            if os.getpid() != pid:
                os._exit(0)

    def fork_during_a_write(self, what: list[str]) -> list[Any]:
        inside = threading.Event()

        def write() -> None:
            process = self.backend._here()
            assert process.file is not None
            with process.writing.taken(1), process.file.writing(1):
                inside.set()
                time.sleep(0.05)

        thread = threading.Thread(target=write)
        thread.start()
        inside.wait(10)
        try:
            return self._fork(os.fork, what)
        finally:
            thread.join(10)

    def _fork(self, fork: Callable[[], int], what: list[str]) -> list[Any]:
        reader, writer = os.pipe()
        child = fork()
        if child == 0:
            os.close(reader)
            answers = [getattr(self, name)() for name in what]
            os.write(writer, json.dumps(answers).encode())
            os.close(writer)
            sys.exit(0)
        os.close(writer)
        with open(reader, encoding="utf-8") as pipe:
            answers = json.loads(pipe.read() or "[]")
        return [*answers, os.waitpid(child, 0)[1]]


def main() -> None:
    location, options, user = json.loads(sys.argv[1])
    if user is not None:  # who may not be allowed to read where Python's modules are
        Path("/").as_uri()
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    worker = Worker(location, options)
    kept.append(worker)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = getattr(worker, name)(*arguments)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
