"""What RabbitMQ adds to AMQP, and the parts of AMQP that few use, by aiormq.

Against the broker at AMQP_URL. Prints one "ok" line a check.
"""
import asyncio
from datetime import datetime

import aiormq

from check_aiormq import Peer

NAME = "check.aiormq.ext"
REPLIES = "amq.rabbitmq.reply-to"


async def fresh(channel, suffix="", **arguments):
    """An empty durable queue; `message_ttl` stands for "x-message-ttl"."""
    name = NAME + suffix
    await channel.queue_delete(name)
    arguments = {
        "x-" + key.replace("_", "-"): value for key, value in arguments.items()
    }
    await channel.queue_declare(name, durable=True, arguments=arguments)
    return name


async def fresh_exchange(channel, kind, suffix="", arguments=None):
    name = NAME + suffix
    await channel.exchange_delete(name)
    await channel.exchange_declare(
        name, exchange_type=kind, durable=True, arguments=arguments
    )
    return name


async def publish(
    channel, key, body, exchange="", mandatory=True, **properties
):
    # Refused, unroutable: aiormq raises an error.
    await channel.basic_publish(
        body,
        exchange=exchange,
        routing_key=key,
        properties=aiormq.spec.Basic.Properties(
            **{"delivery_mode": 2, **properties}
        ),
        mandatory=mandatory,
        timeout=10,
    )


async def get_now(channel, queue, no_ack=True):
    """The queue's next message, or none if it is empty."""
    found = await channel.basic_get(queue, no_ack=no_ack)
    empty = isinstance(found.delivery, aiormq.spec.Basic.GetEmpty)
    return None if empty else found


async def get(channel, queue, no_ack=True):
    """The queue's next message; waits for it."""
    async with asyncio.timeout(10):
        while not (found := await get_now(channel, queue, no_ack)):
            await asyncio.sleep(0.01)
        return found


async def drain(channel, queue):
    """The bodies of all that waits in the queue."""
    found = []
    while message := await get_now(channel, queue):
        found.append(message.body)
    return found


def death(queue, reason, count=1, **more):
    """An entry of the x-death header, without its time."""
    return {
        "count": count,
        "reason": reason,
        "queue": queue,
        "exchange": "",
        "routing-keys": [queue],
        **more,
    }


def deaths(message):
    """The x-death header without the times."""
    found = message.header.properties.headers["x-death"]
    for entry in found:
        assert isinstance(entry.pop("time"), datetime)
    return found


async def check_direct_reply_to(connection, channel):
    queue = await fresh(channel)
    replies = asyncio.Queue()
    consumer = await channel.basic_consume(REPLIES, replies.put, no_ack=True)
    await publish(channel, queue, b"hi", reply_to=REPLIES, correlation_id="42")
    server = await Peer().open()
    request = await get(server.channel, queue)
    properties = request.header.properties
    assert properties.reply_to.startswith(REPLIES + "."), properties.reply_to
    await publish(
        server.channel,
        properties.reply_to,
        b"re: " + request.body,
        mandatory=False,
        correlation_id=properties.correlation_id,
    )
    async with asyncio.timeout(10):
        reply = await replies.get()
    assert reply.body == b"re: hi"
    assert reply.header.properties.correlation_id == "42"
    await server.connection.close()
    await channel.basic_cancel(consumer.consumer_tag)
    await channel.queue_delete(queue)


async def check_dead_letter(connection, channel):
    exchange = await fresh_exchange(channel, "fanout", ".dlx")
    dead = await fresh(channel, ".dead")
    await channel.queue_bind(dead, exchange)
    queue = await fresh(channel, dead_letter_exchange=exchange)
    await publish(channel, queue, b"bad", headers={"kept": 1})
    found = await get(channel, queue, no_ack=False)
    await channel.basic_reject(found.delivery_tag, requeue=False)
    found = await get(channel, dead)
    assert found.body == b"bad"
    # Without x-dead-letter-routing-key it keeps its own.
    assert (found.exchange, found.routing_key) == (exchange, queue)
    headers = found.header.properties.headers
    assert deaths(found) == [death(queue, "rejected")], headers
    assert headers["kept"] == 1
    assert headers["x-first-death-reason"] == "rejected"
    assert headers["x-first-death-queue"] == queue
    assert headers["x-first-death-exchange"] == ""
    await channel.queue_delete(queue)
    await channel.queue_delete(dead)
    await channel.exchange_delete(exchange)


