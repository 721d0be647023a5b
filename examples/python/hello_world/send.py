"""Sends one greeting to the queue "hello"."""
import os

import pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
QUEUE = "hello"


def main():
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    # With confirms on, basic_publish returns once the broker has the message.
    channel.confirm_delivery()
    channel.queue_declare(QUEUE, durable=True)
    channel.basic_publish(
        exchange="",  # the default exchange: the routing key names the queue
        routing_key=QUEUE,
        body="Hello World!",
        properties=pika.BasicProperties(
            delivery_mode=pika.DeliveryMode.Persistent
        ),
    )
    print("sent: Hello World!")
    connection.close()


if __name__ == "__main__":
    main()
