"""kombu against the broker at AMQP_URL. Prints one "ok" line a check."""
import os
import socket
import time
from datetime import datetime, timezone
from decimal import Decimal

import kombu
from kombu.mixins import ConsumerMixin

from cue import kill_broker, restart_broker

NAME = "check.kombu"
NOW = datetime(2024, 2, 29, 12, 30, 1)
HEADERS = {
    "bool": True,
    "int": -7,
    "long": 2**40,
    "double": 0.1,
    "decimal": Decimal("3.14"),
    "text": "h\u00e9llo",
    "time": NOW,
    "table": {"deep": {"er": 1}},
    "array": [1, "two", None, [True]],
    "void": None,
}
PROPERTIES = {
    "correlation_id": "c-1",
    "reply_to": "nobody",
    "message_id": "m-1",
    "timestamp": int(NOW.replace(tzinfo=timezone.utc).timestamp()),
    "type": "greeting",
    "user_id": "guest",
    "app_id": "check",
    "cluster_id": "x",
    "delivery_mode": 2,
    "priority": 3,
}


# How long to go on trying while the broker is away: 20 seconds.
PATIENCE = {
    "max_retries": 200,
    "interval_start": 0.1,
    "interval_step": 0,
    "interval_max": 0.1,
}


class Peer:
    """A connection and one consumer, whose deliveries wait in a list."""

    def __init__(self, patient=False):
        self.connection = kombu.Connection(
            os.environ["AMQP_URL"],
            transport_options={"confirm_publish": True},
        )
        if patient:
            self.connection.ensure_connection(**PATIENCE)
        self.channel = self.connection.channel()
        self.queue = kombu.Queue(NAME, durable=True)(self.channel)
        self.returned = []
        self.producer = kombu.Producer(
            self.channel, on_return=lambda *what: self.returned.append(what)
        )
        self.deliveries = []

    def publish(self, body, routing_key=NAME, **options):
        # Returns after the confirm; persistent is kombu's default.
        self.producer.publish(
            body, routing_key=routing_key, mandatory=True, **options
        )

    def consumer(self, queue, **options):
        return kombu.Consumer(
            self.channel,
            [queue],
            on_message=self.deliveries.append,
            tag_prefix="check",
            **options,
        )

    def take(self, count):
        """The next `count` deliveries, unacknowledged."""
        while len(self.deliveries) < count:
            self.connection.drain_events(timeout=10)
        found, self.deliveries = self.deliveries, []
        assert len(found) == count, len(found)
        return found

    def torn(self):
        """Returns when the client knows that its connection is gone."""
        try:
            while self.connection.connected:
                self.connection.drain_events(timeout=20)
        except TimeoutError:
            raise
        except self.connection.connection_errors:
            self.connection.collect()


class Worker(ConsumerMixin):
    """Goes on by itself when the connection is lost, as kombu's users do."""

    def __init__(self, peer, enough):
        self.connection = peer.connection
        self.queue = peer.queue
        self.enough = enough
        self.lives = 0

    def get_consumers(self, Consumer, channel):
        self.lives += 1
        self.found = []
        queue = kombu.Queue(NAME, durable=True)
        prefetch = 5 if self.lives == 1 else None
        consumer = Consumer(
            [queue], on_message=self.take, prefetch_count=prefetch
        )
        return [consumer]

    def take(self, message):
        self.found.append(message)
        if self.lives == 1 and len(self.found) == 5:
            if not kill_broker():
                raise ConnectionResetError("as if it had been killed")
        elif len(self.found) == self.enough:
            message.ack(multiple=True)
            self.should_stop = True


def bodies(messages):
    return [message.body for message in messages]


def check_content(peer):
    # kombu says what a text is by its content type, bytes go as they are.
    sent = ["", b"\x00\x01", b"x" * 300_000, "h\u00e9"]
    for body in sent:
        # kombu takes seconds and sends milliseconds.
        peer.publish(body, expiration=600, headers=HEADERS, **PROPERTIES)
    with peer.consumer(peer.queue):
        messages = peer.take(len(sent))
    assert [message.decode() for message in messages] == sent
    for message in messages:
        found = {name: message.properties[name] for name in PROPERTIES}
        assert found == PROPERTIES, found
        assert message.properties["expiration"] == "600000"
        assert message.headers == HEADERS, message.headers
        info = message.delivery_info
        assert (info["exchange"], info["routing_key"]) == ("", NAME)
        assert not info["redelivered"]
    messages[-1].ack(multiple=True)


