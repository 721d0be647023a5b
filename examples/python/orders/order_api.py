"""Takes an order: python order_api.py 1001 jane@example.com book pen

The order call does one thing: it publishes the event "order created" and
waits until the broker has it on disk. Who reacts to the event, and whether
they run at the moment, is not its business.
"""
import json
import os
import sys
import time

import pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
EXCHANGE = "orders.created"


def place_order(channel, order):
    """Returns once the event is safe; raises if nobody would ever get it."""
    channel.basic_publish(
        exchange=EXCHANGE,
        routing_key="",
        body=json.dumps(order),
        properties=pika.BasicProperties(
            content_type="application/json",
            delivery_mode=pika.DeliveryMode.Persistent,
            message_id=str(order["id"]),
        ),
        mandatory=True,  # UnroutableError if no service has a queue yet
    )


def main():
    if len(sys.argv) < 4:
        sys.exit(f"usage: {sys.argv[0]} <id> <e-mail address> <item> ...")
    order = {
        "id": int(sys.argv[1]),
        "customer": sys.argv[2],
        "items": sys.argv[3:],
    }
    # A server opens its connection once, not in every call.
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.exchange_declare(EXCHANGE, exchange_type="fanout", durable=True)

    start = time.perf_counter()
    place_order(channel, order)
    took = (time.perf_counter() - start) * 1000
    print(f"order {order['id']} accepted in {took:.1f} ms")
    connection.close()


if __name__ == "__main__":
    main()
