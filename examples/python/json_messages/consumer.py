"""Prints every reading, its time in UTC."""
from datetime import timezone

import pika

from readings import QUEUE, URL, declare_queues, decode


def on_message(channel, method, properties, body):
    try:
        reading = decode(properties.content_type, body)
    except Exception as error:
        # Sent back to the queue it would come again at once, and for ever.
        channel.basic_reject(method.delivery_tag, requeue=False)
        print(f"refused: {error!r}")
        return
    time = reading["taken_at"].astimezone(timezone.utc)
    channel.basic_ack(method.delivery_tag)
    print(f"{reading['sensor']}: {reading['celsius']} degrees at {time:%H:%M}")


def main():
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    declare_queues(channel)
    channel.basic_qos(prefetch_count=10)
    channel.basic_consume(QUEUE, on_message)
    print("waiting for readings, Ctrl+C ends")
    try:
        channel.start_consuming()
    except KeyboardInterrupt:
        connection.close()


if __name__ == "__main__":
    main()