def check_order_and_requeue(peer):
    sent = [b"%d" % n for n in range(100)]
    for body in sent:
        peer.publish(body)
    consumer = peer.consumer(peer.queue)
    consumer.qos(prefetch_count=10)
    with consumer:
        first = peer.take(10)
    assert bodies(first) == sent[:10]
    first[0].ack()
    first[1].reject()
    for message in reversed(first[2:]):
        message.requeue()
    consumer.qos(prefetch_count=0)
    with peer.consumer(peer.queue):
        again = peer.take(98)
    assert bodies(again) == sent[2:]
    flags = [message.delivery_info["redelivered"] for message in again]
    assert flags == [True] * 8 + [False] * 90, flags
    again[-1].ack(multiple=True)


def check_mandatory(peer):
    peer.publish(b"lost?", routing_key="check.nowhere")
    # The return comes before the confirm that publish() waited for.
    ((error, exchange, key, message),) = peer.returned
    assert (error.reply_code, error.reply_text) == (312, "NO_ROUTE")
    assert (exchange, key) == ("", "check.nowhere")
    assert message.body == b"lost?"


def check_get(peer):
    assert peer.queue.get() is None
    peer.publish(b"one")
    peer.publish(b"two")
    message = peer.queue.get()
    assert message.body == b"one"
    assert message.delivery_info["message_count"] == 1
    message.ack()
    message = peer.queue.get(no_ack=True)
    assert message.body == b"two"
    assert message.delivery_info["message_count"] == 0


def check_rpc(peer):
    replies = kombu.Queue("", exclusive=True, durable=False)(peer.channel)
    replies.declare()
    assert replies.name.startswith("amq.gen-"), replies.name
    peer.publish({"n": 6}, reply_to=replies.name, correlation_id="42")
    with peer.consumer(peer.queue):
        (request,) = peer.take(1)
    peer.publish(
        {"n": request.payload["n"] * 7},
        routing_key=request.properties["reply_to"],
        correlation_id=request.properties["correlation_id"],
    )
    request.ack()
    # Nobody may declare a name that starts with amq., not even again.
    with peer.consumer(replies, no_ack=True, auto_declare=False):
        (reply,) = peer.take(1)
    assert reply.payload == {"n": 42}
    assert reply.properties["correlation_id"] == "42"
    replies.delete()


def check_lost_connection(peer):
    sent = [b"%d" % n for n in range(5)]
    for body in sent:
        peer.publish(body)
    consumer = peer.consumer(peer.queue)
    consumer.qos(prefetch_count=2)
    consumer.consume()
    assert bodies(peer.take(2)) == sent[:2]
    # No close, no goodbye: as when the machine is unplugged.
    peer.connection.connection.transport.sock.shutdown(socket.SHUT_RDWR)
    peer.torn()

    peer = Peer()
    # Nothing says how soon the broker notices.
    deadline = time.monotonic() + 20
    while peer.queue.queue_declare(passive=True).message_count < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with peer.consumer(peer.queue):
        again = peer.take(5)
    assert bodies(again) == sent
    flags = [message.delivery_info["redelivered"] for message in again]
    assert flags == [True, True, False, False, False], flags
    again[-1].ack(multiple=True)
    return peer


def check_restart(peer):
    sent = [b"%d" % n for n in range(20)]
    for body in sent:
        peer.publish(body, headers=HEADERS)
    if not restart_broker():
        peer.connection.close()
    peer.torn()

    peer = Peer(patient=True)
    with peer.consumer(peer.queue):
        messages = peer.take(20)
    assert bodies(messages) == sent
    assert all(message.headers == HEADERS for message in messages)
    messages[-1].ack(multiple=True)
    return peer


def check_kill(peer):
    sent = [b"%d" % n for n in range(20)]
    for body in sent:
        peer.publish(body)
    worker = Worker(peer, enough=20)
    worker.run()
    assert worker.lives > 1
    assert bodies(worker.found) == sent
    # Its own connection is as dead as the worker's was.
    peer.publish(b"and on", retry=True, retry_policy=PATIENCE)
    peer = Peer()
    with peer.consumer(peer.queue):
        (message,) = peer.take(1)
    assert message.body == b"and on"
    message.ack()
    return peer


def main():
    peer = Peer()
    peer.queue.delete()
    peer.queue.declare()
    for check in (
        check_content,
        check_order_and_requeue,
        check_mandatory,
        check_get,
        check_rpc,
    ):
        check(peer)
        print("ok", check.__name__)
    for check in (check_lost_connection, check_restart, check_kill):
        peer = check(peer)
        print("ok", check.__name__)
    assert peer.queue.delete() == 0
    peer.connection.release()


if __name__ == "__main__":
    main()
