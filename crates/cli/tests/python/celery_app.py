"""A small Celery application with Celery's own settings."""
import os
import signal
import threading
import time

from celery import Celery
from celery.signals import worker_init

app = Celery("celery_app", broker=os.environ["AMQP_URL"], backend="rpc://")


@app.task
def add(left, right):
    return left + right


@app.task
def now():
    return time.time()


@app.task(bind=True)
def third_time_lucky(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.2)
    return self.request.retries


@app.task
def write(path, text):
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


@worker_init.connect
def end_with_the_script(**_):
    """Keeps workers from outliving a script that was killed."""

    def watch():
        # Nothing comes; it ends when the script does.
        os.read(0, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
