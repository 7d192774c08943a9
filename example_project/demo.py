"""
Run the example on this machine: ``make demo``.

Starts the upstream and the shop under gunicorn, makes an admin user, and prints what to open and
what to try; with ``--backend redis`` or ``database`` a server for the circuits too, and four
workers. Ctrl-C ends every process that it started and removes what it wrote: a temporary folder
with the databases and the breakers' store, and the ``.env`` file beside ``manage.py``.
"""

import argparse
import contextlib
import glob
import importlib.util
import os
import pwd
import secrets
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

HERE = Path(__file__).resolve().parent
NEEDED = ("circuitbreaker_django", "environ", "gunicorn", "uvicorn_worker")
# What else is needed where the circuits are in a server.
CLIENTS = {"sqlite": (), "redis": ("redis",), "database": ("psycopg",)}

START_SECONDS = 60.0
# Longer than gunicorn gives its workers (graceful_timeout in gunicorn.conf.py).
STOP_SECONDS = 6.0
POLL_SECONDS = 0.1


class Stopped(Exception):
    """Somebody asked the demo to end."""


class Failed(Exception):
    """The demo cannot go on; the message says why."""


class Processes:
    """
    The processes that the demo started, and their end.

    Each one leads a process group of its own. So Ctrl-C in the terminal reaches only the demo,
    which then ends them in order, and a worker whose parent was killed can still be found.
    """

    def __init__(self) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.asked_to_stop = False

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        # Only remember it: an exception from here could lose a process that is just being started.
        self.asked_to_stop = True

    def start(
        self,
        name: str,
        *command: str,
        env: dict[str, str],
        fd: int | None = None,
        stdout: int | None = None,
        program: str = sys.executable,
        cwd: Path = HERE,
        user: str | None = None,
    ) -> subprocess.Popen[bytes]:
        self.running[name] = process = subprocess.Popen(
            [program, *command],
            cwd=cwd,
            user=user,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            pass_fds=() if fd is None else (fd,),
            start_new_session=True,
        )
        return process

    def run(self, name: str, *command: str, env: dict[str, str], **options: Any) -> None:
        """Run a command to its end, which must be a good one."""
        process = self.start(name, *command, env=env, **options)
        while process.poll() is None:
            self.pause()
        self.end_group(process)
        del self.running[name]
        if process.returncode:
            raise Failed(f"{name} failed: {how_it_ended(process)}.")

    def pause(self) -> None:
        """Wait a moment, unless the demo is to end."""
        if self.asked_to_stop:
            raise Stopped
        time.sleep(POLL_SECONDS)

    def wait_until(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise Failed(f"{what} did not answer within {START_SECONDS:.0f} s.")
            self.pause()

    def check(self) -> None:
        for name, process in self.running.items():
            if process.poll() is not None:
                raise Failed(
                    f"{name} (process {process.pid}) ended by itself: {how_it_ended(process)}."
                )

    def watch(self) -> None:
        """Return never: the demo is stopped, or one of its processes ends by itself."""
        while True:
            self.check()
            self.pause()

    def stop(self) -> None:
        """End what runs, the last started first: workers before the server that they use.

        What has not ended in time is killed.
        """
        deadline = time.monotonic() + STOP_SECONDS
        for process in reversed(self.running.values()):
            if process.poll() is None:
                process.terminate()
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            self.end_group(process)
        self.running.clear()

    @staticmethod
    def end_group(process: subprocess.Popen[bytes]) -> None:
        """Kill what is left of the process and of those that it started in turn."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def how_it_ended(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def listen(wanted: int) -> socket.socket:
    """Listen on loopback: on the wanted port, on one of the next if it is taken, or on any."""
    for port in (*range(wanted, min(wanted + 20, 65536)), 0):
        if port and answers(port):
            continue
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(128)
        except OSError:
            listener.close()
        else:
            return listener
    raise Failed("There is no free port on 127.0.0.1.")


def answers(port: int) -> bool:
    """Whether somebody listens there. A bind may succeed beside a listener on all addresses."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def is_up(url: str) -> bool:
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=5):
            return True
    except (URLError, OSError):
        return False


