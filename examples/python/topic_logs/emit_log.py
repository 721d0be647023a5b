"""Emits one log line: python emit_log.py kernel.error "Out of memory"

The routing key has the form <facility>.<severity>. A line that nobody listens
to is dropped.
"""
import os
import sys

import pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
EXCHANGE = "topic_logs"


def main():
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} <facility>.<severity> <text>")
    key, text = sys.argv[1], " ".join(sys.argv[2:])
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.exchange_declare(EXCHANGE, exchange_type="topic")
    channel.basic_publish(exchange=EXCHANGE, routing_key=key, body=text)
    print(f"emitted: {key}: {text}")
    connection.close()


if __name__ == "__main__":
    main()
