"""What RabbitMQ adds to AMQP, and the parts of AMQP that few use, by kombu.

Against the broker at AMQP_URL. Prints one "ok" line a check.
"""
import os
import time
from datetime import datetime

import kombu
from amqp.exceptions import ConsumerCancelled, MessageNacked

from check_kombu import Peer

NAME = "check.kombu.ext"
REPLIES = "amq.rabbitmq.reply-to"


def fresh(peer, suffix="", **options):
    """An empty durable queue; kombu makes arguments of its options."""
    queue = kombu.Queue(NAME + suffix, durable=True, **options)(peer.channel)
    queue.delete()
    queue.declare()
    return queue


def fresh_exchange(peer, kind, suffix="", **options):
    exchange = kombu.Exchange(NAME + suffix, kind, durable=True, **options)
    exchange = exchange(peer.channel)
    exchange.delete()
    exchange.declare()
    return exchange


def dead_letters_to(queue):
    return {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue.name,
    }


def get(queue, no_ack=True):
    """The queue's next message; waits for it."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        message = queue.get(no_ack=no_ack)
        if message:
            return message
        time.sleep(0.01)
    raise AssertionError(f"nothing comes to {queue.name}")


def drain(queue):
    """The bodies of all that waits in the queue."""
    found = iter(lambda: queue.get(no_ack=True), None)
    return [message.body for message in found]


def death(queue, reason, count=1, **more):
    """An entry of the x-death header, without its time."""
    return {
        "count": count,
        "reason": reason,
        "queue": queue.name,
        "exchange": "",
        "routing-keys": [queue.name],
        **more,
    }


def deaths(message):
    """The x-death header without the times."""
    found = message.headers["x-death"]
    for entry in found:
        assert isinstance(entry.pop("time"), datetime)
    return found


def check_direct_reply_to(peer):
    queue = fresh(peer)
    replies = kombu.Queue(REPLIES, no_declare=True, no_ack=True)
    # The reply comes on the channel that sent the request.
    with peer.consumer(replies, no_ack=True):
        peer.publish(
            {"n": 6}, queue.name, reply_to=REPLIES, correlation_id="42"
        )
        server = Peer()
        request = get(queue(server.channel))
        address = request.properties["reply_to"]
        assert address.startswith(REPLIES + "."), address
        server.producer.publish(
            {"n": request.payload["n"] * 7},
            routing_key=address,
            correlation_id=request.properties["correlation_id"],
        )
        (reply,) = peer.take(1)
        server.connection.release()
    assert reply.payload == {"n": 42}
    assert reply.properties["correlation_id"] == "42"
    queue.delete()


def check_dead_letter(peer):
    exchange = fresh_exchange(peer, "direct", ".dlx")
    dead = fresh(peer, ".dead", exchange=exchange, routing_key="dead")
    arguments = {
        "x-dead-letter-exchange": exchange.name,
        "x-dead-letter-routing-key": "dead",
    }
    queue = fresh(peer, queue_arguments=arguments)
    peer.publish(b"bad", queue.name, headers={"kept": 1})
    get(queue, no_ack=False).reject()
    message = get(dead)
    assert message.body == b"bad"
    info = message.delivery_info
    assert (info["exchange"], info["routing_key"]) == (exchange.name, "dead")
    headers = message.headers
    assert deaths(message) == [death(queue, "rejected")], headers
    assert headers["kept"] == 1
    assert headers["x-first-death-reason"] == "rejected"
    assert headers["x-first-death-queue"] == queue.name
    assert headers["x-first-death-exchange"] == ""
    for thing in (queue, dead, exchange):
        thing.delete()


def check_retry(peer):
    # The usual way to try again later: two queues that are each other's
    # place for the dead.
    work = kombu.Queue(NAME + ".work")
    wait = fresh(
        peer,
        ".wait",
        message_ttl=0.05,
        queue_arguments=dead_letters_to(work),
    )
    work = fresh(peer, ".work", queue_arguments=dead_letters_to(wait))
    peer.publish(b"task", work.name)
    for count in (0, 1, 2):
        with peer.consumer(work):
            (message,) = peer.take(1)
        if count:
            # The newest comes first.
            found = deaths(message)
            assert found == [
                death(wait, "expired", count),
                death(work, "rejected", count),
            ], found
        if count < 2:
            message.reject()
    message.ack()
    for queue in (work, wait):
        assert queue.delete() == 0


def check_ttl(peer):
    dead = fresh(peer, ".dead")
    queue = fresh(
        peer, message_ttl=600, queue_arguments=dead_letters_to(dead)
    )
    # The shorter of the two counts.
    peer.publish(b"brief", queue.name, expiration=0.05)
    peer.publish(b"kept", queue.name, expiration=900)
    message = get(dead)
    assert message.body == b"brief"
    # Or it would expire again.
    assert "expiration" not in message.properties
    more = {"original-expiration": "50"}
    assert deaths(message) == [death(queue, "expired", **more)]
    assert drain(queue) == [b"kept"]
    queue.delete()
    dead.delete()


def check_queue_expiry(peer):
    queue = fresh(peer, expires=0.2)
    deadline = time.monotonic() + 10
    # To declare it would keep it, even passively.
    while not peer.returned:
        assert time.monotonic() < deadline, "the queue stays"
        peer.publish(b"does it exist?", queue.name)
        time.sleep(0.05)
    ((error, *_),) = peer.returned
    assert error.reply_code == 312
    peer.returned.clear()


def check_max_length(peer):
    dead = fresh(peer, ".dead")
    queue = fresh(peer, max_length=3, queue_arguments=dead_letters_to(dead))
    for body in (b"0", b"1", b"2", b"3", b"4"):
        peer.publish(body, queue.name)
    for body in (b"0", b"1"):
        message = get(dead)
        assert message.body == body
        assert deaths(message) == [death(queue, "maxlen")]
    assert drain(queue) == [b"2", b"3", b"4"]
    arguments = {"x-overflow": "reject-publish"}
    queue = fresh(peer, max_length=1, queue_arguments=arguments)
    peer.publish(b"first", queue.name)
    try:
        peer.publish(b"second", queue.name)
    except MessageNacked:
        pass
    else:
        raise AssertionError("a full queue takes a message")
    assert drain(queue) == [b"first"]
    queue.delete()
    dead.delete()


def check_priority(peer):
    queue = fresh(peer, max_priority=5)
    sent = {b"a": 1, b"b": 5, b"c": 3, b"d": None, b"e": 5, b"f": 9, b"g": 1}
    for body, priority in sent.items():
        peer.publish(body, queue.name, priority=priority)
    # None is 0, what is above the most is the most, equals keep their order.
    assert drain(queue) == [b"b", b"e", b"f", b"c", b"a", b"g", b"d"]
    queue.delete()


def check_exchange_binding(peer):
    source = fresh_exchange(peer, "topic", ".source")
    target = fresh_exchange(peer, "fanout", ".target")
    queue = fresh(peer, exchange=target)
    target.bind_to(source, "log.#")
    peer.publish(b"one", "log.error", exchange=source)
    peer.producer.publish(b"none", routing_key="other", exchange=source)
    message = get(queue)
    assert message.body == b"one"
    assert message.delivery_info["exchange"] == source.name
    target.unbind_from(source, "log.#")
    peer.producer.publish(b"none", routing_key="log.error", exchange=source)
    assert drain(queue) == []
    for thing in (queue, target, source):
        thing.delete()


def check_headers_exchange(peer):
    exchange = fresh_exchange(peer, "headers", ".headers")
    queue = fresh(peer)
    wanted = {"kind": "report", "pages": 3}
    for match, found in (
        ("all", [b"both"]),
        ("any", [b"both", b"kind", b"pages"]),
    ):
        binding = {"x-match": match, **wanted}
        queue.bind_to(exchange, arguments=binding)
        for body, headers in (
            (b"both", {**wanted, "more": True}),
            (b"kind", {"kind": "report", "pages": 4}),
            (b"pages", {"pages": 3}),
            (b"neither", {"kind": "log"}),
            (b"nothing", None),
        ):
            peer.producer.publish(body, exchange=exchange, headers=headers)
        assert drain(queue) == found, match
        queue.unbind_from(exchange, arguments=binding)
    queue.delete()
    exchange.delete()


def check_alternate_exchange(peer):
    rest = fresh_exchange(peer, "fanout", ".rest")
    arguments = {"alternate-exchange": rest.name}
    exchange = fresh_exchange(peer, "direct", ".first", arguments=arguments)
    queue = fresh(peer, exchange=exchange, routing_key="known")
    other = fresh(peer, ".other", exchange=rest)
    peer.publish(b"one", "known", exchange=exchange)
    peer.publish(b"two", "unknown", exchange=exchange)
    assert drain(queue) == [b"one"]
    message = get(other)
    assert message.body == b"two"
    assert message.delivery_info["exchange"] == exchange.name
    assert not peer.returned
    for thing in (queue, other, exchange, rest):
        thing.delete()


def check_transaction(peer):
    # No confirms here, the two exclude each other.
    connection = kombu.Connection(os.environ["AMQP_URL"])
    tx = connection.channel()
    producer = kombu.Producer(tx)
    queue = fresh(peer)
    tx.tx_select()
    producer.publish(b"undone", routing_key=queue.name)
    tx.tx_rollback()
    producer.publish(b"one", routing_key=queue.name)
    producer.publish(b"two", routing_key=queue.name)
    assert queue.get() is None
    tx.tx_commit()
    message = get(queue(tx), no_ack=False)
    assert message.body == b"one"
    tx.basic_ack(message.delivery_tag)
    tx.tx_rollback()
    # It is to be acknowledged as if nothing had happened.
    tx.basic_ack(message.delivery_tag)
    tx.tx_commit()
    message = get(queue(tx), no_ack=False)
    assert message.body == b"two"
    tx.basic_ack(message.delivery_tag)
    # Without a commit it comes back.
    connection.release()
    message = get(queue)
    assert message.body == b"two"
    assert message.delivery_info["redelivered"]
    assert queue.delete() == 0


def check_cancel_notify(peer):
    queue = fresh(peer)
    other = Peer()
    consumer = other.consumer(queue(other.channel))
    consumer.consume()
    queue.delete()
    try:
        other.connection.drain_events(timeout=10)
    except ConsumerCancelled:
        pass
    else:
        raise AssertionError("the consumer is not cancelled")
    # Only the consumer is gone.
    kombu.Queue("", exclusive=True, durable=False)(other.channel).declare()
    other.connection.release()


def main():
    peer = Peer()
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
        check(peer)
        print("ok", check.__name__)
    peer.connection.release()


if __name__ == "__main__":
    main()
