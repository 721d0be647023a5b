"""Publishing events without losing any."""
import time

import pika
from pika.exceptions import AMQPConnectionError

from events import EXCHANGE, declare_exchanges

CONNECT_TRIES = 5
CONNECT_DELAY = 1  # seconds


class Publisher:
    def __init__(self, url):
        self.parameters = pika.URLParameters(url)
        self.connection = None
        self.channel = None

    def publish(self, event, ttl=None):
        """Returns once the broker has the event in a queue, and on disk.

        Raises UnroutableError if no queue wants it. If the connection breaks
        before the confirm, it may arrive twice, with the same id.
        """
        for tries_left in reversed(range(CONNECT_TRIES)):
            try:
                if self.channel is None or self.channel.is_closed:
                    self._connect()
                self.channel.basic_publish(
                    exchange=EXCHANGE,
                    routing_key=event.type,
                    body=event.to_body(),
                    properties=event.to_properties(ttl),
                    mandatory=True,
                )
                return
            except AMQPConnectionError:
                if tries_left == 0:
                    raise
                time.sleep(CONNECT_DELAY)

    def close(self):
        try:
            if self.connection is not None and self.connection.is_open:
                self.connection.close()
        except AMQPConnectionError:
            pass  # lost already, but all that was published is confirmed

    def _connect(self):
        self.close()
        self.connection = pika.BlockingConnection(self.parameters)
        channel = self.connection.channel()
        channel.confirm_delivery()
        declare_exchanges(channel)
        self.channel = channel
