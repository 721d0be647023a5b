"""aiormq against the broker at AMQP_URL. Prints one "ok" line a check."""
import asyncio
import os
from datetime import datetime, timezone
from decimal import Decimal

import aiormq
from aiormq.connection import TCPTransportFactory

from cue import kill_broker, restart_broker

QUEUE = "check.aiormq"
NOW = datetime(2024, 2, 29, 12, 30, 1, tzinfo=timezone.utc)
# aiormq picks the smallest type that holds an integer, so these go as
# b, s, u, I, i and l.
INTEGERS = [-7, -300, 65_000, -70_000, 2**32 - 1, -(2**40)]
HEADERS = {
    "bool": False,
    "integers": INTEGERS,
    "float": 0.5,
    "decimal": Decimal("3.14"),
    "text": "h\u00e9llo",
    "bytes": bytearray(b"\x00\xff"),
    "time": NOW,
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
    "timestamp": NOW,
    "message_type": "greeting",
    "user_id": "guest",
    "app_id": "check",
}


class Transport(TCPTransportFactory):
    """Keeps the socket at hand, so that a check can tear it."""

    async def create(self, *args, **kwargs):
        reader, self.writer = await super().create(*args, **kwargs)
        return reader, self.writer


class Peer:
    """A connection with one channel, and the deliveries of one consumer."""

    async def open(self):
        self.transport = Transport()
        self.connection = aiormq.Connection(
            os.environ["AMQP_URL"], transport_factory=self.transport
        )
        await self.connection.connect()
        self.channel = await self.connection.channel()
        self.deliveries = asyncio.Queue()
        return self

    async def consume(self, queue, **options):
        # The put never blocks: the queue has no bound.
        consumer = await self.channel.basic_consume(
            queue, self.deliveries.put, **options
        )
        return consumer.consumer_tag

    async def take(self, count):
        """The next `count` deliveries, unacknowledged."""
        async with asyncio.timeout(10):
            return [await self.deliveries.get() for _ in range(count)]

    async def publish(self, body, **properties):
        properties = {"delivery_mode": 2, **properties}
        confirm = await self.channel.basic_publish(
            body,
            routing_key=QUEUE,
            properties=aiormq.spec.Basic.Properties(**properties),
            mandatory=True,
            timeout=10,
        )
        assert isinstance(confirm, aiormq.spec.Basic.Ack), confirm

    async def torn(self):
        """Returns when the client knows that its connection is gone."""
        async with asyncio.timeout(20):
            await asyncio.wait([self.connection.closing])


