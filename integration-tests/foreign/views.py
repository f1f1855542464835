"""Reads a view's table with a CQL driver that knows nothing of Tidemark.

    python views.py HOST PORT USER PASSWORD KEYSPACE VIEW

prints one line of JSON per row: its url and minute as an operator sees them in cqlsh, its generation (0: a delta), the partition
of the log and the offset that it reaches.
"""

import json
import sys

from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster

host, port, user, password, keyspace, view = sys.argv[1:]
cluster = Cluster([host], port=int(port), auth_provider=PlainTextAuthProvider(user, password), protocol_version=4)
session = cluster.connect(keyspace)
tables = [
    row.table_name
    for row in session.execute("SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s", [keyspace])
    if row.table_name.startswith(view + "_")
]
for table in tables:
    for row in session.execute(f'SELECT url, minute, generation, log_partition, through FROM "{table}"'):
        minute = row.minute.strftime("%Y-%m-%dT%H:%M:%SZ")
        print(json.dumps([row.url, minute, row.generation, row.log_partition, row.through]))
cluster.shutdown()
