import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.LongAdder;

/** What a run cost. Static, since both engines make their operators themselves, in this process. */
final class Measure {
    /** The sum of the counts of all pages: each thread adds to a cell of its own, so that counting costs next to nothing. */
    static final LongAdder counted = new LongAdder();

    private static final OperatingSystemMXBean process = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    private static final AtomicBoolean begun = new AtomicBoolean();
    private static volatile long beganAt, cpuBefore;
    private static long endedAt, cpuAfter;

    private Measure() {}

    /** Called before each record is processed: the first call starts the clock, the others only read a flag. */
    static void begin() {
        if (!begun.get() && begun.compareAndSet(false, true)) {
            cpuBefore = process.getProcessCpuTime();
            beganAt = System.nanoTime();
        }
    }

    /** Waits until so many events are in the counts. It looks now and then, so that the engine need not tell. */
    static void await(long events) throws InterruptedException {
        while (counted.sum() < events) {
            Thread.sleep(5);
        }
        endedAt = System.nanoTime();
        cpuAfter = process.getProcessCpuTime();
    }

    /** Prints the line of JSON. "Whole" is from the start of the virtual machine to this very call. */
    static void print(long events, long pages, long bytes) {
        System.out.printf(java.util.Locale.ROOT,
            "{\"events\":%d,\"pages\":%d,\"bytes\":%d,\"seconds\":%.3f,\"cpu_seconds\":%.3f,"
                + "\"cpu_seconds_whole\":%.3f,\"seconds_whole\":%.3f}%n",
            events, pages, bytes, (endedAt - beganAt) / 1e9, (cpuAfter - cpuBefore) / 1e9,
            process.getProcessCpuTime() / 1e9, ManagementFactory.getRuntimeMXBean().getUptime() / 1e3);
    }
}
