import java.nio.file.Files;
import java.util.Map;
import java.util.concurrent.atomic.LongAdder;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.binary.BinaryStringData;
import org.apache.flink.table.runtime.typeutils.InternalTypeInfo;
import org.apache.flink.table.types.logical.BigIntType;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.table.types.logical.RowType;
import org.apache.flink.table.types.logical.VarCharType;
import org.apache.flink.types.Row;
import org.apache.flink.types.RowKind;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/** Count and sum for each page, by Flink's SQL. Arguments: brokers, topic, path of the .avsc, events to expect. */
public final class Flink {
    private static final LongAdder pages = new LongAdder();
    private static final LongAdder bytes = new LongAdder();

    /** Makes a click a row of the form that SQL computes on, so that nothing is converted after it. */
    private static final class ToRow implements KafkaRecordDeserializationSchema<RowData> {
        private final String avsc;
        private transient Clicks clicks;
        private transient GenericRowData row;

        ToRow(String avsc) {
            this.avsc = avsc;
        }

        @Override
        public void open(DeserializationSchema.InitializationContext context) {
            clicks = new Clicks(avsc);
            row = new GenericRowData(2);
        }

        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<RowData> out) {
            Measure.begin();
            if (clicks.read(record.value())) {
                // No copy: with object reuse, whoever keeps a row copies what it keeps.
                StringData url = BinaryStringData.fromBytes(clicks.url().getBytes(), 0, clicks.url().getByteLength());
                row.setField(0, url);
                row.setField(1, clicks.bytes());
                out.collect(row);
            }
        }

        @Override
        public TypeInformation<RowData> getProducedType() {
            LogicalType[] types = {new VarCharType(false, VarCharType.MAX_LENGTH), new BigIntType(false)};
            return InternalTypeInfo.of(RowType.of(types, new String[] {"url", "bytes"}));
        }
    }

    /** Keeps nothing of a change but what it adds to the sums over all pages. */
    private static final class Sums implements Sink<Row> {
        @Override
        public SinkWriter<Row> createWriter(WriterInitContext context) {
            return new SinkWriter<>() {
                private Row before;

                @Override
                public void write(Row row, Context context) {
                    if (row.getKind() == RowKind.UPDATE_BEFORE) {
                        // Taken off together with what replaces it, so that the sums only ever grow.
                        before = row;
                        return;
                    }
                    if (row.getKind() == RowKind.INSERT) {
                        pages.increment();
                    }
                    bytes.add(row.<Long>getFieldAs(2) - (before == null ? 0 : before.<Long>getFieldAs(2)));
                    Measure.counted.add(row.<Long>getFieldAs(1) - (before == null ? 0 : before.<Long>getFieldAs(1)));
                    before = null;
                }

                @Override
                public void flush(boolean end) {}

                @Override
                public void close() {}
            };
        }
    }

    public static void main(String[] args) throws Exception {
        String brokers = args[0], topic = args[1], avsc = args[2];
        long expected = Long.parseLong(args[3]);
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(2, settings());
        KafkaSource<RowData> source = KafkaSource.<RowData>builder()
            .setBootstrapServers(brokers).setTopics(topic).setGroupId("against-flink")
            .setStartingOffsets(OffsetsInitializer.earliest()).setDeserializer(new ToRow(avsc))
            // Fewer, larger requests.
            .setProperty("max.poll.records", "10000")
            .setProperty("max.partition.fetch.bytes", String.valueOf(4 << 20))
            .setProperty("fetch.min.bytes", String.valueOf(64 << 10)).setProperty("fetch.max.wait.ms", "50")
            .build();
        StreamTableEnvironment tables = StreamTableEnvironment.create(env);
        tables.createTemporaryView("clicks", tables.fromDataStream(env.fromSource(source, WatermarkStrategy.noWatermarks(), "clicks")));
        tables.toChangelogStream(tables.sqlQuery("SELECT url, COUNT(*), SUM(`bytes`) FROM clicks GROUP BY url")).sinkTo(new Sums());
        env.executeAsync().getJobExecutionResult().whenComplete((result, error) -> {
            if (error != null) {
                error.printStackTrace();
                Runtime.getRuntime().halt(1);
            }
        });
        Measure.await(expected);
        Measure.print(Measure.counted.sum(), pages.sum(), bytes.sum());
        // The job has no end of its own.
        Runtime.getRuntime().halt(0);
    }

    private static Configuration settings() throws Exception {
        return Configuration.fromMap(Map.of(
            "pipeline.object-reuse", "true",
            "execution.checkpointing.interval", "10s",
            "execution.checkpointing.dir", Files.createTempDirectory("against-flink").toUri().toString(),
            "state.backend.type", System.getProperty("state", "hashmap"),
            // A second try would count twice here.
            "restart-strategy.type", "none",
            // Each half adds up what comes in two seconds before it sends a page on: less traffic and less state touched.
            "table.exec.mini-batch.enabled", "true",
            "table.exec.mini-batch.allow-latency", "2s",
            "table.exec.mini-batch.size", "1000000",
            "table.optimizer.agg-phase-strategy", "TWO_PHASE"));
    }
}
