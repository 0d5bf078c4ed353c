/* Measures the reader of a pack: instructions to open it, and of its rows in order and at random, without and with a
 * cache; and the deepest stack of these, then that of samples. Prints one line of JSON over the UART.
 * benchmarks/reader.py compiles it, with the pack in bench_data. BENCH_FEATURES: values of a row; BENCH_RANDOM: rows at random; BENCH_SAMPLED: rows whose samples, from the
 * first on, are read. */
#include "bench.h"
#include "td_board.h"

static td_pack pack;
static int32_t row[BENCH_FEATURES];
static float values[BENCH_FEATURES];
static uint32_t cache[(BENCH_FEATURES * 9u + 3u) / 4u];

/* The deepest stack so far below the caller, whatever lies above it. */
__attribute__((noinline)) static uint32_t deepest_stack(uintptr_t caller)
{
    td_memory memory;
    td_port_memory(&memory);
    uintptr_t top = TD_RAM_ORIGIN + memory.stack_reserve, lowest = top - td_port_stack_used();
    return (uint32_t)(caller - lowest);
}

static inline uintptr_t stack_pointer(void)
{
    uintptr_t here;
    __asm volatile("mov %0, sp" : "=r"(here));
    return here;
}

static uint32_t next_row(uint32_t *random)
{
    *random = td_random(*random);
    return (uint32_t)((uint64_t)*random * pack.n_rows >> 32);
}

static void read(uint32_t number)
{
    uint32_t label;
    if (td_pack_row(&pack, number, row, &label) != TD_OK) fail("row");
}

static uint32_t open_pack(void)
{
    uint32_t start = ticks_now();
    if (td_pack_open_rows(&pack, bench_data, (uint32_t)(bench_data_end - bench_data)) != TD_OK) fail("open");
    if (pack.n_features != BENCH_FEATURES) fail("features");
    return ticks_now() - start;
}

static uint32_t read_in_order(void)
{
    uint32_t start = ticks_now();
    for (uint32_t i = 0; i < pack.n_rows; i++) read(i);
    return ticks_now() - start;
}

static uint32_t read_at_random(void)
{
    static volatile uint32_t chosen;
    uint32_t random = 1, start = ticks_now();
    for (uint32_t i = 0; i < BENCH_RANDOM; i++) {
        chosen = next_row(&random);
        read(chosen);
    }
    uint32_t ticks = ticks_now() - start;
    random = 1;
    start = ticks_now(); /* what choosing took does not count */
    for (uint32_t i = 0; i < BENCH_RANDOM; i++) chosen = next_row(&random);
    return ticks - (ticks_now() - start);
}

/* How many rows; *check: of the samples' values, labels and weights. */
static uint32_t read_samples(uint32_t *n_samples, uint32_t *check)
{
    uint32_t done = 0, first, count, label = 0;
    *check = 0;
    for (*n_samples = 0; *n_samples < pack.n_samples && done < BENCH_SAMPLED; done += count, ++*n_samples) {
        float weight = 0.0f;
        if (td_pack_sample(&pack, *n_samples, row, values, &label, &weight) != TD_OK) fail("sample");
        if (td_pack_sample_rows(&pack, *n_samples, &first, &count) != TD_OK) fail("sample's rows");
        *check = td_crc32(*check, (const uint8_t *)values, sizeof values);
        *check = td_crc32(*check, (const uint8_t *)&label, sizeof label);
        *check = td_crc32(*check, (const uint8_t *)&weight, sizeof weight);
    }
    return done;
}

/* Of all rows in order, then of those at random. */
static uint32_t check_rows(void)
{
    uint32_t check = 0, random = 1;
    for (uint32_t i = 0; i < pack.n_rows; i++) {
        read(i);
        check = td_crc32(check, (const uint8_t *)row, sizeof row);
    }
    for (uint32_t i = 0; i < BENCH_RANDOM; i++) {
        read(next_row(&random));
        check = td_crc32(check, (const uint8_t *)row, sizeof row);
    }
    return check;
}

void td_firmware(void)
{
    __asm volatile("cpsid i"); /* the stack of an interrupt is not the reader's */
    uint32_t n_samples, check;
    start_timer();
    uint32_t open = open_pack(), in_order = read_in_order(), at_random = read_at_random();
    if (td_pack_use_cache(&pack, cache, sizeof cache) != TD_OK) fail("cache");
    uint32_t in_order_cached = read_in_order(), at_random_cached = read_at_random();
    uint32_t stack = deepest_stack(stack_pointer()), rows = check_rows();
    if (td_pack_open(&pack, bench_data, (uint32_t)(bench_data_end - bench_data)) != TD_OK) fail("open with samples");
    uint32_t n_sampled = read_samples(&n_samples, &check), stack_samples = deepest_stack(stack_pointer());
    if (check_rows() != rows) fail("rows without a cache");
    put_number("{", "open", instructions(open, 1));
    put_number(", ", "in_order", instructions(in_order, pack.n_rows));
    put_number(", ", "at_random", instructions(at_random, BENCH_RANDOM));
    put_number(", ", "in_order_cached", instructions(in_order_cached, pack.n_rows));
    put_number(", ", "at_random_cached", instructions(at_random_cached, BENCH_RANDOM));
    put_number(", ", "n_sampled", n_sampled);
    put_number(", ", "n_samples", n_samples);
    put_number(", ", "check_samples", check);
    put_number(", ", "check_rows", rows);
    put_number(", ", "reader", sizeof pack);
    put_number(", ", "cache", sizeof cache);
    put_number(", ", "stack", stack);
    put_number(", ", "stack_samples", stack_samples);
    end_line();
}
