"""The example end to end: ``demo.py`` as ``make demo`` runs it, real workers, a real upstream."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPMessage
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener

import pytest

from tests.backends.servers import find_server, short_folder

EXAMPLE = Path(__file__).resolve().parent.parent / "example_project"
LONG = 300


@dataclass
class Answer:
    status: int
    headers: HTTPMessage
    body: str

    @property
    def worker(self) -> int:
        return int(self.headers["X-Worker"])


class Browser:
    """Asks without a proxy, keeps cookies, and takes an error page for an answer like any other."""

    def __init__(self) -> None:
        self.opener = build_opener(ProxyHandler({}), HTTPCookieProcessor(CookieJar()))

    def ask(
        self, url: str, *, accept: str = "text/html", form: dict[str, str] | None = None
    ) -> Answer:
        data = None if form is None else urlencode(form).encode()
        request = Request(url, data=data, headers={"Accept": accept})
        try:
            response = self.opener.open(request, timeout=60)
        except HTTPError as error:
            response = error
        with response:
            return Answer(response.status, response.headers, response.read().decode())

    def submit(self, page: str, url: str, **form: str) -> Answer:
        """Send the form of a page, with the token that the page holds."""
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.ask(page).body)
        assert token
        return self.ask(url, form={"csrfmiddlewaretoken": token[1], **form})


class Demo:
    """A running demo, in a copy of the example, and what its output says."""

    def __init__(self, folder: Path, *arguments: str, recovery_timeout: float = LONG) -> None:
        self.home = folder / "example_project"
        shutil.copytree(
            EXAMPLE, self.home, ignore=shutil.ignore_patterns(".env", "db.sqlite3", "__pycache__")
        )
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        ours = ("SHOP_", "DJANGO_SETTINGS_MODULE", "GUNICORN_CMD_ARGS")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.log = folder / "demo.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(self.home / "demo.py"), *arguments],
                env=self.env
                | {"SHOP_RECOVERY_TIMEOUT": str(recovery_timeout), "TMPDIR": str(self.temporary)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            until(self.has_started)
            output = self.log.read_text()
            self.url = found(r"Shop +(\S+)/$", output)
            self.upstream = found(r"Upstream +(\S+)/mode$", output)
            self.admin = found(r"Admin +(\S+) ", output)
            self.user, self.password = (
                found(r"user (\S+),", output),
                found(r"password (\S+)$", output),
            )
            self.commands = re.findall(
                r"^ *(\S.* breaker (?:status|trip|reset).*)$", output, re.MULTILINE
            )
            self.workers = self.find_workers()
        except BaseException:
            self.stop()
            raise

    def has_started(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return "Ctrl-C ends all of it." in self.log.read_text()

    def find_workers(self) -> set[int]:
        workers: set[int] = set()

        def both_answered() -> bool:
            workers.update(answer.worker for answer in self.get_many("/"))
            return len(workers) >= 2

        until(both_answered)
        return workers

    def get(self, path: str, accept: str = "text/html") -> Answer:
        return Browser().ask(self.url + path, accept=accept)

    def get_many(self, path: str) -> list[Answer]:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(self.get, [path] * 4))

    def get_from_every_worker(self, path: str) -> list[Answer]:
        """Ask until each worker has answered, and return every answer."""
        answers: list[Answer] = []

        def all_answered() -> bool:
            answers.extend(self.get_many(path))
            return {answer.worker for answer in answers} >= self.workers

        until(all_answered)
        return answers

    def statuses(self, path: str) -> set[int]:
        return {answer.status for answer in self.get_from_every_worker(path)}

    def switch(self, mode: str) -> None:
        assert Browser().ask(f"{self.upstream}/mode/{mode}", form={}).status == 200

    def failures_until_open(self, path: str) -> int:
        """Visit until the circuit is open; return how many visits failed before."""
        failures = 0
        while (answer := self.get(path)).status == 502:
            failures += 1
            assert failures < 100
        assert answer.status == 503, answer.body
        return failures

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(self.home / "manage.py"), *arguments]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=120)

    def circuit(self, name: str) -> dict[str, Any]:
        done = self.manage("breaker", "status", name, "--format", "json")
        assert done.returncode == 0, done.stderr
        circuit: dict[str, Any]
        [circuit] = json.loads(done.stdout)
        assert circuit["name"] == name
        return circuit

    def end(self, signum: int) -> int:
        self.process.send_signal(signum)
        return self.process.wait(60)

    def stop(self) -> None:
        """End it whatever happened, its processes too."""
        try:
            self.end(signal.SIGTERM)
        except subprocess.TimeoutExpired:
            for pid in (self.process.pid, *descendants(self.process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    assert match, text
    return match[1]


def processes() -> dict[int, tuple[int, str]]:
    """All processes of this machine: parent and state by id."""
    if not Path("/proc/self/stat").exists():
        ps = ["ps", "-A", "-o", "pid=", "-o", "ppid=", "-o", "stat="]
        rows = subprocess.run(ps, capture_output=True, text=True, check=True).stdout.splitlines()
        return {int(pid): (int(parent), state) for pid, parent, state in map(str.split, rows)}
    table = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            table[int(stat.parent.name)] = (int(parent), state)
    return table


def descendants(pid: int) -> set[int]:
    parents = {child: parent for child, (parent, _) in processes().items()}
    known = {pid}
    while new := {child for child, parent in parents.items() if parent in known} - known:
        known |= new
    return known - {pid}


def is_running(pid: int) -> bool:
    return not processes().get(pid, (0, "Z"))[1].startswith("Z")


def is_listening(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, recovery_timeout: float = LONG, folder: Path = tmp_path) -> Demo:
            demo = Demo(folder, *arguments, recovery_timeout=recovery_timeout)
            stack.callback(demo.stop)
            return demo

        yield start


@pytest.fixture(scope="module")
def running_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("demo"))
    yield demo
    demo.stop()


@pytest.fixture
def shop(running_demo: Demo) -> Demo:
    """The shop with two workers, well and closed."""
    running_demo.switch("healthy")
    done = running_demo.manage("breaker", "reset", "--all", "--no-input")
    assert done.returncode == 0, done.stderr
    return running_demo


@pytest.mark.parametrize(
    ("path", "name", "mode"),
    [
        pytest.param("/checkout/", "payments", "errors", id="sync view calling a service"),
        pytest.param("/stock/", "stock", "errors", id="async view"),
        pytest.param("/stock/", "stock", "hang", id="async view with a time-out"),
    ],
)
def test_a_broken_upstream_opens_the_circuit_in_every_worker(
    shop: Demo, path: str, name: str, mode: str
) -> None:
    assert shop.statuses(path) == {200}
    shop.switch(mode)

    # Three failures in total. Were the store busy just then, each worker would open by its own.
    assert 3 <= shop.failures_until_open(path) <= 5
    until(lambda: shop.statuses(path) == {503})

    for answer in shop.get_from_every_worker(path):
        assert answer.status == 503
        assert 1 <= int(answer.headers["Retry-After"]) <= LONG
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers.get_content_type() == "text/html"
        assert name not in answer.body
    assert (
        shop.get(path, accept="application/json").headers.get_content_type() == "application/json"
    )

    circuit = shop.circuit(name)
    assert (circuit["state"], circuit["mode"]) == ("open", "auto")
    assert 0 < circuit["retry_after"] <= LONG
    assert shop.manage("breaker", "status", "--fail-on-open").returncode == 1


def test_the_other_circuits_stay_closed(shop: Demo) -> None:
    shop.switch("errors")
    shop.failures_until_open("/checkout/")
    shop.switch("healthy")

    assert shop.statuses("/stock/") == {200}
    assert shop.circuit("stock")["state"] == "closed"
    assert re.findall(r'class="state (\w+)"', shop.get("/").body) == ["open", "closed", "closed"]


def test_a_slow_upstream_fails_only_those_who_do_not_wait(shop: Demo) -> None:
    shop.switch("slow")
    assert shop.get("/stock/").status == 502
    assert shop.get("/checkout/").status == 200


def test_search_falls_back_to_another_page(shop: Demo) -> None:
    assert "teapot" in shop.get("/search/?q=teapot").body
    shop.switch("errors")

    pages = []

    def the_upstream_is_not_asked() -> bool:
        pages.append(shop.get("/search/?q=teapot"))
        return "was not asked" in pages[-1].body

    until(the_upstream_is_not_asked)
    assert {page.status for page in pages} == {200}
    assert all("Our bestsellers" in page.body for page in pages)
    assert "was asked, and failed" in pages[0].body
    assert shop.circuit("search")["state"] == "open"


def test_trip_and_reset_from_another_process_reach_every_worker(shop: Demo) -> None:
    assert shop.statuses("/checkout/") == {200}

    done = shop.manage(
        "breaker", "trip", "payments", "--hold", "--reason", "maintenance", "--actor", "operator"
    )
    assert done.returncode == 0, done.stderr
    for answer in shop.get_from_every_worker("/checkout/"):
        assert answer.status == 503
        assert "Retry-After" not in answer.headers
        assert "maintenance" not in answer.body
    circuit = shop.circuit("payments")
    assert (circuit["state"], circuit["mode"], circuit["reason"]) == (
        "open",
        "forced_open",
        "maintenance",
    )
    assert "operator" in str(circuit["updated_by"])

    done = shop.manage("breaker", "reset", "payments", "--no-input")
    assert done.returncode == 0, done.stderr
    assert shop.statuses("/checkout/") == {200}
    assert shop.circuit("payments")["state"] == "closed"


def test_a_healed_upstream_closes_the_circuit_again(start_demo: Callable[..., Demo]) -> None:
    shop = start_demo(recovery_timeout=1)
    shop.switch("errors")
    shop.failures_until_open("/checkout/")

    shop.switch("healthy")
    until(lambda: shop.get("/checkout/").status == 200)
    assert shop.statuses("/checkout/") == {200}
    assert shop.circuit("payments")["state"] == "closed"


def test_what_the_demo_prints_works_and_ctrl_c_leaves_nothing(
    start_demo: Callable[..., Demo],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        demo = start_demo("--port", str(port))
        assert demo.url != f"http://127.0.0.1:{port}"

    browser = Browser()
    home = browser.ask(f"{demo.url}/")
    assert home.status == 200
    assert browser.ask(demo.url + found(r'href="(\S+\.css)"', home.body)).status == 200
    browser.submit(f"{demo.url}/", f"{demo.url}/upstream/errors/")
    assert json.loads(browser.ask(f"{demo.upstream}/mode").body) == {"mode": "errors"}
    demo.switch("healthy")

    login = browser.ask(demo.admin)
    assert (
        browser.ask(demo.url + found(r'href="(\S+/admin/css/login\.css)"', login.body)).status
        == 200
    )
    admin = browser.submit(
        demo.admin, f"{demo.admin}login/?next=/admin/", username=demo.user, password=demo.password
    )
    assert "Log out" in admin.body

    status, trip, reset = demo.commands
    for command, then in ((status, 200), (trip, 503), (reset, 200)):
        subprocess.run(
            ["sh", "-c", command],
            env=demo.env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            check=True,
            timeout=120,
        )
        assert demo.statuses("/checkout/") == {then}, command

    pids = descendants(demo.process.pid)
    assert pids >= demo.workers
    assert demo.end(signal.SIGINT) == 0
    until(lambda: not any(map(is_running, pids)))
    assert not is_listening(demo.url)
    assert not is_listening(demo.upstream)
    assert not (demo.home / ".env").exists()
    assert not list(demo.temporary.iterdir())


def test_two_demos_of_one_checkout_do_not_meet(start_demo: Callable[..., Demo]) -> None:
    demo = start_demo()
    mine = (demo.home / ".env").read_text()
    second = subprocess.Popen(
        [sys.executable, str(demo.home / "demo.py")],
        env=demo.env | {"TMPDIR": str(demo.temporary)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with second:
        assert second.stdout
        output = ""
        try:
            while "Ctrl-C ends all of it." not in output:
                line = second.stdout.readline()
                assert line, output
                output += line
            commands = re.findall(r"^ *(\S.* breaker (?:trip|reset).*)$", output, re.MULTILINE)
            subprocess.run(
                ["sh", "-c", commands[0]], env=demo.env, cwd="/", check=True, timeout=120
            )
            assert Browser().ask(found(r"Shop +(\S+)$", output) + "checkout/").status == 503
            assert demo.statuses("/checkout/") == {200}
        finally:
            second.terminate()
            second.wait(60)
    assert (demo.home / ".env").read_text() == mine


def test_the_demo_ends_even_a_worker_that_hangs(start_demo: Callable[..., Demo]) -> None:
    demo = start_demo()
    os.kill(min(demo.workers), signal.SIGSTOP)

    pids = descendants(demo.process.pid)
    assert demo.end(signal.SIGTERM) == 0
    until(lambda: not any(map(is_running, pids)))


def test_the_demo_says_which_process_died_and_ends_the_others(
    start_demo: Callable[..., Demo],
) -> None:
    demo = start_demo()
    [gunicorn] = {parent for pid, (parent, _) in processes().items() if pid in demo.workers}

    pids = descendants(demo.process.pid)
    os.kill(gunicorn, signal.SIGKILL)
    assert demo.process.wait(60) == 1
    assert f"gunicorn (process {gunicorn}) ended by itself: signal SIGKILL." in demo.log.read_text()
    until(lambda: not any(map(is_running, pids)))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Short enough for sockets, and one that the user of a server may enter."""
    for folder in short_folder():
        folder.chmod(0o711)
        yield folder


