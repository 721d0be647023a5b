"""Works off tasks, one at a time; start as many workers as you like.

A worker that dies loses nothing: its task goes to another worker.
"""
import os
import time

import pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
QUEUE = "task_queue"


def on_task(channel, method, _properties, body):
    task = body.decode()
    again = " (again)" if method.redelivered else ""
    print(f"started: {task}{again}")
    time.sleep(task.count("."))
    # Not before the work is done: until then the broker keeps the task for
    # the case that this process dies.
    channel.basic_ack(method.delivery_tag)
    print(f"finished: {task}")


def main():
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.queue_declare(QUEUE, durable=True)
    # At most one unfinished task here; the others stay free for idle workers.
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(QUEUE, on_task)
    print("waiting for tasks, Ctrl+C ends")
    try:
        channel.start_consuming()
    except KeyboardInterrupt:
        connection.close()


if __name__ == "__main__":
    main()
