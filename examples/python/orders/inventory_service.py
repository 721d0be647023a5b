"""Reserves the items of each order."""
import json
import os

import pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
EXCHANGE = "orders.created"
QUEUE = "orders.inventory"


def on_order(channel, method, _properties, body):
    order = json.loads(body)
    items = ", ".join(order["items"])
    channel.basic_ack(method.delivery_tag)
    print(f"reserved for order {order['id']}: {items}")


def main():
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.exchange_declare(EXCHANGE, exchange_type="fanout", durable=True)
    # Durable and named: it goes on collecting orders while we are down.
    channel.queue_declare(QUEUE, durable=True)
    channel.queue_bind(QUEUE, EXCHANGE)
    channel.basic_qos(prefetch_count=10)
    channel.basic_consume(QUEUE, on_order)
    print("inventory service waiting for orders, Ctrl+C ends")
    try:
        channel.start_consuming()
    except KeyboardInterrupt:
        connection.close()


if __name__ == "__main__":
    main()
