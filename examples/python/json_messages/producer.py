"""Sends one reading: python producer.py kitchen 21.5 [2026-01-31T12:00+01:00]

Without a time, it is of now.
"""
import sys
from datetime import datetime, timezone

import pika

from readings import CONTENT_TYPE, QUEUE, URL, declare_queues, encode


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(f"usage: {sys.argv[0]} <sensor> <degrees> [<time>]")
    taken_at = datetime.now(timezone.utc)
    if len(sys.argv) == 4:
        taken_at = datetime.fromisoformat(sys.argv[3])
    reading = {
        "sensor": sys.argv[1],
        "celsius": float(sys.argv[2]),
        "taken_at": taken_at,
    }
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.confirm_delivery()
    declare_queues(channel)
    body = encode(reading)
    channel.basic_publish(
        exchange="",
        routing_key=QUEUE,
        body=body,
        properties=pika.BasicProperties(
            content_type=CONTENT_TYPE,
            delivery_mode=pika.DeliveryMode.Persistent,
        ),
        mandatory=True,
    )
    print(f"sent: {body}")
    connection.close()


if __name__ == "__main__":
    main()
