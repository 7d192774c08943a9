from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from circuitbreaker_django.backends import host


@pytest.fixture(autouse=True)
def _forget():
    host.boot_identity.cache_clear()
    yield
    host.boot_identity.cache_clear()


@pytest.fixture
def linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")


def test_a_boot_is_known_by_its_id_and_the_time_namespace(linux, monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda self, **kwargs: "b00t\n")
    monkeypatch.setattr(os, "readlink", lambda path: "time:[4026531834]")
    assert host.boot_identity() == "b00t time:[4026531834]"


def test_a_boot_without_proc_is_unknown(linux, monkeypatch):
    def missing(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(os, "readlink", missing)
    assert host.boot_identity() == "unknown"


@pytest.mark.parametrize(("answer", "identity"), [("ABC-1\n", "ABC-1"), ("", "unknown")])
def test_a_boot_of_macos_is_known_by_its_session(monkeypatch, answer, identity):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kw: SimpleNamespace(stdout=answer))
    assert host.boot_identity() == identity


def test_a_boot_of_macos_without_sysctl_is_unknown(monkeypatch):
    def missing(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", missing)
    assert host.boot_identity() == "unknown"


def test_the_host_has_a_name():
    assert host.host_name()


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["/venv/bin/gunicorn", "shop.wsgi"], "gunicorn"),
        (["/site-packages/gunicorn/__main__.py"], "gunicorn"),
        (["/venv/bin/celery", "-A", "shop", "worker"], "celery"),
        (["manage.py", "runserver", "8000"], "runserver"),
        (["/site-packages/django/__main__.py", "shell"], "shell"),
        (["manage.py"], "manage.py"),
        (["/opt/job.py"], "job.py"),
        ([""], "python"),
        ([], "python"),
    ],
)
def test_a_process_is_known_by_what_it_runs(monkeypatch, arguments, kind):
    monkeypatch.setattr(sys, "argv", arguments)
    assert host.process_kind() == kind


def test_uwsgi_is_known_by_its_module(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["whatever"])
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace())
    assert host.process_kind() == "uwsgi"


def test_without_namespaces_pids_are_unique_on_a_host(monkeypatch):
    def fail(path):
        raise FileNotFoundError

    monkeypatch.setattr(os, "readlink", fail)
    host.pid_space.cache_clear()
    assert host.pid_space() == host.host_name()
    host.pid_space.cache_clear()


def test_what_cannot_be_asked_counts_as_running(monkeypatch):
    assert host.is_running(os.getpid())
    assert host.is_running(10**30)

    def refuse(pid, signal):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert host.is_running(1)


@pytest.mark.parametrize(
    ("worker", "mule", "spooler", "may"),
    [(0, 0, False, False), (1, 0, False, True), (0, 2, False, True), (0, 0, True, True)],
)
def test_who_uwsgi_forks_its_workers_from_may_not_run_threads(
    worker, mule, spooler, may, monkeypatch
):
    assert host.may_run_threads()
    uwsgi = SimpleNamespace(
        worker_id=lambda: worker, mule_id=lambda: mule, i_am_the_spooler=lambda: spooler
    )
    monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
    assert host.may_run_threads() is may


def test_a_uwsgi_that_knows_of_no_mules_and_no_spooler_has_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(worker_id=lambda: 0))
    assert not host.may_run_threads()


@pytest.mark.parametrize("stub", [None, SimpleNamespace(), MagicMock()])
def test_what_only_bears_the_name_of_uwsgi_forbids_no_threads(stub, monkeypatch):
    monkeypatch.setitem(sys.modules, "uwsgi", stub)
    assert host.may_run_threads()
