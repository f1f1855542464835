"""Reads archived segments with an Avro reader that knows nothing of Tidemark.

    python archive.py FILE...

prints one line of JSON per file: its events, as (offset, url, minute of the event time, bytes).
"""

import json
import sys

import fastavro

for name in sys.argv[1:]:
    with open(name, "rb") as file:
        events = [
            [event["_offset"], event["url"], event["ts"].strftime("%Y-%m-%dT%H:%M:00Z"), event["bytes"]]
            for event in fastavro.reader(file)
        ]
    print(json.dumps(events))
