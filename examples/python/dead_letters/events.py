"""What an event is, and where events go."""
import json
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone

import pika

EXCHANGE = "events"
DEAD_LETTER_EXCHANGE = "events.dlx"
RETRY_HEADER = "retry-count"


def milliseconds(seconds):
    """The broker's unit of time."""
    return int(seconds * 1000)


@dataclass
class Event:
    type: str
    payload: dict
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    time: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    retries: int = 0

    def to_body(self):
        # JSON knows no datetime: ISO 8601 is what every language reads.
        return json.dumps({
            "id": self.id,
            "type": self.type,
            "time": self.time.isoformat(),
            "payload": self.payload,
        })

    def to_properties(self, ttl=None):
        return pika.BasicProperties(
            content_type="application/json",
            delivery_mode=pika.DeliveryMode.Persistent,
            message_id=self.id,
            timestamp=int(self.time.timestamp()),
            type=self.type,
            headers={RETRY_HEADER: self.retries},
            # Of this and the queue's limit, the shorter counts.
            expiration=None if ttl is None else str(milliseconds(ttl)),
        )

    @classmethod
    def read(cls, properties, body):
        """Raises whatever it stumbles over if this is no event."""
        fields = json.loads(body)
        return cls(
            type=fields["type"],
            payload=fields["payload"],
            id=fields["id"],
            time=datetime.fromisoformat(fields["time"]),
            retries=int((properties.headers or {}).get(RETRY_HEADER, 0)),
        )


def declare_exchanges(channel):
    """What publishers and consumers both need; either may start first."""
    channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
    channel.exchange_declare(
        DEAD_LETTER_EXCHANGE, exchange_type="direct", durable=True
    )
