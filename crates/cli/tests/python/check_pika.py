"""pika against the broker at AMQP_URL. Prints one "ok" line a check."""
import os
import socket
import time
from datetime import datetime, timezone
from decimal import Decimal

import pika
from pika.exceptions import AMQPConnectionError, UnroutableError

from cue import kill_broker, restart_broker

QUEUE = "check.pika"
HEADERS = {
    "bool": True,
    "int": -7,
    "long": 2**40,
    "decimal": Decimal("3.14"),
    "text": "h\u00e9llo",
    "bytes": b"\x00\xff",
    "time": datetime(2024, 2, 29, 12, 30, 1, tzinfo=timezone.utc),
    "table": {"deep": {"er": 1}},
    "array": [1, "two", None, [True]],
    "void": None,
}
PROPERTIES = {
    "content_type": "application/json",
    "content_encoding": "identity",
    "headers": HEADERS,
    "delivery_mode": 2,
    "priority": 3,
    "correlation_id": "c-1",
    "reply_to": "nobody",
    "expiration": "600000",
    "message_id": "m-1",
    "timestamp": 1700000000,
    "type": "greeting",
    "user_id": "guest",
    "app_id": "check",
    "cluster_id": "x",
}


def connect():
    url = pika.URLParameters(os.environ["AMQP_URL"])
    connection = pika.BlockingConnection(url)
    channel = connection.channel()
    channel.confirm_delivery()
    return connection, channel


