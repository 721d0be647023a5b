"""Publishes an event for each line it reads: python shop.py [<seconds>]

A line is an order as JSON: {"id": 1001}. The events are good for that many
seconds, if given.
"""
import json
import os
import sys

from pika.exceptions import UnroutableError

from events import Event
from publisher import Publisher

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")


def main():
    ttl = float(sys.argv[1]) if len(sys.argv) > 1 else None
    publisher = Publisher(URL)
    try:
        for line in sys.stdin:
            event = Event("order.paid", json.loads(line))
            try:
                publisher.publish(event, ttl)
                print(f"published: {line.strip()}")
            except UnroutableError:
                print(f"nobody to take it: {line.strip()}")
    except KeyboardInterrupt:
        pass
    publisher.close()


if __name__ == "__main__":
    main()
