"""Puts one task into the work queue: python new_task.py Paint the door..

A task is a line of text; each dot in it costs a worker one second.
"""
import os
import sys

import pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
QUEUE = "task_queue"


def main():
    task = " ".join(sys.argv[1:]) or "A short task."
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.confirm_delivery()
    # A durable queue of persistent messages outlives a restart of the broker.
    channel.queue_declare(QUEUE, durable=True)
    channel.basic_publish(
        exchange="",
        routing_key=QUEUE,
        body=task,
        properties=pika.BasicProperties(
            delivery_mode=pika.DeliveryMode.Persistent
        ),
    )
    print(f"queued: {task}")
    connection.close()


if __name__ == "__main__":
    main()
