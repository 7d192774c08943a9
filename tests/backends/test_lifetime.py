from __future__ import annotations

import gc
import os
import weakref

import pytest

from circuitbreaker_django.backends import lifetime


class Told:
    def __init__(self, error=None):
        self.error = error
        self.news = []

    def _tell(self, news):
        self.news.append(news)
        if self.error:
            raise self.error

    def before_fork(self):
        self._tell("before")

    def after_fork_in_parent(self):
        self._tell("parent")

    def after_fork_in_child(self):
        self._tell("child")

    def close(self):
        self._tell("close")


@pytest.fixture
def told():
    mortal = Told()
    lifetime.watch(mortal)
    return mortal


def test_forks_are_told_to_parent_and_child(told):
    child = os.fork()
    if child == 0:
        os._exit(0 if told.news == ["before", "child"] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert told.news == ["before", "parent"]


def test_the_end_is_told(told):
    lifetime._at_end()
    assert told.news == ["close"]


def test_one_that_fails_keeps_it_from_no_other(told, caplog):
    failing = Told(RuntimeError("no"))
    lifetime.watch(failing)
    lifetime._at_end()
    assert failing.news == told.news == ["close"]
    assert "could not be let go of" in caplog.text


def test_nobody_is_kept_alive_by_it():
    mortal = Told()
    lifetime.watch(mortal)
    reference = weakref.ref(mortal)
    del mortal
    gc.collect()
    assert reference() is None
