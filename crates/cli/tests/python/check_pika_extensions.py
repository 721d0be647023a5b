"""What RabbitMQ adds to AMQP, and the parts of AMQP that few use, by pika.

Against the broker at AMQP_URL. Prints one "ok" line a check.
"""
import time
from datetime import datetime

import pika
from pika.exceptions import NackError, UnroutableError

from check_pika import connect

NAME = "check.pika.ext"
REPLIES = "amq.rabbitmq.reply-to"


def fresh(channel, suffix="", **arguments):
    """An empty durable queue; `message_ttl` stands for "x-message-ttl"."""
    name = NAME + suffix
    channel.queue_delete(name)
    arguments = {
        "x-" + key.replace("_", "-"): value for key, value in arguments.items()
    }
    channel.queue_declare(name, durable=True, arguments=arguments)
    return name


def fresh_exchange(channel, kind, suffix="", arguments=None):
    name = NAME + suffix
    channel.exchange_delete(name)
    channel.exchange_declare(name, kind, durable=True, arguments=arguments)
    return name


def publish(channel, key, body, exchange="", mandatory=True, **properties):
    properties = pika.BasicProperties(**{"delivery_mode": 2, **properties})
    channel.basic_publish(exchange, key, body, properties, mandatory)


def get(channel, queue):
    """The queue's next message, acknowledged; waits for it."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method:
            return method, properties, body
        time.sleep(0.01)
    raise AssertionError(f"nothing comes to {queue}")


def drain(channel, queue):
    """The bodies of all that waits in the queue."""
    # Not as many as queue.declare-ok says: RabbitMQ answers that out of turn.
    found = iter(lambda: channel.basic_get(queue, auto_ack=True)[2], None)
    return list(found)


def death(queue, reason, exchange="", key=None, count=1, **more):
    """An entry of the x-death header, without its time."""
    return {
        "count": count,
        "reason": reason,
        "queue": queue,
        "exchange": exchange,
        "routing-keys": [key or queue],
        **more,
    }


def deaths(properties):
    """The x-death header without the times."""
    found = properties.headers["x-death"]
    for entry in found:
        assert isinstance(entry.pop("time"), datetime)
    return found


def check_direct_reply_to(connection, channel):
    replies = []

    def keep(_channel, _method, properties, body):
        replies.append((properties.correlation_id, body))

    queue = fresh(channel)
    tag = channel.basic_consume(REPLIES, keep, auto_ack=True)
    publish(channel, queue, b"hi", reply_to=REPLIES, correlation_id="42")
    server_connection, server = connect()
    _, request, body = get(server, queue)
    assert request.reply_to.startswith(REPLIES + "."), request.reply_to
    # Whoever serves can find out that nobody waits for the answer any more.
    server.queue_declare(request.reply_to, passive=True)
    publish(
        server,
        request.reply_to,
        b"re: " + body,
        correlation_id=request.correlation_id,
        mandatory=False,
    )
    deadline = time.monotonic() + 10
    while not replies and time.monotonic() < deadline:
        connection.process_data_events(time_limit=1)
    assert replies == [("42", b"re: hi")], replies
    server_connection.close()
    channel.basic_cancel(tag)
    channel.queue_delete(queue)


def check_dead_letter(connection, channel):
    exchange = fresh_exchange(channel, "direct", ".dlx")
    dead = fresh(channel, ".dead")
    channel.queue_bind(dead, exchange, "dead")
    queue = fresh(
        channel,
        dead_letter_exchange=exchange,
        dead_letter_routing_key="dead",
    )
    publish(channel, queue, b"bad", headers={"kept": 1}, message_id="m-1")
    method, _, _ = channel.basic_get(queue)
    channel.basic_reject(method.delivery_tag, requeue=False)
    method, properties, body = get(channel, dead)
    assert (body, properties.message_id) == (b"bad", "m-1")
    assert (method.exchange, method.routing_key) == (exchange, "dead")
    assert not method.redelivered
    headers = properties.headers
    assert deaths(properties) == [death(queue, "rejected")], headers
    assert headers["kept"] == 1
    assert headers["x-first-death-reason"] == "rejected"
    assert headers["x-first-death-queue"] == queue
    assert headers["x-first-death-exchange"] == ""
    # An acknowledged message is not dead, nor is one that is requeued.
    publish(channel, queue, b"good")
    method, _, _ = channel.basic_get(queue)
    channel.basic_nack(method.delivery_tag, requeue=True)
    assert drain(channel, queue) == [b"good"]
    assert drain(channel, dead) == []
    channel.queue_delete(queue)
    channel.queue_delete(dead)
    channel.exchange_delete(exchange)


def check_retry(connection, channel):
    # The usual way to try again later: two queues that are each other's
    # place for the dead.
    work, wait = NAME + ".work", NAME + ".wait"
    fresh(
        channel,
        ".work",
        dead_letter_exchange="",
        dead_letter_routing_key=wait,
    )
    fresh(
        channel,
        ".wait",
        message_ttl=50,
        dead_letter_exchange="",
        dead_letter_routing_key=work,
    )
    publish(channel, work, b"task")
    for attempt in range(3):
        deadline = time.monotonic() + 10
        method = None
        while method is None:
            assert time.monotonic() < deadline, f"attempt {attempt} is lost"
            method, properties, body = channel.basic_get(work)
        assert body == b"task"
        if attempt:
            # The newest comes first.
            assert deaths(properties) == [
                death(wait, "expired", count=attempt),
                death(work, "rejected", count=attempt),
            ], properties.headers
        channel.basic_nack(method.delivery_tag, requeue=attempt == 2)
    _, properties, _ = get(channel, work)
    assert properties.headers["x-first-death-queue"] == work
    assert drain(channel, work) + drain(channel, wait) == []
    channel.queue_delete(work)
    channel.queue_delete(wait)


def check_ttl(connection, channel):
    dead = fresh(channel, ".dead")
    queue = fresh(
        channel,
        message_ttl=600_000,
        dead_letter_exchange="",
        dead_letter_routing_key=dead,
    )
    # The shorter of the two counts.
    publish(channel, queue, b"brief", expiration="50")
    publish(channel, queue, b"kept", expiration="900000")
    _, properties, body = get(channel, dead)
    assert body == b"brief"
    # Or it would expire again.
    assert properties.expiration is None
    assert deaths(properties) == [
        death(queue, "expired", **{"original-expiration": "50"})
    ], properties.headers
    assert drain(channel, queue) == [b"kept"]
    channel.queue_delete(queue)
    # At once, since no consumer is ready.
    queue = fresh(channel, message_ttl=0)
    publish(channel, queue, b"nobody is there")
    assert channel.basic_get(queue)[0] is None
    channel.queue_delete(queue)
    channel.queue_delete(dead)


def check_queue_expiry(connection, channel):
    queue = fresh(channel, expires=1000)
    other = connection.channel()
    other.basic_consume(queue, lambda *_: None)
    # A consumer keeps it.
    connection.sleep(1.2)
    other.close()
    channel.basic_get(queue)
    deadline = time.monotonic() + 10
    # To declare it would keep it, even passively.
    try:
        while time.monotonic() < deadline:
            publish(channel, queue, b"does it exist?")
            connection.sleep(0.05)
    except UnroutableError:
        return
    raise AssertionError("the queue stays")


def check_max_length(connection, channel):
    dead = fresh(channel, ".dead")
    queue = fresh(
        channel,
        max_length=3,
        dead_letter_exchange="",
        dead_letter_routing_key=dead,
    )
    for body in (b"0", b"1", b"2", b"3", b"4"):
        publish(channel, queue, body)
    for body in (b"0", b"1"):
        _, properties, found = get(channel, dead)
        assert found == body
        assert deaths(properties) == [death(queue, "maxlen")]
    assert drain(channel, queue) == [b"2", b"3", b"4"]
    queue = fresh(channel, max_length_bytes=10)
    for body in (b"123456", b"1234", b"1"):
        publish(channel, queue, body)
    assert drain(channel, queue) == [b"1234", b"1"]
    queue = fresh(channel, max_length=1, overflow="reject-publish")
    publish(channel, queue, b"first")
    try:
        publish(channel, queue, b"second")
    except NackError:
        pass
    else:
        raise AssertionError("a full queue takes a message")
    assert drain(channel, queue) == [b"first"]
    publish(channel, queue, b"third")
    assert drain(channel, queue) == [b"third"]
    channel.queue_delete(queue)
    channel.queue_delete(dead)


def check_priority(connection, channel):
    queue = fresh(channel, max_priority=5)
    sent = {b"a": 1, b"b": 5, b"c": 3, b"d": None, b"e": 5, b"f": 9, b"g": 1}
    for body, priority in sent.items():
        publish(channel, queue, body, priority=priority)
    # None is 0, what is above the most is the most, equals keep their order.
    order = [b"b", b"e", b"f", b"c", b"a", b"g", b"d"]
    assert drain(channel, queue) == order
    channel.queue_delete(queue)


def check_exchange_binding(connection, channel):
    source = fresh_exchange(channel, "topic", ".source")
    target = fresh_exchange(channel, "fanout", ".target")
    queue = fresh(channel)
    channel.exchange_bind(target, source, "log.#")
    channel.queue_bind(queue, target)
    # A message comes once, however many ways lead to the queue.
    channel.queue_bind(queue, source, "*.error")
    publish(channel, "log.error", b"one", source)
    publish(channel, "other", b"none", source, mandatory=False)
    method, _, body = get(channel, queue)
    assert (body, method.exchange) == (b"one", source)
    channel.queue_unbind(queue, source, "*.error")
    channel.exchange_unbind(target, source, "log.#")
    publish(channel, "log.error", b"none", source, mandatory=False)
    assert channel.basic_get(queue)[0] is None
    channel.queue_delete(queue)
    channel.exchange_delete(target)
    channel.exchange_delete(source)


def check_headers_exchange(connection, channel):
    exchange = fresh_exchange(channel, "headers", ".headers")
    queue = fresh(channel)
    wanted = {"kind": "report", "pages": 3}
    for match, found in (
        ("all", [b"both"]),
        ("any", [b"both", b"kind", b"pages"]),
    ):
        binding = {"x-match": match, **wanted}
        channel.queue_bind(queue, exchange, "", binding)
        for body, headers in (
            (b"both", {**wanted, "more": True}),
            (b"kind", {"kind": "report", "pages": 4}),
            (b"pages", {"pages": 3}),
            (b"neither", {"kind": "log"}),
            (b"nothing", None),
        ):
            publish(channel, "", body, exchange, False, headers=headers)
        assert drain(channel, queue) == found, match
        channel.queue_unbind(queue, exchange, "", binding)
    for predefined in ("amq.headers", "amq.match"):
        channel.exchange_declare(predefined, "headers", passive=True)
    channel.queue_delete(queue)
    channel.exchange_delete(exchange)


def check_alternate_exchange(connection, channel):
    rest = fresh_exchange(channel, "fanout", ".rest")
    arguments = {"alternate-exchange": rest}
    exchange = fresh_exchange(channel, "direct", ".first", arguments)
    queue, other = fresh(channel), fresh(channel, ".other")
    channel.queue_bind(queue, exchange, "known")
    channel.queue_bind(other, rest)
    publish(channel, "known", b"one", exchange)
    # pika would raise an error, had this one come back.
    publish(channel, "unknown", b"two", exchange)
    assert drain(channel, queue) == [b"one"]
    method, _, body = get(channel, other)
    assert (body, method.exchange) == (b"two", exchange)
    for name in (queue, other):
        channel.queue_delete(name)
    for name in (exchange, rest):
        channel.exchange_delete(name)


def check_transaction(connection, channel):
    queue = fresh(channel)
    tx = connection.channel()
    tx.tx_select()
    tx.basic_publish("", queue, b"undone")
    tx.tx_rollback()
    tx.basic_publish("", queue, b"one")
    tx.basic_publish("", queue, b"two")
    assert channel.basic_get(queue)[0] is None
    tx.tx_commit()
    method, _, body = tx.basic_get(queue)
    assert body == b"one"
    tx.basic_ack(method.delivery_tag)
    tx.tx_rollback()
    # It is to be acknowledged as if nothing had happened.
    tx.basic_ack(method.delivery_tag)
    tx.tx_commit()
    method, _, body = tx.basic_get(queue)
    assert body == b"two"
    tx.basic_ack(method.delivery_tag)
    # Without a commit it comes back.
    tx.close()
    method, _, body = get(channel, queue)
    assert (method.redelivered, body) == (True, b"two")
    assert channel.queue_delete(queue).method.message_count == 0


def check_cancel_notify(connection, channel):
    cancelled = []
    queue = fresh(channel)
    consumer = connection.channel()
    consumer.add_on_cancel_callback(cancelled.append)
    tag = consumer.basic_consume(queue, lambda *_: None)
    channel.queue_delete(queue)
    deadline = time.monotonic() + 10
    while not cancelled and time.monotonic() < deadline:
        connection.process_data_events(time_limit=1)
    assert [frame.method.consumer_tag for frame in cancelled] == [tag]
    # Only the consumer is gone.
    consumer.queue_declare("", exclusive=True)
    consumer.close()


def main():
    connection, channel = connect()
    for check in (
        check_direct_reply_to,
        check_dead_letter,
        check_retry,
        check_ttl,
        check_queue_expiry,
        check_max_length,
        check_priority,
        check_exchange_binding,
        check_headers_exchange,
        check_alternate_exchange,
        check_transaction,
        check_cancel_notify,
    ):
        check(connection, channel)
        print("ok", check.__name__)
    connection.close()


if __name__ == "__main__":
    main()
