"""Ships the orders that are paid.

The carrier is not always there: it fails an order as often as that one says.
"""
import os

from consumer import Consumer

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")


def ship(event):
    order = event.payload
    if event.retries < order.get("fails", 0):
        raise RuntimeError(f"no carrier for order {order['id']}")
    print(f"shipped: order {order['id']}")


def main():
    Consumer(URL, "shipping", "order.paid", ship).run()


if __name__ == "__main__":
    main()
