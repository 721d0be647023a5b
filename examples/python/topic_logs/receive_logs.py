"""Prints the log lines that match a pattern: python receive_logs.py "*.error"

In a pattern * stands for exactly one word and # for any number of words.
"""
import os
import sys

import pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
EXCHANGE = "topic_logs"


def on_line(_channel, method, _properties, body):
    print(f"{method.routing_key}: {body.decode()}")


def main():
    patterns = sys.argv[1:]
    if not patterns:
        sys.exit(f"usage: {sys.argv[0]} <pattern> [<pattern> ...]")
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.exchange_declare(EXCHANGE, exchange_type="topic")
    # A queue of this listener's own: the broker invents its name and deletes
    # it when the connection ends.
    queue = channel.queue_declare("", exclusive=True).method.queue
    for pattern in patterns:
        channel.queue_bind(queue, EXCHANGE, routing_key=pattern)
    # Lines are for watching, none is worth an acknowledgement.
    channel.basic_consume(queue, on_line, auto_ack=True)
    print("waiting for log lines, Ctrl+C ends")
    try:
        channel.start_consuming()
    except KeyboardInterrupt:
        connection.close()


if __name__ == "__main__":
    main()