@contextlib.contextmanager
def env_file(folder: Path, values: dict[str, str]) -> Iterator[Path]:
    """
    Write the settings where ``manage.py`` in another terminal finds them: beside it.

    If a file is there that is not a left-over of ours (somebody's own, or that of another demo
    which is running), the settings go into the demo's folder.
    """
    mark = "# Written by demo.py, process "
    beside = HERE / ".env"
    with contextlib.suppress(OSError, ValueError):
        first = beside.read_text().partition("\n")[0]
        if first.startswith(mark) and not is_alive(int(first.removeprefix(mark))):
            beside.unlink()
    text = f"{mark}{os.getpid()}\n" + "".join(f"{name}={value}\n" for name, value in values.items())
    for path in (beside, folder / "env"):
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except OSError:
            continue
        with open(fd, "w") as file:
            file.write(text)
        break
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def find_server(what: str, package: str, *programs: str) -> str:
    """The first of these programs; Debian has those of PostgreSQL in no search path."""
    for name in programs:
        if path := shutil.which(name):
            return path
        if paths := sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}")):
            return paths[-1]
    raise Failed(
        f"There is no {what} server on this machine ({' or '.join(programs)}). Install it (on "
        f"Debian and Ubuntu: apt install {package}), or run `make demo`, which needs none."
    )


def start_redis(processes: Processes, folder: Path, env: dict[str, str]) -> dict[str, str]:
    """Start a server on a socket of its own; returns the settings that lead there."""
    socket_path = folder / "redis.sock"
    processes.start(
        *("Redis", "--port", "0", "--unixsocket", str(socket_path), "--save", "", "--daemonize"),
        "no",
        env=env,
        program=find_server("Redis", "redis-server", "redis-server", "valkey-server"),
        stdout=subprocess.DEVNULL,
    )
    processes.wait_until("Redis", socket_path.exists)
    return {"SHOP_CIRCUIT_BREAKERS_URL": f"unix://{socket_path}"}


def start_postgres(processes: Processes, folder: Path, env: dict[str, str]) -> dict[str, str]:
    """The same with PostgreSQL, where the shop's own tables are too."""
    initdb, postgres = (
        find_server("PostgreSQL", "postgresql", name) for name in ("initdb", "postgres")
    )
    home = folder / "pg"
    home.mkdir(mode=0o700)
    options: dict[str, Any] = {"env": env, "cwd": home, "stdout": subprocess.DEVNULL}
    if os.geteuid() == 0:  # as whom the server refuses to run
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            raise Failed(
                "PostgreSQL does not run as root, and there is no user postgres: run the demo as "
                "another user."
            ) from None
        folder.chmod(0o711)
        os.chown(home, owner.pw_uid, owner.pw_gid)
        options["user"] = owner.pw_name
    data = str(home / "data")
    processes.run(
        *("initdb", "--pgdata", data, "--username", "shop", "--auth=trust", "--no-sync"),
        **options,
        program=initdb,
    )
    processes.start(
        *("PostgreSQL", "-D", data, "-h", "", "-k", str(home), "-F"),
        *("-c", "log_min_messages=fatal"),
        **options,
        program=postgres,
    )

    told = home / "data" / "postmaster.pid"  # where pg_ctl sees it too; to ask would fill the log
    processes.wait_until("PostgreSQL", lambda: told.exists() and "ready" in told.read_text())
    return {
        "SHOP_DATABASE_URL": f"postgres://shop@/{home}/postgres",
        "SHOP_CIRCUIT_BREAKERS_URL": "database://default",
    }


SERVERS = {"redis": start_redis, "database": start_postgres}


