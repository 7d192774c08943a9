"""Each worker of Celery can be asked by a task.

The broker is a Redis server of the tests, also where circuits are elsewhere. With one that is a
folder all workers wait under one lock, and whoever is killed while he has it takes it with him.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from pathlib import Path

import django
from celery import Celery

from tests.backends.waiting import until
from tests.deployments.services import Answer, answer, use_early

#: Asked by this name.
TASK = "ask"


def make_app(broker: str) -> Celery:
    """The app of workers, and of those who ask them."""
    app = Celery("shop", broker=broker)
    app.conf.update(
        task_ignore_result=True, worker_prefetch_multiplier=1, worker_enable_remote_control=False
    )
    return app


def ask(app: Celery, folder: Path, *question: object) -> Answer:
    """What a worker says; it writes it to a file."""
    place = folder / secrets.token_hex(8)
    app.send_task(TASK, (*question, str(place)))
    until(place.exists, seconds=30)
    told: Answer = json.loads(place.read_text())
    return told


if broker := os.environ.get("TEST_BROKER"):
    django.setup()
    app = make_app(broker)

    @app.task(name=TASK)
    def tell(verb: str, name: str, pid: int, place: str) -> None:
        if pid not in (0, os.getpid()):  # hand it on, and be busy until somebody has it
            app.send_task(TASK, (verb, name, pid, place))
            time.sleep(0.05)
            return
        half = Path(f"{place}.half")
        half.write_text(json.dumps(answer(verb, name, pid)))
        half.rename(place)

    use_early()