async def check_retry(connection, channel):
    # The usual way to try again later: two queues that are each other's
    # place for the dead.
    work, wait = NAME + ".work", NAME + ".wait"
    there = {"dead_letter_exchange": "", "dead_letter_routing_key": wait}
    back = {"dead_letter_exchange": "", "dead_letter_routing_key": work}
    await fresh(channel, ".work", **there)
    await fresh(channel, ".wait", message_ttl=50, **back)
    attempts = asyncio.Queue()

    async def fail_twice(message):
        attempts.put_nowait(message)
        tag = message.delivery_tag
        if attempts.qsize() < 3:
            await channel.basic_nack(tag, requeue=False)
        else:
            await channel.basic_ack(tag)
            done.set()

    done = asyncio.Event()
    consumer = await channel.basic_consume(work, fail_twice)
    await publish(channel, work, b"task")
    async with asyncio.timeout(10):
        await done.wait()
    assert not attempts.get_nowait().header.properties.headers
    for count in (1, 2):
        # The newest comes first.
        found = deaths(attempts.get_nowait())
        assert found == [
            death(wait, "expired", count),
            death(work, "rejected", count),
        ], found
    await channel.basic_cancel(consumer.consumer_tag)
    await channel.queue_delete(work)
    await channel.queue_delete(wait)


async def check_ttl(connection, channel):
    dead = await fresh(channel, ".dead")
    queue = await fresh(
        channel,
        message_ttl=600_000,
        dead_letter_exchange="",
        dead_letter_routing_key=dead,
    )
    # The shorter of the two counts.
    await publish(channel, queue, b"brief", expiration="50")
    await publish(channel, queue, b"kept", expiration="900000")
    found = await get(channel, dead)
    assert found.body == b"brief"
    # Or it would expire again.
    assert found.header.properties.expiration is None
    more = {"original-expiration": "50"}
    assert deaths(found) == [death(queue, "expired", **more)]
    assert await drain(channel, queue) == [b"kept"]
    await channel.queue_delete(queue)
    await channel.queue_delete(dead)


async def check_queue_expiry(connection, channel):
    queue = await fresh(channel, expires=200)
    # To declare it would keep it, even passively.
    try:
        async with asyncio.timeout(10):
            while True:
                await publish(channel, queue, b"does it exist?")
                await asyncio.sleep(0.05)
    except aiormq.PublishError as error:
        assert error.frame.reply_code == 312, error


async def check_max_length(connection, channel):
    dead = await fresh(channel, ".dead")
    queue = await fresh(
        channel,
        max_length=3,
        dead_letter_exchange="",
        dead_letter_routing_key=dead,
    )
    for body in (b"0", b"1", b"2", b"3", b"4"):
        await publish(channel, queue, body)
    for body in (b"0", b"1"):
        found = await get(channel, dead)
        assert found.body == body
        assert deaths(found) == [death(queue, "maxlen")]
    assert await drain(channel, queue) == [b"2", b"3", b"4"]
    queue = await fresh(channel, max_length=1, overflow="reject-publish")
    await publish(channel, queue, b"first")
    try:
        await publish(channel, queue, b"second")
    except aiormq.DeliveryError as error:
        assert isinstance(error.frame, aiormq.spec.Basic.Nack), error
    else:
        raise AssertionError("a full queue takes a message")
    assert await drain(channel, queue) == [b"first"]
    await channel.queue_delete(queue)
    await channel.queue_delete(dead)


async def check_priority(connection, channel):
    queue = await fresh(channel, max_priority=5)
    sent = {b"a": 1, b"b": 5, b"c": 3, b"d": None, b"e": 5, b"f": 9, b"g": 1}
    for body, priority in sent.items():
        await publish(channel, queue, body, priority=priority)
    # None is 0, what is above the most is the most, equals keep their order.
    order = [b"b", b"e", b"f", b"c", b"a", b"g", b"d"]
    assert await drain(channel, queue) == order
    await channel.queue_delete(queue)


