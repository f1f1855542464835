"""A producer that knows nothing of Tidemark: Confluent's client with its Avro serializer.

    python produce.py BROKERS REGISTRY TOPIC COUNT

sends COUNT page events, every third of them with a null user, and prints how many were delivered.
"""

import sys

from confluent_kafka import SerializingProducer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import StringSerializer

brokers, registry, topic, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
client = SchemaRegistryClient({"url": registry})
schema = client.get_latest_version(f"{topic}-value").schema.schema_str
producer = SerializingProducer({
    "bootstrap.servers": brokers,
    "key.serializer": StringSerializer(),
    "value.serializer": AvroSerializer(
        client, schema, conf={"auto.register.schemas": False, "use.latest.version": True}
    ),
})
delivered = 0


def noted(error, _message):
    global delivered
    if error is not None:
        raise SystemExit(f"not delivered: {error}")
    delivered += 1


for number in range(count):
    event = {
        "id": f"python-{number}",
        "ts": 1_795_168_800_000_000 + number * 1_000_000,
        "session_id": f"session {number % 7}",
        "user_id": None if number % 3 == 0 else f"user {number % 5}",
        "method": "GET",
        "url": f"/python/{number % 4}",
        "status": 200,
        "bytes": number,
        "duration_ms": number % 50,
        "ip": "192.0.2.1",
        "user_agent": "python",
        "referrer": None,
        "country": "NO",
    }
    producer.produce(topic=topic, key=event["session_id"], value=event, on_delivery=noted)
    producer.poll(0)
producer.flush(60)
print(delivered)