def reconnect():
    """A new connection, once there is a broker to connect to."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return connect()
        except AMQPConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def await_loss(connection):
    """Returns when the client knows that its connection is gone."""
    deadline = time.monotonic() + 20
    while connection.is_open:
        assert time.monotonic() < deadline, "the connection is still there"
        try:
            connection.process_data_events(time_limit=1)
        except AMQPConnectionError:
            return


def publish(channel, body, **properties):
    properties = pika.BasicProperties(**{"delivery_mode": 2, **properties})
    channel.basic_publish("", QUEUE, body, properties, mandatory=True)


def take(channel, count):
    """The next `count` deliveries of a consumer, unacknowledged."""
    found = []
    for delivery in channel.consume(QUEUE, inactivity_timeout=10):
        assert delivery[0], f"only {len(found)} of {count} messages came"
        found.append(delivery)
        if len(found) == count:
            return found


def bodies(deliveries):
    return [body for _, _, body in deliveries]


def check_content(channel):
    sent = [b"", b"\x00\x01", b"x" * 300_000, "h\u00e9".encode()]
    for body in sent:
        publish(channel, body, **PROPERTIES)
    deliveries = take(channel, len(sent))
    assert bodies(deliveries) == sent
    for method, properties, _ in deliveries:
        found = {name: getattr(properties, name) for name in PROPERTIES}
        assert found == PROPERTIES, found
        assert (method.exchange, method.routing_key) == ("", QUEUE)
        assert not method.redelivered
    channel.basic_ack(deliveries[-1][0].delivery_tag, multiple=True)
    channel.cancel()


def check_order_and_requeue(channel):
    sent = [b"%d" % n for n in range(100)]
    for body in sent:
        publish(channel, body)
    channel.basic_qos(prefetch_count=10)
    first = take(channel, 10)
    assert bodies(first) == sent[:10]
    # Cancelled first, or the acknowledgement would bring the next ones.
    channel.cancel()
    tags = [method.delivery_tag for method, _, _ in first]
    channel.basic_ack(tags[0])
    channel.basic_reject(tags[1], requeue=False)
    channel.basic_nack(tags[-1], multiple=True, requeue=True)
    channel.basic_qos(prefetch_count=0)
    again = take(channel, 98)
    assert bodies(again) == sent[2:]
    flags = [method.redelivered for method, _, _ in again]
    assert flags == [True] * 8 + [False] * 90, flags
    channel.basic_ack(0, multiple=True)
    channel.cancel()


def check_mandatory(channel):
    try:
        channel.basic_publish("", "check.nowhere", b"lost?", mandatory=True)
    except UnroutableError as error:
        returned = error.messages[0]
        assert returned.body == b"lost?"
        assert returned.method.reply_code == 312
        assert returned.method.reply_text == "NO_ROUTE"
        assert returned.method.routing_key == "check.nowhere"
    else:
        raise AssertionError("an unroutable message did not come back")


def check_get(channel):
    assert channel.basic_get(QUEUE) == (None, None, None)
    publish(channel, b"one")
    publish(channel, b"two")
    method, _, body = channel.basic_get(QUEUE)
    assert (body, method.message_count) == (b"one", 1)
    channel.basic_ack(method.delivery_tag)
    method, _, body = channel.basic_get(QUEUE, auto_ack=True)
    assert (body, method.message_count) == (b"two", 0)


def check_rpc(channel):
    replies = []

    def serve(channel, method, properties, body):
        channel.basic_publish(
            "",
            properties.reply_to,
            b"re: " + body,
            pika.BasicProperties(correlation_id=properties.correlation_id),
        )
        channel.basic_ack(method.delivery_tag)
        channel.stop_consuming(method.consumer_tag)

    queue = channel.queue_declare("", exclusive=True).method.queue
    assert queue.startswith("amq.gen-"), queue
    publish(channel, b"hi", reply_to=queue, correlation_id="42")
    channel.basic_consume(QUEUE, serve)
    channel.start_consuming()
    method, properties, body = next(channel.consume(queue, auto_ack=True))
    replies.append((properties.correlation_id, body))
    channel.cancel()
    assert replies == [("42", b"re: hi")]
    channel.queue_delete(queue)


def check_lost_connection(connection, channel):
    sent = [b"%d" % n for n in range(5)]
    for body in sent:
        publish(channel, body)
    assert bodies(take(channel, 2)) == sent[:2]
    # No close, no goodbye: as when the machine is unplugged.
    connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)
    await_loss(connection)

    connection, channel = connect()
    # Nothing says how soon the broker notices.
    deadline = time.monotonic() + 20
    while channel.queue_declare(QUEUE, passive=True).method.message_count < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    deliveries = take(channel, 5)
    assert bodies(deliveries) == sent
    assert all(method.redelivered for method, _, _ in deliveries[:2])
    channel.basic_ack(deliveries[-1][0].delivery_tag, multiple=True)
    channel.cancel()
    return connection, channel


def check_restart(connection, channel):
    sent = [b"%d" % n for n in range(20)]
    for body in sent:
        publish(channel, body, **PROPERTIES)
    if not restart_broker():
        connection.close()
    await_loss(connection)

    connection, channel = reconnect()
    deliveries = take(channel, 20)
    assert bodies(deliveries) == sent
    assert all(p.headers == HEADERS for _, p, _ in deliveries)
    channel.basic_ack(deliveries[-1][0].delivery_tag, multiple=True)
    channel.cancel()
    return connection, channel


def check_kill(connection, channel):
    sent = [b"%d" % n for n in range(20)]
    for body in sent:
        publish(channel, body)
    channel.basic_qos(prefetch_count=5)
    assert bodies(take(channel, 5)) == sent[:5]
    if not kill_broker():
        connection.close()
    await_loss(connection)

    connection, channel = reconnect()
    publish(channel, b"and on")
    deliveries = take(channel, 21)
    assert bodies(deliveries) == [*sent, b"and on"]
    channel.basic_ack(deliveries[-1][0].delivery_tag, multiple=True)
    channel.cancel()
    return connection, channel


def main():
    connection, channel = connect()
    channel.queue_delete(QUEUE)
    channel.queue_declare(QUEUE, durable=True)
    for check in (
        check_content,
        check_order_and_requeue,
        check_mandatory,
        check_get,
        check_rpc,
    ):
        check(channel)
        print("ok", check.__name__)
    for check in (check_lost_connection, check_restart, check_kill):
        connection, channel = check(connection, channel)
        print("ok", check.__name__)
    assert channel.queue_delete(QUEUE).method.message_count == 0
    connection.close()


if __name__ == "__main__":
    main()