async def check_exchange_binding(connection, channel):
    source = await fresh_exchange(channel, "topic", ".source")
    target = await fresh_exchange(channel, "fanout", ".target")
    queue = await fresh(channel)
    way = {"destination": target, "source": source, "routing_key": "log.#"}
    await channel.exchange_bind(**way)
    await channel.queue_bind(queue, target)
    await publish(channel, "log.error", b"one", source)
    await publish(channel, "other", b"none", source, mandatory=False)
    found = await get(channel, queue)
    assert (found.body, found.exchange) == (b"one", source)
    await channel.exchange_unbind(**way)
    await publish(channel, "log.error", b"none", source, mandatory=False)
    assert await drain(channel, queue) == []
    await channel.queue_delete(queue)
    await channel.exchange_delete(target)
    await channel.exchange_delete(source)


async def check_headers_exchange(connection, channel):
    exchange = await fresh_exchange(channel, "headers", ".headers")
    queue = await fresh(channel)
    wanted = {"kind": "report", "pages": 3}
    for match, found in (
        ("all", [b"both"]),
        ("any", [b"both", b"kind", b"pages"]),
    ):
        binding = {"arguments": {"x-match": match, **wanted}}
        await channel.queue_bind(queue, exchange, "", **binding)
        for body, headers in (
            (b"both", {**wanted, "more": True}),
            (b"kind", {"kind": "report", "pages": 4}),
            (b"pages", {"pages": 3}),
            (b"neither", {"kind": "log"}),
            (b"nothing", None),
        ):
            await publish(channel, "", body, exchange, False, headers=headers)
        assert await drain(channel, queue) == found, match
        await channel.queue_unbind(queue, exchange, "", **binding)
    await channel.queue_delete(queue)
    await channel.exchange_delete(exchange)


async def check_alternate_exchange(connection, channel):
    rest = await fresh_exchange(channel, "fanout", ".rest")
    arguments = {"alternate-exchange": rest}
    exchange = await fresh_exchange(channel, "direct", ".first", arguments)
    queue = await fresh(channel)
    other = await fresh(channel, ".other")
    await channel.queue_bind(queue, exchange, "known")
    await channel.queue_bind(other, rest)
    await publish(channel, "known", b"one", exchange)
    # aiormq would raise an error, had this one come back.
    await publish(channel, "unknown", b"two", exchange)
    assert await drain(channel, queue) == [b"one"]
    found = await get(channel, other)
    assert (found.body, found.exchange) == (b"two", exchange)
    for name in (queue, other):
        await channel.queue_delete(name)
    for name in (exchange, rest):
        await channel.exchange_delete(name)


async def check_transaction(connection, channel):
    queue = await fresh(channel)
    tx = await connection.channel(publisher_confirms=False)
    await tx.tx_select()
    await tx.basic_publish(b"undone", routing_key=queue)
    await tx.tx_rollback()
    await tx.basic_publish(b"one", routing_key=queue)
    await tx.basic_publish(b"two", routing_key=queue)
    assert await get_now(channel, queue) is None
    await tx.tx_commit()
    found = await get(tx, queue, no_ack=False)
    assert found.body == b"one"
    await tx.basic_ack(found.delivery_tag)
    await tx.tx_rollback()
    # It is to be acknowledged as if nothing had happened.
    await tx.basic_ack(found.delivery_tag)
    await tx.tx_commit()
    found = await get(tx, queue, no_ack=False)
    assert found.body == b"two"
    await tx.basic_ack(found.delivery_tag)
    # Without a commit it comes back.
    await tx.close()
    found = await get(channel, queue)
    assert (found.redelivered, found.body) == (True, b"two")
    assert await drain(channel, queue) == []
    await channel.queue_delete(queue)


async def check_cancel_notify(connection, channel):
    queue = await fresh(channel)
    other = await connection.channel()
    cancelled = asyncio.Queue()
    other.on_consumer_cancel_callbacks.add(cancelled.put)
    consumer = await other.basic_consume(queue, cancelled.put)
    await channel.queue_delete(queue)
    async with asyncio.timeout(10):
        frame = await cancelled.get()
    assert isinstance(frame, aiormq.spec.Basic.Cancel), frame
    assert frame.consumer_tag == consumer.consumer_tag
    # Only the consumer is gone.
    await other.queue_declare("", exclusive=True)
    await other.close()


async def main():
    peer = await Peer().open()
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
        await check(peer.connection, peer.channel)
        print("ok", check.__name__)
    await peer.connection.close()


if __name__ == "__main__":
    asyncio.run(main())
