"""Lists the dead letters of the queue "shipping": python review.py [replay]

They stay where they are. With "replay", each of them gets a fresh start.
"""
import os
import sys

import pika

from events import RETRY_HEADER

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
QUEUE = "shipping.dlq"


def replay(channel, queue, properties, body):
    properties.headers = {RETRY_HEADER: 0}
    channel.basic_publish("", queue, body, properties, mandatory=True)


def main():
    replaying = sys.argv[1:] == ["replay"]
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.confirm_delivery()
    # Counted first: a letter that dies again meanwhile is for the next time.
    count = channel.queue_declare(QUEUE, passive=True).method.message_count
    for _ in range(count):
        method, properties, body = channel.basic_get(QUEUE)
        if method is None:
            break  # somebody else took it
        # The broker notes each death, the latest first.
        death = properties.headers["x-death"][0]
        retries = properties.headers.get(RETRY_HEADER, 0)
        text = body.decode(errors="replace")
        print(f"{death['reason']} after {retries} retries: {text}")
        if replaying:
            replay(channel, death["queue"], properties, body)
            channel.basic_ack(method.delivery_tag)
    # What is not acknowledged goes back to its place.
    connection.close()


if __name__ == "__main__":
    main()
