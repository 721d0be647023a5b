"""Prints every greeting that arrives in the queue "hello"."""
import os

import pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
QUEUE = "hello"


def on_greeting(channel, method, _properties, body):
    print(f"received: {body.decode()}")
    # Until now the broker kept it, in case this program dies over it.
    channel.basic_ack(method.delivery_tag)
    print("acknowledged")


def main():
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    # Sender and receiver both declare the queue, so either may start first.
    channel.queue_declare(QUEUE, durable=True)
    channel.basic_consume(QUEUE, on_greeting)
    print("waiting for greetings, Ctrl+C ends")
    try:
        channel.start_consuming()
    except KeyboardInterrupt:
        connection.close()


if __name__ == "__main__":
    main()
