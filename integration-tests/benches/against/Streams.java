import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.BuiltInDslStoreSuppliers.InMemoryDslStoreSuppliers;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;

/** Count and sum for each page, by Kafka Streams. Arguments: brokers, topic, path of the .avsc, events to expect. */
public final class Streams {
    /** What is known of a page. */
    record Total(long count, long bytes) {}

    private static final Serde<Total> TOTALS = Serdes.serdeFrom(
        (topic, total) -> total == null ? null : ByteBuffer.allocate(16).putLong(total.count).putLong(total.bytes).array(),
        (topic, bytes) -> bytes == null ? null : new Total(ByteBuffer.wrap(bytes).getLong(0), ByteBuffer.wrap(bytes).getLong(8)));

    /** Makes each click the least that the counts need: this is what goes through the repartition topic. */
    private static final class ByPage extends ContextualProcessor<byte[], byte[], Bytes, Long> {
        private final Clicks clicks;

        ByPage(String avsc) {
            clicks = new Clicks(avsc);
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            Measure.begin();
            if (clicks.read(record.value())) {
                // A copy: the buffer of the next url is this one's.
                Bytes url = Bytes.wrap(Arrays.copyOf(clicks.url().getBytes(), clicks.url().getByteLength()));
                context().forward(new Record<>(url, clicks.bytes(), record.timestamp()));
            }
        }
    }

    public static void main(String[] args) throws Exception {
        String brokers = args[0], topic = args[1], avsc = args[2];
        long expected = Long.parseLong(args[3]);
        // A name of its own for each run: it starts from nothing, and another one's topics are left alone.
        String name = "against-streams-" + System.currentTimeMillis();

        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(topic, Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
            .process(() -> new ByPage(avsc))
            .groupByKey(Grouped.with("by-page", Serdes.Bytes(), Serdes.Long()))
            .aggregate(() -> new Total(0, 0), (url, bytes, total) -> {
                // Counted here and not downstream: there a count comes only with the next commit.
                Measure.counted.increment();
                return new Total(total.count + 1, total.bytes + bytes);
            }, Materialized.<Bytes, Total, KeyValueStore<Bytes, byte[]>>as("totals").withKeySerde(Serdes.Bytes()).withValueSerde(TOTALS));

        KafkaStreams streams = new KafkaStreams(builder.build(), settings(brokers, name));
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return null;
        });
        streams.start();
        Measure.await(expected);
        long events = 0, pages = 0, bytes = 0;
        // The result is what the store holds.
        try (var totals = streams.store(StoreQueryParameters.fromNameAndType("totals", QueryableStoreTypes.<Bytes, Total>keyValueStore())).all()) {
            while (totals.hasNext()) {
                Total total = totals.next().value;
                events += total.count;
                pages += 1;
                bytes += total.bytes;
            }
        }
        // The last commit, which writes what the cache still holds to the store and to its changelog.
        streams.close();
        Measure.print(events, pages, bytes);
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
            admin.deleteTopics(List.of(name + "-by-page-repartition", name + "-totals-changelog")).all().get();
        }
    }

    private static Properties settings(String brokers, String name) throws Exception {
        Properties set = new Properties();
        set.put(StreamsConfig.APPLICATION_ID_CONFIG, name);
        set.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
        set.put(StreamsConfig.STATE_DIR_CONFIG, Files.createTempDirectory("against-streams").toString());
        set.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        // The cache holds every page, so that the store and the changelog see one change a page and commit, and not one an event.
        set.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64 << 20);
        if ("memory".equals(System.getProperty("store"))) {
            set.put(StreamsConfig.DSL_STORE_SUPPLIERS_CLASS_CONFIG, InMemoryDslStoreSuppliers.class);
        }
        // Fewer, larger requests in both directions.
        set.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
        set.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        set.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
        set.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 4 << 20);
        set.put(StreamsConfig.consumerPrefix(ConsumerConfig.FETCH_MIN_BYTES_CONFIG), 64 << 10);
        set.put(StreamsConfig.consumerPrefix(ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG), 50);
        set.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
        set.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 << 10);
        set.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 100);
        return set;
    }
}