@pytest.mark.parametrize(
    ("backend", "servers", "place"),
    [
        ("redis", ["redis-server", "valkey-server"], "RedisBackend at unix://"),
        ("database", ["postgres"], "DatabaseBackend at DATABASES['default'], postgres at "),
    ],
)
def test_the_circuits_of_four_workers_can_be_in_a_server(
    start_demo, open_folder, backend, servers, place
):
    paths = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres")) if "postgres" in servers else []
    find_server(*servers, *paths)
    demo = start_demo("--backend", backend, "--port", "0", folder=open_folder)
    until(lambda: len(demo.find_workers()) == 4)
    demo.switch("errors")
    demo.failures_until_open("/checkout/")
    until(lambda: demo.statuses("/checkout/") == {503})
    until(lambda: "Attached: 4 live processes" in demo.manage("breaker", "status").stdout)
    assert place in demo.manage("breaker", "status").stdout
    assert demo.circuit("payments")["state"] == "open"
    done = demo.manage("breaker", "reset", "payments")
    assert done.returncode == 0, done.stderr
    assert demo.circuit("payments")["state"] == "closed"
    pids = descendants(demo.process.pid)
    assert demo.end(signal.SIGINT) == 0
    until(lambda: not any(map(is_running, pids)))
    assert not list(demo.temporary.iterdir())
    log = demo.log.read_text()
    assert "Traceback" not in log
    assert "FATAL" not in log
    assert "not free" not in log


@pytest.mark.parametrize(
    ("backend", "remedy"),
    [("redis", "apt install redis-server"), ("database", "apt install postgresql")],
)
def test_a_server_that_is_not_there_is_told_with_the_remedy(tmp_path, backend, remedy):
    code = "import glob, demo; glob.glob = lambda pattern: []; raise SystemExit(demo.main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--backend", backend],
        env={**os.environ, "PATH": "", "PYTHONPATH": str(EXAMPLE), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
