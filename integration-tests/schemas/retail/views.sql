-- Invoices of a wholesaler, for the tests of real data. Prices are decimals, so all sums of money are exact.

CREATE SOURCE lines WITH (
  schema = 'line.avsc',
  key = 'StockCode',
  event_time = 'InvoiceDate',
  partitions = 4,
  segment_records = 20000
);

CREATE MATERIALIZED VIEW revenue WITH (key = 'Country') AS
SELECT "Country",
       date_bin(INTERVAL '1 day', "InvoiceDate") AS day,
       sum("Quantity" * "UnitPrice") AS revenue,
       sum("Quantity" * "UnitPrice") FILTER (WHERE "InvoiceNo" LIKE 'C%') AS given_back,
       count(DISTINCT "InvoiceNo") AS invoices,
       count(DISTINCT "CustomerID") AS customers,
       count(*) FILTER (WHERE "CustomerID" IS NULL) AS without_customer
FROM lines
GROUP BY "Country", day;

-- What a product is called now: the last description that was given. A stock code is in one partition, its lines in order.
CREATE MATERIALIZED VIEW items WITH (key = 'StockCode') AS
SELECT "StockCode",
       last_value("Description" ORDER BY "InvoiceDate", _offset) FILTER (WHERE "Description" IS NOT NULL) AS description,
       count(*) AS lines,
       sum("Quantity") AS sold,
       min("UnitPrice") AS cheapest,
       max("UnitPrice") AS dearest,
       avg("Quantity") AS mean_quantity,
       approx_distinct("CustomerID") AS customers,
       count(DISTINCT "UnitPrice") AS prices
FROM lines
GROUP BY "StockCode";

CREATE MATERIALIZED VIEW cancellations WITH (key = 'Country') AS
SELECT "Country",
       "StockCode",
       count(*) FILTER (WHERE "InvoiceNo" LIKE 'C%') AS cancelled,
       CAST(count(*) FILTER (WHERE "InvoiceNo" LIKE 'C%') AS DOUBLE) / count(*) AS share
FROM lines
GROUP BY "Country", "StockCode"
HAVING count(*) FILTER (WHERE "InvoiceNo" LIKE 'C%') > 0;

-- Tiles of a calendar unit. The customer without a number is one, too.
CREATE MATERIALIZED VIEW customers WITH (key = 'CustomerID') AS
SELECT "CustomerID",
       date_trunc('month', "InvoiceDate") AS month,
       count(DISTINCT "InvoiceNo") AS invoices,
       sum("Quantity" * "UnitPrice") AS spent,
       max("InvoiceDate") AS last_seen
FROM lines
GROUP BY "CustomerID", month;