def run(processes: Processes, wanted_port: int, folder: Path, backend: str) -> None:
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GUNICORN_CMD_ARGS", "SHOP_ENV_FILE")
    }
    env |= {"DJANGO_SETTINGS_MODULE": "config.settings", "PYTHONUNBUFFERED": "1"}
    values = {name: value for name, value in env.items() if name.startswith("SHOP_")}
    values |= {
        "SHOP_SECRET_KEY": secrets.token_urlsafe(40),
        "SHOP_DEBUG": "true",
        "SHOP_DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
        "SHOP_BREAKER_NAMESPACE": "shop",
        "SHOP_CIRCUIT_BREAKERS_URL": f"sqlite:///{quote(str(folder / 'breakers'))}",
    }
    if backend in SERVERS:
        print("Starting the server of the circuits ...", flush=True)
        values |= SERVERS[backend](processes, folder, env)

    upstream = processes.start(
        "The upstream", "upstream.py", "--port", "0", env=env, stdout=subprocess.PIPE
    )
    output = upstream.stdout
    assert output is not None
    processes.wait_until("The upstream", lambda: bool(select.select([output], [], [], 0)[0]))
    with output:
        upstream_url = output.readline().decode().removeprefix("upstream: ").strip()
    processes.check()
    values["SHOP_UPSTREAM_URL"] = upstream_url
    env |= values

    print("Preparing the database ...", flush=True)
    password = secrets.token_urlsafe(9)
    processes.run("migrate", "manage.py", "migrate", "--verbosity=0", env=env)
    processes.run(
        "createsuperuser",
        *("manage.py", "createsuperuser", "--noinput", "--verbosity=0"),
        *("--username=demo", "--email=demo@example.com"),
        env=env | {"DJANGO_SUPERUSER_PASSWORD": password},
    )

    print("Starting the workers ...", flush=True)
    with listen(wanted_port) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        more = ["--workers", "4"] if backend in SERVERS else []
        processes.start("gunicorn", "-m", "gunicorn", "--bind", f"fd://{fd}", *more, env=env, fd=fd)
    url = f"http://127.0.0.1:{port}"
    processes.wait_until("The shop", lambda: is_up(f"{url}/"))

    with env_file(folder, values) as path:
        prefix = "" if path.parent == HERE else f"SHOP_ENV_FILE={shlex.quote(str(path))} "
        command = (
            f"{prefix}{shlex.quote(sys.executable)} {shlex.quote(str(HERE / 'manage.py'))} breaker"
        )
        if port != wanted_port and wanted_port:
            print(f"Port {wanted_port} is not free; the shop is on {port}.")
        circuits = values["SHOP_CIRCUIT_BREAKERS_URL"]
        print(what_to_try(url, upstream_url, circuits, password, command), flush=True)
        processes.watch()


def what_to_try(url: str, upstream_url: str, circuits: str, password: str, command: str) -> str:
    return f"""
The shop runs.

  Shop      {url}/
  Admin     {url}/admin/   user demo, password {password}
  Upstream  {upstream_url}/mode
  Circuits  {circuits}

Break the upstream (or press its buttons in the shop), visit, and see the circuit open:

  curl -X POST {upstream_url}/mode/errors
  for i in 1 2 3 4 5 6 7 8; do
    curl -s -o /dev/null -w '%{{http_code}}\\n' {url}/checkout/; sleep 0.2
  done
  curl -i -H 'Accept: application/json' {url}/checkout/
  curl -X POST {upstream_url}/mode/healthy

The same with slow and hang in the place of errors, and with {url}/stock/ and {url}/search/.

Steer the running workers from another terminal:

  {command} status
  {command} trip payments --hold --reason 'maintenance'
  {command} reset payments

Ctrl-C ends all of it.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run the example on this machine, on loopback only."
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        help="of the shop; if it is taken, a free one is used (default: %(default)s)",
    )
    parser.add_argument(
        "--backend",
        choices=list(CLIENTS),
        default="sqlite",
        help="where the circuits are; a server is started for it (default: %(default)s)",
    )
    arguments = parser.parse_args()
    needed = (*NEEDED, *CLIENTS[arguments.backend])
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"Not installed: {', '.join(missing)}. `make demo` installs what the example needs.",
            file=sys.stderr,
        )
        return 1

    processes = Processes()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, processes.on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored under nohup
        signal.signal(signal.SIGHUP, processes.on_signal)
    folder = Path(tempfile.mkdtemp(prefix="tea-shop-")).resolve()
    try:
        run(processes, arguments.port, folder, arguments.backend)
    except Stopped:
        print("\nStopping ...", flush=True)
    except Failed as failure:
        print(f"\n{failure}\nStopping the rest.", file=sys.stderr, flush=True)
        return 1
    finally:
        processes.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print("All of it has ended.", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
