"""Celery with two workers against the broker at AMQP_URL.

Prints one "ok" line a check.
"""
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

from celery import group
from celery.exceptions import TaskRevokedError
from kombu import Connection
from kombu.exceptions import OperationalError

from celery_app import add, app, now, third_time_lucky, write
from cue import kill_broker

NODES = ["one@check", "two@check"]
HERE = Path(__file__).parent
# For what takes less than one second unless the machine is busy.
LIMIT = 20


def celery(*arguments, **options):
    """Celery's command line, at work on the application."""
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "celery", "-A", "celery_app", *arguments]
    return subprocess.Popen(command, env=environment, **options)


class Worker:
    """A worker process; all that it says goes to a file."""

    def __init__(self, node, home):
        self.node = node
        self.home = home
        self.log = home / f"{node}.log"
        self.process = None

    def start(self):
        with open(self.log, "wb") as log:
            self.process = celery(
                "worker",
                "--hostname",
                self.node,
                "--loglevel",
                "debug",
                "--concurrency",
                "1",
                cwd=self.home,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait_for(f"{self.node} ready.")

    def said(self, text):
        return text in self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text):
        def said():
            ended = self.process.poll()
            assert ended is None, f"{self.node} ended with {ended}"
            return self.said(text)

        wait_until(f"{self.node} to say {text!r}", said)

    def end(self):
        """In peace: it finishes what it has begun."""
        self.process.terminate()
        assert self.process.wait(LIMIT) == 0, self.process.returncode

    def kill(self):
        if self.process and self.process.poll() is None:
            # With the processes that it has started.
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def wait_until(what, true):
    deadline = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def pong():
    """Whether both workers answer."""
    try:
        answers = app.control.ping(NODES, timeout=2)
    except (OperationalError, *app.connection().connection_errors):
        return False
    found = {node: said for answer in answers for node, said in answer.items()}
    return found == {node: {"ok": "pong"} for node in NODES}


def check_task(_workers, _home):
    assert add.delay(2, 3).get(timeout=LIMIT) == 5
    sums = group(add.s(n, n) for n in range(20))()
    assert sums.get(timeout=LIMIT) == list(range(0, 40, 2))


def check_retry(_workers, _home):
    assert third_time_lucky.delay().get(timeout=LIMIT) == 2


def check_eta(_workers, _home):
    due = datetime.now(timezone.utc) + timedelta(seconds=1)
    by_clock = now.apply_async(eta=due)
    by_delay = now.apply_async(countdown=0.5)
    sent = due.timestamp() - 1
    assert 0.5 <= by_delay.get(timeout=LIMIT) - sent < LIMIT
    assert 1 <= by_clock.get(timeout=LIMIT) - sent < LIMIT


def check_expires(_workers, _home):
    assert add.apply_async((4, 5), expires=600).get(timeout=LIMIT) == 9
    late = add.apply_async((4, 5), countdown=0.5, expires=0.2)
    try:
        late.get(timeout=LIMIT)
    except TaskRevokedError:
        return
    raise AssertionError("a task was run after it had expired")


def check_mingle_and_gossip(workers, _home):
    one, two = workers
    # The second found the first as it started, the first noticed it.
    if not two.said("mingle: sync with 1 nodes"):
        # On a busy machine the one second that Celery waits may be too short.
        two.end()
        two.start()
    two.wait_for("mingle: sync with 1 nodes")
    two.wait_for("mingle: sync complete")
    one.wait_for(f"{two.node} joined the party")


def check_inspect(_workers, home):
    command = celery(
        "inspect",
        "ping",
        "--timeout",
        str(LIMIT),
        # Or it would wait so long for more answers.
        "--destination",
        ",".join(NODES),
        cwd=home,
        stdout=subprocess.PIPE,
        text=True,
    )
    said, _ = command.communicate(timeout=2 * LIMIT)
    assert command.returncode == 0, said
    assert all(f"{node}: OK" in said for node in NODES), said
    assert said.count("pong") == 2, said
    tasks = app.control.inspect(NODES, timeout=LIMIT).registered()
    assert all("celery_app.add" in tasks[node] for node in NODES), tasks


def check_revoke(_workers, _home):
    result = add.apply_async((1, 2), countdown=1)
    result.revoke()
    try:
        result.get(timeout=LIMIT)
    except TaskRevokedError:
        return
    raise AssertionError("a revoked task was run")


def check_kill(workers, home):
    # A worker holds this one, unacknowledged, when the broker is killed. By
    # itself Celery does without confirms.
    diary = home / "diary"
    options = {"confirm_publish": True}
    url = os.environ["AMQP_URL"]
    with Connection(url, transport_options=options) as connection:
        write.apply_async(
            (str(diary), "dear diary"), countdown=2, connection=connection
        )
    one, two = workers
    text = "Task celery_app.write["
    wait_until("a worker to take it", lambda: one.said(text) or two.said(text))
    if kill_broker():
        for worker in workers:
            worker.wait_for("Connection to broker lost")
    wait_until("both workers to answer", pong)
    wait_until("the task", diary.exists)
    assert add.delay(6, 7).get(timeout=LIMIT) == 13


def main():
    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        # What an earlier run has left.
        app.control.purge()
        workers = [Worker(node, home) for node in NODES]
        try:
            for worker in workers:
                worker.start()
            for check in (
                check_task,
                check_retry,
                check_eta,
                check_expires,
                check_mingle_and_gossip,
                check_inspect,
                check_revoke,
                check_kill,
            ):
                check(workers, home)
                print("ok", check.__name__)
            with ThreadPoolExecutor() as pool:
                list(pool.map(Worker.end, workers))
        except BaseException:
            for worker in (worker for worker in workers if worker.process):
                print(f"--- {worker.node} said:", file=sys.stderr)
                print(worker.log.read_text()[-20_000:], file=sys.stderr)
            raise
        finally:
            for worker in workers:
                worker.kill()


if __name__ == "__main__":
    main()
