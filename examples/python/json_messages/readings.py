"""What the sender and the receiver of readings agree on."""
import json
import os
from datetime import datetime

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/")
QUEUE = "readings"
DEAD_LETTER_QUEUE = "readings.dlq"
CONTENT_TYPE = "application/json"


def declare_queues(channel):
    channel.queue_declare(DEAD_LETTER_QUEUE, durable=True)
    # The default exchange has every queue bound by its name already.
    channel.queue_declare(QUEUE, durable=True, arguments={
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": DEAD_LETTER_QUEUE,
    })


def encode(reading):
    return json.dumps(reading, default=encode_other)


def encode_other(value):
    """For what JSON has no notation of."""
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"cannot send a {type(value).__name__}")


def decode(content_type, body):
    """Raises whatever it stumbles over if this is no reading."""
    if content_type != CONTENT_TYPE:
        raise ValueError(f"{content_type} is not {CONTENT_TYPE}")
    reading = json.loads(body)
    return {
        "sensor": reading["sensor"],
        "celsius": float(reading["celsius"]),
        "taken_at": datetime.fromisoformat(reading["taken_at"]),
    }