async def reconnect():
    """A new peer, once there is a broker to connect to."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await Peer().open()
            except ConnectionError:
                await asyncio.sleep(0.1)


def bodies(deliveries):
    return [delivery.body for delivery in deliveries]


async def check_content(peer):
    sent = [b"", b"\x00\x01", b"x" * 300_000, "h\u00e9".encode()]
    for body in sent:
        await peer.publish(body, **PROPERTIES)
    tag = await peer.consume(QUEUE)
    deliveries = await peer.take(len(sent))
    assert bodies(deliveries) == sent
    for delivery in deliveries:
        properties = delivery.header.properties
        found = {name: getattr(properties, name) for name in PROPERTIES}
        assert found == PROPERTIES, found
        assert (delivery.exchange, delivery.routing_key) == ("", QUEUE)
        assert not delivery.redelivered
    last = deliveries[-1].delivery_tag
    await peer.channel.basic_ack(last, multiple=True)
    await peer.channel.basic_cancel(tag)


async def check_order_and_requeue(peer):
    sent = [b"%d" % n for n in range(100)]
    await asyncio.gather(*map(peer.publish, sent))
    channel = peer.channel
    await channel.basic_qos(prefetch_count=10)
    tag = await peer.consume(QUEUE)
    first = await peer.take(10)
    assert bodies(first) == sent[:10]
    tags = [delivery.delivery_tag for delivery in first]
    # Cancelled first, or the requeued ones would come back at once.
    await channel.basic_cancel(tag)
    await channel.basic_ack(tags[0])
    await channel.basic_reject(tags[1], requeue=False)
    await channel.basic_nack(tags[-1], multiple=True, requeue=True)
    await channel.basic_qos(prefetch_count=0)
    tag = await peer.consume(QUEUE)
    again = await peer.take(98)
    assert bodies(again) == sent[2:]
    flags = [delivery.redelivered for delivery in again]
    assert flags == [True] * 8 + [False] * 90, flags
    await channel.basic_ack(again[-1].delivery_tag, multiple=True)
    await channel.basic_cancel(tag)


async def check_mixed_confirms(peer):
    # A transient message may be safe before the persistent one ahead of it.
    # aiormq takes no notice of an ack, multiple or not, whose number is that
    # of a message acked before.
    modes = [2, 1] * 50
    for _ in range(10):
        publish = (peer.publish(b"", delivery_mode=mode) for mode in modes)
        await asyncio.gather(*publish)
    purged = await peer.channel.queue_purge(QUEUE)
    assert purged.message_count == 1000, purged


async def check_mandatory(peer):
    try:
        await peer.channel.basic_publish(
            b"lost?", routing_key="check.nowhere", mandatory=True
        )
    except aiormq.PublishError as error:
        assert error.message.body == b"lost?"
        assert error.frame.reply_code == 312
        assert error.frame.reply_text == "NO_ROUTE"
        assert error.frame.routing_key == "check.nowhere"
    else:
        raise AssertionError("an unroutable message did not come back")


async def check_get(peer):
    empty = await peer.channel.basic_get(QUEUE)
    assert isinstance(empty.delivery, aiormq.spec.Basic.GetEmpty)
    await peer.publish(b"one")
    await peer.publish(b"two")
    found = await peer.channel.basic_get(QUEUE)
    assert (found.body, found.message_count) == (b"one", 1)
    await peer.channel.basic_ack(found.delivery_tag)
    found = await peer.channel.basic_get(QUEUE, no_ack=True)
    assert (found.body, found.message_count) == (b"two", 0)


async def check_rpc(peer):
    async def serve(request):
        properties = request.header.properties
        await request.channel.basic_publish(
            b"re: " + request.body,
            routing_key=properties.reply_to,
            properties=aiormq.spec.Basic.Properties(
                correlation_id=properties.correlation_id
            ),
        )
        await request.channel.basic_ack(request.delivery_tag)

    declared = await peer.channel.queue_declare("", exclusive=True)
    assert declared.queue.startswith("amq.gen-"), declared.queue
    replies = await peer.consume(declared.queue, no_ack=True)
    server = await peer.channel.basic_consume(QUEUE, serve)
    await peer.publish(b"hi", reply_to=declared.queue, correlation_id="42")
    (reply,) = await peer.take(1)
    assert reply.body == b"re: hi"
    assert reply.header.properties.correlation_id == "42"
    for tag in (replies, server.consumer_tag):
        await peer.channel.basic_cancel(tag)
    await peer.channel.queue_delete(declared.queue)


async def check_lost_connection(peer):
    sent = [b"%d" % n for n in range(5)]
    for body in sent:
        await peer.publish(body)
    await peer.channel.basic_qos(prefetch_count=2)
    await peer.consume(QUEUE)
    assert bodies(await peer.take(2)) == sent[:2]
    # No close, no goodbye: as when the machine is unplugged.
    peer.transport.writer.transport.abort()
    await peer.torn()

    peer = await Peer().open()
    # Nothing says how soon the broker notices.
    async with asyncio.timeout(20):
        while (await peer.channel.queue_declare(QUEUE, passive=True)).message_count < 5:
            await asyncio.sleep(0.01)
    tag = await peer.consume(QUEUE)
    deliveries = await peer.take(5)
    assert bodies(deliveries) == sent
    flags = [delivery.redelivered for delivery in deliveries]
    assert flags == [True, True, False, False, False], flags
    last = deliveries[-1].delivery_tag
    await peer.channel.basic_ack(last, multiple=True)
    await peer.channel.basic_cancel(tag)
    return peer


async def check_restart(peer):
    sent = [b"%d" % n for n in range(20)]
    for body in sent:
        await peer.publish(body, **PROPERTIES)
    if not await asyncio.to_thread(restart_broker):
        await peer.connection.close()
    await peer.torn()

    peer = await reconnect()
    tag = await peer.consume(QUEUE)
    deliveries = await peer.take(20)
    assert bodies(deliveries) == sent
    assert all(d.header.properties.headers == HEADERS for d in deliveries)
    last = deliveries[-1].delivery_tag
    await peer.channel.basic_ack(last, multiple=True)
    await peer.channel.basic_cancel(tag)
    return peer


async def check_kill(peer):
    sent = [b"%d" % n for n in range(20)]
    for body in sent:
        await peer.publish(body)
    await peer.channel.basic_qos(prefetch_count=5)
    await peer.consume(QUEUE)
    assert bodies(await peer.take(5)) == sent[:5]
    if not await asyncio.to_thread(kill_broker):
        await peer.connection.close()
    await peer.torn()

    peer = await reconnect()
    await peer.publish(b"and on")
    tag = await peer.consume(QUEUE)
    deliveries = await peer.take(21)
    assert bodies(deliveries) == [*sent, b"and on"]
    last = deliveries[-1].delivery_tag
    await peer.channel.basic_ack(last, multiple=True)
    await peer.channel.basic_cancel(tag)
    return peer


async def main():
    peer = await Peer().open()
    await peer.channel.queue_delete(QUEUE)
    await peer.channel.queue_declare(QUEUE, durable=True)
    for check in (
        check_content,
        check_order_and_requeue,
        check_mixed_confirms,
        check_mandatory,
        check_get,
        check_rpc,
    ):
        await check(peer)
        print("ok", check.__name__)
    for check in (check_lost_connection, check_restart, check_kill):
        peer = await check(peer)
        print("ok", check.__name__)
    deleted = await peer.channel.queue_delete(QUEUE)
    assert deleted.message_count == 0, deleted
    await peer.connection.close()


if __name__ == "__main__":
    asyncio.run(main())
