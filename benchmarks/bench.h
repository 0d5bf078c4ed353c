/* What the measured programs share: a timer that counts instructions, and one line of JSON over the UART. QEMU counts an
 * instruction as 1 ns with -icount shift=0. */
#ifndef BENCH_H
#define BENCH_H

#include <string.h>

#include "td_internal.h"
#include "td_port.h"

extern const uint8_t bench_data[], bench_data_end[];

static inline void put(const char *text)
{
    td_port_write((const uint8_t *)text, (uint32_t)strlen(text));
}

/* The first name of a line has "{" before it, the others ", ". */
static inline void put_number(const char *before, const char *name, uint32_t value)
{
    char digits[11];
    uint32_t at = sizeof digits - 1;
    digits[at] = '\0';
    do {
        digits[--at] = (char)('0' + value % 10u);
        value /= 10u;
    } while (value != 0);
    put(before);
    put("\"");
    put(name);
    put("\": ");
    put(digits + at);
}

static inline void end_line(void)
{
    put("}\n");
    for (;;) {
    }
}

static inline void fail(const char *what)
{
    put("{\"error\": \"");
    put(what);
    put("\"");
    end_line();
}

#ifdef BENCH_SYSTICK
/* The firmware's counter, at 32 MHz: 31.25 instructions a tick, and some more for its interrupt every 2^18. */
#define QUARTERS_PER_TICK 125u

static inline void start_timer(void)
{
}

static inline uint32_t ticks_now(void)
{
    return (uint32_t)td_port_ticks();
}
#else
/* A timer of the MPS2 at 25 MHz: 40 instructions a tick. */
#define CMSDK_TIMER 0x40000000u
#define REG(offset) (*(volatile uint32_t *)(uintptr_t)(CMSDK_TIMER + (offset)))
#define QUARTERS_PER_TICK 160u

static inline void start_timer(void)
{
    REG(8) = 0xFFFFFFFFu; /* reload */
    REG(4) = 0xFFFFFFFFu;
    REG(0) = 1;
}

static inline uint32_t ticks_now(void)
{
    return 0xFFFFFFFFu - REG(4);
}
#endif

/* Of one of `repeats`. */
static inline uint32_t instructions(uint32_t ticks, uint32_t repeats)
{
    return (uint32_t)((uint64_t)ticks * QUARTERS_PER_TICK / 4u / repeats);
}

#endif /* BENCH_H */
