"""Handling events without losing any.

A consumer of a queue "shipping" has two more queues:

- "shipping.retry" keeps what the handler failed at, for RETRY_DELAY, and
  gives it back to "shipping";
- "shipping.dlq" gets, through the dead letter exchange, what is unreadable,
  has failed too often or is too old.
"""
import time

import pika
from pika.exceptions import AMQPConnectionError

from events import (
    DEAD_LETTER_EXCHANGE,
    EXCHANGE,
    RETRY_HEADER,
    Event,
    declare_exchanges,
    milliseconds,
)

RETRY_LIMIT = 3
RETRY_DELAY = 1  # seconds
MAX_AGE = 24 * 60 * 60  # seconds
CONNECT_DELAY = 1  # seconds


class Consumer:
    def __init__(self, url, queue, pattern, handler):
        """Calls handler(event) for the events whose type fits the pattern.

        A handler that raises gets the event again after RETRY_DELAY, but
        RETRY_LIMIT times at the most.
        """
        self.parameters = pika.URLParameters(url)
        self.queue = queue
        self.retry_queue = f"{queue}.retry"
        self.dead_letter_queue = f"{queue}.dlq"
        self.pattern = pattern
        self.handler = handler

    def run(self):
        """Goes on until Ctrl+C, over as many connections as it takes."""
        try:
            while True:
                try:
                    self._consume()
                except AMQPConnectionError as error:
                    print(f"no connection, trying again: {error!r}")
                    time.sleep(CONNECT_DELAY)
        except KeyboardInterrupt:
            pass  # what is not acknowledged goes back to the queue

    def _consume(self):
        with pika.BlockingConnection(self.parameters) as connection:
            channel = connection.channel()
            # For the retries: acknowledged here only when safe over there.
            channel.confirm_delivery()
            self._declare(channel)
            channel.basic_qos(prefetch_count=10)
            channel.basic_consume(self.queue, self._on_message)
            print(f"{self.queue} waiting for events, Ctrl+C ends")
            channel.start_consuming()

    def _declare(self, channel):
        declare_exchanges(channel)
        # Without this queue and its binding, dead letters would vanish.
        channel.queue_declare(self.dead_letter_queue, durable=True)
        channel.queue_bind(
            self.dead_letter_queue, DEAD_LETTER_EXCHANGE, self.queue
        )
        channel.queue_declare(self.queue, durable=True, arguments={
            "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE,
            "x-dead-letter-routing-key": self.queue,
            "x-message-ttl": milliseconds(MAX_AGE),
        })
        channel.queue_bind(self.queue, EXCHANGE, self.pattern)
        # Nobody consumes this one: its messages grow too old and go back.
        channel.queue_declare(self.retry_queue, durable=True, arguments={
            "x-dead-letter-exchange": "",  # the routing key names a queue
            "x-dead-letter-routing-key": self.queue,
            "x-message-ttl": milliseconds(RETRY_DELAY),
        })

    def _on_message(self, channel, method, properties, body):
        try:
            event = Event.read(properties, body)
        except Exception as error:
            # The next try would fail the same way, and so on for ever.
            channel.basic_reject(method.delivery_tag, requeue=False)
            print(f"unreadable: {error!r}")
            return
        try:
            self.handler(event)
        except Exception as error:
            if event.retries < RETRY_LIMIT:
                self._retry(channel, event, properties, body)
                channel.basic_ack(method.delivery_tag)
                retry = f"{event.retries + 1} of {RETRY_LIMIT}"
                print(f"{error}: retry {retry} in {RETRY_DELAY} s")
            else:
                channel.basic_reject(method.delivery_tag, requeue=False)
                print(f"{error}: given up")
        else:
            channel.basic_ack(method.delivery_tag)

    def _retry(self, channel, event, properties, body):
        properties.headers = {RETRY_HEADER: event.retries + 1}
        channel.basic_publish(
            exchange="",
            routing_key=self.retry_queue,
            body=body,
            properties=properties,
            mandatory=True,
        )
