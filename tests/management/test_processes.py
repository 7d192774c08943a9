"""The command as a process of its own, against real worker processes."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
WORKER = "1 live process (1 command_worker.py)"


@pytest.fixture
def location(tmp_path):
    return tmp_path / "circuits.sqlite3"


@pytest.fixture
def environment(location):
    """Of every process; the command never imports what workers declare."""
    settings = {"default": {"LOCATION": str(location), "BREAKERS": {"stock": {}}}}
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "tests.command_settings",
        "TEST_CIRCUIT_BREAKERS": json.dumps(settings),
    }


@pytest.fixture
def start(environment):
    """Starts a worker, which has used a breaker when this returns."""
    workers = []

    class Worker:
        def __init__(self):
            workers.append(self)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.command_worker"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                bufsize=1,
            )
            assert self("call search") == "ok"

        def __call__(self, line):
            assert self.process.stdin
            assert self.process.stdout
            self.process.stdin.write(f"{line}\n")
            return self.process.stdout.readline().strip()

        def stop(self):
            self.process.communicate(timeout=30)

    yield Worker
    for worker in workers:
        if worker.process.poll() is None:
            worker.stop()


@pytest.fixture
def breaker(environment):
    def run(*words, code=0, **options):
        result = subprocess.run(
            [sys.executable, "-m", "django", "breaker", *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            **{"stdin": subprocess.DEVNULL, **options},
        )
        assert result.returncode == code, result
        return result.stdout or result.stderr

    return run


def test_commands_reach_every_worker_at_its_next_call(breaker, start):
    workers = [start() for _ in range(3)]
    out = breaker("trip", "payments")
    assert "payments: open. It will be tried again in 30 s" in out
    assert "it reaches 3 live processes (3 command_worker.py)." in out
    assert [worker("call payments") for worker in workers] == ["rejected"] * 3
    breaker("reset", "payments")
    assert [worker("call payments") for worker in workers] == ["ok"] * 3
    breaker("trip", "--all", "--hold", "--no-input")
    assert [worker("call search") for worker in workers] == ["rejected"] * 3
    breaker("reset", "--all", "--no-input")
    assert [worker("call hidden") for worker in workers] == ["ok"] * 3


def test_what_workers_found_out_is_seen(breaker, start):
    one, other = start(), start()
    assert [one("fail payments"), other("fail payments")] == ["failed"] * 2
    rows = {row["name"]: row for row in json.loads(breaker("status", "--format", "json"))}
    assert rows["payments"]["failures"] == 2
    assert one("fail payments") == "failed"
    assert other("call payments") == "rejected"
    out = breaker("status", "--fail-on-open", code=1)
    assert "3 failures within 60 s, last ConnectionError" in out


def test_a_breaker_that_only_a_workers_code_knows(breaker, start):
    """``trip`` takes the policy that the worker has published."""
    worker = start()
    names = [row["name"] for row in json.loads(breaker("status", "--format", "json"))]
    assert names == ["hidden", "payments", "search", "stock"]
    assert "command_worker.py:" in breaker("status", "-v2", "hidden")
    assert "hidden: open. It will be tried again in 300 s" in breaker("trip", "hidden")
    assert worker("call hidden") == "rejected"
    [row] = json.loads(breaker("status", "hidden", "--format", "json"))
    assert 280 < row["retry_after"] <= 300


def test_it_is_still_known_when_the_worker_is_gone(breaker, start):
    start().stop()
    assert "hidden" in breaker("status")


def test_a_stopped_worker_disappears(breaker, start):
    one, other = start(), start()
    assert "2 live processes (2 command_worker.py)" in breaker("status")
    one.stop()
    assert WORKER in breaker("status")
    other.stop()
    assert "no live process" in breaker("status")
    assert "no live process" in breaker("trip", "payments", code=2)


def test_no_live_process_no_store(breaker, tmp_path):
    assert "there is no " in breaker("status")
    assert "no live process uses" in breaker("trip", "stock", code=2)
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_input_is_no_yes(breaker, start):
    worker = start()
    breaker("trip", "payments")
    out = breaker("reset", "--all", code=2)
    assert "nothing was done" in out or "[y/N]" in out
    assert worker("call payments") == "rejected"


def test_a_yes_from_a_pipe(breaker, start):
    worker = start()
    breaker("trip", "payments")
    breaker("reset", "--all", stdin=None, input="y\n")
    assert worker("call payments") == "ok"


def test_a_store_that_is_being_written_to(breaker, start, tmp_path):
    """By a process that was stopped in the middle of it."""
    code = (
        "import os, signal, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE')\n"
        "print('writing', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    worker = start()
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "circuits.v1.sqlite3"], stdout=subprocess.PIPE
    ) as writer:
        try:
            assert writer.stdout
            assert writer.stdout.readline() == b"writing\n"
            assert "nothing was applied" in breaker("trip", "payments", code=2)
            assert "payments" in breaker("status")
        finally:
            writer.send_signal(signal.SIGKILL)
    assert worker("call payments") == "ok"
    breaker("trip", "payments")
    assert worker("call payments") == "rejected"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_users_store(environment, start):
    """The error says whose it is, and the line that would work."""
    nobody = pwd.getpwnam("nobody")
    code = (
        "import os, sys, django\n"
        "django.setup()\n"
        "import circuitbreaker_django.backends.sqlite\n"
        "from circuitbreaker_django.management.commands.breaker import Command\n"
        # While Django's files may be read, which they need not be for whoever it is then.
        "from django.utils import translation\n"
        "translation.activate('en-us')\n"
        "os.setgroups([])\n"
        f"os.setgid({nobody.pw_gid})\n"
        f"os.setuid({nobody.pw_uid})\n"
        "sys.argv[0] = 'manage.py'\n"
        "Command().run_from_argv(sys.argv)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        settings = {"default": {"LOCATION": f"{folder}/circuits.sqlite3"}}
        environment["TEST_CIRCUIT_BREAKERS"] = json.dumps(settings)
        start()
        result = subprocess.run(
            [sys.executable, "-c", code, "breaker", "trip", "payments", "--reason", "two words"],
            # What he covers he may not write down.
            env={key: value for key, value in environment.items() if "COVERAGE" not in key},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert (result.returncode, result.stdout) == (2, "")
    assert f"{folder} belongs to root and this process runs as nobody" in result.stderr
    assert "sudo -u root " in result.stderr
    assert "manage.py breaker trip payments --reason 'two words'" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('{"default": {"LOCATON": "x"}}', "LOCATON"),
        ('{"default": {"BREAKERS": {"x": {"failure_threshold": 0}}}}', "failure_threshold"),
        ('{"default": {"BACKEND": "nowhere.Backend"}}', "nowhere"),
        ("5", "CIRCUIT_BREAKERS"),
    ],
)
def test_wrong_settings_are_one_line_and_code_2(breaker, environment, settings, words):
    environment["TEST_CIRCUIT_BREAKERS"] = settings
    for command in (["status"], ["trip", "x"]):
        out = breaker(*command, code=2)
        assert words in out
        assert out.count("\n") == 1


def test_the_default_place_says_that_it_is_in_memory(breaker, start, environment):
    namespace = f"test-{os.getpid()}"
    environment["TEST_CIRCUIT_BREAKERS"] = json.dumps({"default": {"NAMESPACE": namespace}})
    folder = Path("/dev/shm/circuitbreaker_django", namespace)
    if not folder.parent.parent.is_dir():
        pytest.skip("no /dev/shm here")
    try:
        start()
        out = breaker("trip", "payments", "--hold")
        assert f"Written to {folder}/default.v1.sqlite3 on " in out
        assert "a restart of the host ends the hold" in out
    finally:
        for path in folder.glob("*"):
            path.unlink()
        folder.rmdir()


def test_checks_of_other_things_do_not_stop_it(environment):
    """``manage.py breaker`` runs no system checks."""
    code = (
        "import django\n"
        "from django.core.checks import register\n"
        "from django.core.management import execute_from_command_line\n"
        "django.setup()\n"
        "register(lambda **kwargs: 1 / 0)\n"
        "execute_from_command_line(['manage.py', 'breaker', 'status'])\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True)


# -- what cannot be printed -------------------------------------------------------------------


@pytest.fixture
def shell(environment):
    """Runs the command, whose output goes where the test says; returns the result."""

    def run(*words, stdout, **variables):
        return subprocess.run(
            [sys.executable, "-m", "django", "breaker", *words],
            cwd=ROOT,
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=60,
        )

    return run


@pytest.fixture
def closed_pipe():
    """The end to write to of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["trip", "stock"], 0),
        (["status"], 0),
        (["status", "--fail-on-open"], 1),
        (["history"], 0),
        (["trip", "unknown"], 2),
    ],
)
def test_a_reader_that_has_gone_changes_no_exit_code(
    shell, breaker, start, closed_pipe, words, code, unbuffered
):
    worker = start()
    breaker("trip", "stock")
    result = shell(*words, stdout=closed_pipe, PYTHONUNBUFFERED=unbuffered)
    assert result.returncode == code
    assert b"Traceback" not in result.stderr
    assert b"Broken" not in result.stderr
    assert worker("call hidden") == "ok"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_where_nothing_can_be_printed_it_says_what_was_applied(shell, start):
    worker = start()
    with open("/dev/full", "wb") as full:
        tripped, status = shell("trip", "search", stdout=full), shell("status", stdout=full)
    why = "output could not be printed: No space left on device.\n"
    assert tripped.returncode == 0
    assert tripped.stderr.decode().endswith(f"\nIt was applied, but the {why}")
    assert (status.returncode, status.stderr.decode()) == (2, f"The {why}")
    assert worker("call search") == "rejected"


def test_what_the_terminal_cannot_show_is_shown_escaped(shell, start):
    start()
    result = shell(
        "trip",
        "stock",
        "--reason",
        "\N{COLLISION SYMBOL}",
        stdout=subprocess.PIPE,
        PYTHONIOENCODING="ascii",
        PYTHONUTF8="1",
    )
    assert result.returncode == 0, result
    history = shell("history", stdout=subprocess.PIPE, PYTHONIOENCODING="latin1")
    assert (history.returncode, b"\\U0001f4a5" in history.stdout) == (0, True)
