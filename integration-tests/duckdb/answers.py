"""The second opinion on the tests of real data: DuckDB reads the raw files, and nothing else, and answers what the views
answer, in SQL of its own.

    python answers.py APPLICATION FILE [ROWS]

prints one line of JSON per view: its name, the names of its columns, its rows. Only columns whose SQL means the same in DuckDB
are here: sketches (`approx_distinct`) are not. ROWS: only so many rows of the file, from its start.
"""

import datetime
import decimal
import json
import sys

import duckdb

# The lines of a web server's log, cut up by one pattern; a visit is made of the requests of one address and one browser with at
# most half an hour between them.
ACCESS_LOG = r"""
CREATE TABLE lines AS
SELECT row_number() OVER () AS line, line AS text
FROM read_csv(?, columns = {'line': 'VARCHAR'}, delim = '\x01', quote = '', escape = '', header = false, parallel = false);

CREATE TABLE parts AS
SELECT line, unnest(regexp_extract(text,
    '^(\S+) \S+ \S+ \[([^\]]+)\] "(\S+) (\S+)[^"]*" (\d{3}) (\d+|-) "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"$',
    ['ip', 'time', 'method', 'url', 'status', 'bytes', 'referrer', 'agent']))
FROM lines WHERE line <= rows_wanted();

CREATE TABLE requests AS
WITH typed AS (
    SELECT line, ip, method, url, CAST(status AS INTEGER) AS status, coalesce(TRY_CAST(bytes AS BIGINT), 0) AS bytes,
           strptime(time, '%d/%b/%Y:%H:%M:%S +0000') AS ts,
           nullif(referrer, '-') AS referrer, agent
    FROM parts WHERE ip <> ''
), stepped AS (
    SELECT *, max(ts) OVER (PARTITION BY ip, agent ORDER BY line ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS latest
    FROM typed
)
SELECT *, concat_ws(' ', ip, agent, sum(CASE WHEN ts - latest > INTERVAL 30 MINUTE THEN 1 ELSE 0 END)
              OVER (PARTITION BY ip, agent ORDER BY line)) AS visit
FROM stepped;
"""

WIKIPEDIA = """
CREATE TABLE edits AS
SELECT * FROM (
    SELECT row_number() OVER () AS line, * FROM read_json(?, format = 'newline_delimited', columns = {
        'time': 'TIMESTAMP', 'channel': 'VARCHAR', 'page': 'VARCHAR', 'user': 'VARCHAR', 'comment': 'VARCHAR',
        'namespace': 'VARCHAR', 'isAnonymous': 'BOOLEAN', 'isMinor': 'BOOLEAN', 'isRobot': 'BOOLEAN',
        'delta': 'BIGINT', 'added': 'BIGINT', 'deleted': 'BIGINT', 'countryIsoCode': 'VARCHAR', 'countryName': 'VARCHAR',
        'cityName': 'VARCHAR', 'metroCode': 'INTEGER'})
) WHERE line <= rows_wanted();
"""

RETAIL = """
CREATE TABLE lines AS
SELECT * FROM (
    SELECT row_number() OVER () AS line, * FROM read_csv(?, header = true, parallel = false, columns = {
        'InvoiceNo': 'VARCHAR', 'StockCode': 'VARCHAR', 'Description': 'VARCHAR', 'Quantity': 'INTEGER',
        'InvoiceDate': 'TIMESTAMP', 'UnitPrice': 'DECIMAL(12, 3)', 'CustomerID': 'VARCHAR', 'Country': 'VARCHAR'})
) WHERE line <= rows_wanted();
"""

