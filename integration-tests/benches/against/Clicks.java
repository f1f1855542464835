import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.util.Utf8;

/** Decodes clicks, one after the other. What it hands out is overwritten by the next click: one instance for each thread. */
final class Clicks {
    /** The zero byte and the schema id that a registry's clients put before the datum. */
    private static final int HEAD = 5;

    private final GenericDatumReader<GenericRecord> reader;
    private BinaryDecoder decoder;
    private GenericRecord click;

    /** The reader's schema has two fields of the writer's: the others are stepped over, and not made into objects. */
    Clicks(String avsc) {
        try {
            Schema written = new Schema.Parser().parse(Path.of(avsc).toFile());
            List<Schema.Field> wanted = List.of(copy(written, "url"), copy(written, "bytes"));
            Schema read = Schema.createRecord(written.getName(), null, written.getNamespace(), false, wanted);
            reader = new GenericDatumReader<>(written, read);
        } catch (IOException e) {
            throw new IllegalArgumentException(avsc, e);
        }
    }

    private static Schema.Field copy(Schema from, String name) {
        return new Schema.Field(from.getField(name), from.getField(name).schema());
    }

    /** Whether the record is a click, and no marker and no tombstone; then it is what `url` and `bytes` tell of. */
    boolean read(byte[] value) {
        if (value == null) {
            return false;
        }
        try {
            decoder = DecoderFactory.get().binaryDecoder(value, HEAD, value.length - HEAD, decoder);
            click = reader.read(click, decoder);
            return true;
        } catch (IOException e) {
            throw new IllegalArgumentException("not a click", e);
        }
    }

    /** Its UTF-8 as it came: neither engine needs it as a string of Java's. */
    Utf8 url() {
        return (Utf8) click.get(0);
    }

    long bytes() {
        return (Long) click.get(1);
    }
}