VIEWS = {
    "access_log": (ACCESS_LOG, {
        "pages": """
            SELECT url, date_trunc('minute', ts) AS minute, status, count(*) AS hits, sum(bytes) AS bytes,
                   count(DISTINCT ip) AS visitors, max(bytes) AS largest
            FROM requests GROUP BY ALL""",
        "statuses": """
            SELECT status, date_trunc('hour', ts) AS hour, method, count(*) AS answers, avg(bytes) AS mean_bytes,
                   stddev_samp(bytes) AS spread, count(DISTINCT agent) AS agents, count(DISTINCT visit) AS sessions
            FROM requests GROUP BY ALL""",
        "hours": """
            SELECT date_trunc('hour', ts) AS hour, count(*) AS hits, count_if(status >= 400) AS errors,
                   count_if(status >= 400)::DOUBLE / count(*) AS error_rate, sum(bytes) // count(*) AS mean_bytes,
                   count(DISTINCT visit) AS sessions, bool_or(method <> 'GET') AS has_others
            FROM requests GROUP BY ALL""",
        "referrers": """
            SELECT regexp_extract(referrer, '^[^/]*/[^/]*/([^/]*)', 1) AS site, count(*) AS clicks, count(DISTINCT url) AS targets,
                   min(ts) AS first_seen, max(ts) AS last_seen
            FROM requests GROUP BY site HAVING count(*) >= 3""",
        "addresses": """
            SELECT ip, count(*) AS hits, count(DISTINCT visit) AS sessions, arg_min(url, (ts, line)) AS entry_page,
                   arg_max(url, (ts, line)) AS exit_page,
                   arg_max(referrer, (ts, line)) FILTER (referrer IS NOT NULL) AS last_referrer,
                   sum(CASE WHEN status = 200 THEN bytes END) AS bytes
            FROM requests GROUP BY ip""",
    }),
    "wikipedia": (WIKIPEDIA, {
        "channels": """
            SELECT channel, date_trunc('hour', "time") AS hour, count(*) AS edits, sum(added) AS added, sum(deleted) AS deleted,
                   sum(added - deleted - delta) AS unexplained, count_if(isRobot) AS by_robots,
                   count_if(isAnonymous) AS anonymous, count(DISTINCT "user") AS users, max(length(comment)) AS longest_comment
            FROM edits GROUP BY ALL""",
        "pages": """
            SELECT channel, page, count(*) AS edits, sum(delta) AS delta, max("user") AS last_by_name,
                   arg_max("user", ("time", line)) AS last_user, bool_and(isMinor) AS all_minor
            FROM edits GROUP BY ALL""",
        "namespaces": """
            SELECT channel, namespace, count(*) AS edits, count(DISTINCT page) AS pages, avg(added) AS mean_added,
                   bit_xor(added) AS fold_of_added
            FROM edits GROUP BY ALL""",
        "countries": """
            SELECT countryIsoCode, min(countryName) AS country, count(*) AS edits, count(cityName) AS with_city,
                   min(metroCode) AS least_metro, sum(metroCode) AS metro_sum, var_pop(delta) AS variance
            FROM edits GROUP BY countryIsoCode""",
        "busy_users": """
            SELECT "user", count(*) AS edits, count(DISTINCT channel) AS channels, median(delta) AS median_delta,
                   max("time") AS last_edit
            FROM edits GROUP BY "user" HAVING count(*) >= 20 AND count_if(isAnonymous) = 0""",
    }),
    "retail": (RETAIL, {
        "revenue": """
            SELECT Country, date_trunc('day', InvoiceDate) AS day, sum(Quantity * UnitPrice) AS revenue,
                   sum(Quantity * UnitPrice) FILTER (InvoiceNo LIKE 'C%') AS given_back,
                   count(DISTINCT InvoiceNo) AS invoices, count(DISTINCT CustomerID) AS customers,
                   count(*) - count(CustomerID) AS without_customer
            FROM lines GROUP BY ALL""",
        "items": """
            SELECT StockCode, arg_max(Description, (InvoiceDate, line)) FILTER (Description IS NOT NULL) AS description,
                   count(*) AS lines, sum(Quantity) AS sold, min(UnitPrice) AS cheapest, max(UnitPrice) AS dearest,
                   avg(Quantity) AS mean_quantity, count(DISTINCT UnitPrice) AS prices
            FROM lines GROUP BY StockCode""",
        "cancellations": """
            SELECT Country, StockCode, count_if(InvoiceNo LIKE 'C%') AS cancelled,
                   count_if(InvoiceNo LIKE 'C%')::DOUBLE / count(*) AS share
            FROM lines GROUP BY ALL HAVING count_if(InvoiceNo LIKE 'C%') > 0""",
        "customers": """
            SELECT CustomerID, date_trunc('month', InvoiceDate) AS month, count(DISTINCT InvoiceNo) AS invoices,
                   sum(Quantity * UnitPrice) AS spent, max(InvoiceDate) AS last_seen
            FROM lines GROUP BY ALL""",
    }),
}


def as_json(value):
    if isinstance(value, datetime.datetime):
        return value.isoformat() + "Z"
    if isinstance(value, datetime.date):
        return value.isoformat() + "T00:00:00Z"
    if isinstance(value, decimal.Decimal):
        return str(value)
    return value


def main():
    application, file = sys.argv[1], sys.argv[2]
    rows = int(sys.argv[3]) if len(sys.argv) > 3 else 2**62
    connection = duckdb.connect(config={"threads": 2, "autoinstall_known_extensions": False})
    connection.execute(f"CREATE MACRO rows_wanted() AS {rows}")
    tables, views = VIEWS[application]
    for statement in tables.split(";\n"):
        if statement.strip():
            connection.execute(statement, [file] if "?, " in statement else None)
    for name, sql in views.items():
        answer = connection.execute(sql)
        columns = [column[0] for column in answer.description]
        rows = [[as_json(value) for value in row] for row in answer.fetchall()]
        print(json.dumps({"view": name, "columns": columns, "rows": rows}))


main()
