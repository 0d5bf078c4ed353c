/* Measures one work item on a Cortex-M of an MPS2 under QEMU: instructions and memory, as one line of
 * JSON over the UART. benchmarks/device.py compiles it with the core, startup and port of the firmware, and says by
 * BENCH_* what to do. Steps are BENCH_SAMPLES, with BENCH_BATCH of them an update. */
#include <string.h>

#include "td_internal.h"
#include "td_port.h"

#define CMSDK_TIMER 0x40000000u
#define REG(offset) (*(volatile uint32_t *)(uintptr_t)(CMSDK_TIMER + (offset)))
/* QEMU counts an instruction as 1 ns with -icount shift=0; the timer runs at 25 MHz. */
#define INSTRUCTIONS_PER_TICK 40u

/* What BENCH_WORK may be: the frozen part, that and the head, the head, a step of SGD. */
#define BENCH_RUN 0
#define BENCH_CLASSIFY 1
#define BENCH_PREDICT 2
#define BENCH_STEP 3

extern const uint8_t bench_model[], bench_model_end[];

static void put(const char *text)
{
    td_port_write((const uint8_t *)text, (uint32_t)strlen(text));
}

static void put_number(const char *name, uint32_t value)
{
    char digits[11];
    uint32_t at = sizeof digits - 1;
    digits[at] = '\0';
    do {
        digits[--at] = (char)('0' + value % 10u);
        value /= 10u;
    } while (value != 0);
    put("\"");
    put(name);
    put("\": ");
    put(digits + at);
}

static void fail(const char *what)
{
    put("{\"error\": \"");
    put(what);
    put("\"}\n");
    for (;;) {
    }
}

static void report(uint32_t ticks, uint32_t repeats, uint32_t check, uint32_t handed_over)
{
    td_memory memory;
    td_port_memory(&memory);
    put("{");
    put_number("instructions", (uint32_t)((uint64_t)ticks * INSTRUCTIONS_PER_TICK / repeats));
    put(", ");
    put_number("check", check);
    put(", ");
    put_number("handed_over", handed_over);
    put(", ");
    put_number("statics", memory.ram_static);
    put(", ");
    put_number("stack", td_port_stack_used());
    put("}\n");
    for (;;) {
    }
}

static void start_timer(void)
{
    REG(8) = 0xFFFFFFFFu; /* reload */
    REG(4) = 0xFFFFFFFFu;
    REG(0) = 1;
}

static uint32_t ticks_now(void)
{
    return 0xFFFFFFFFu - REG(4);
}

/* The same values on every machine, in -1..1. */
#if BENCH_WORK == BENCH_PREDICT || BENCH_WORK == BENCH_STEP
static uint32_t fill(float *x, uint32_t n, uint32_t random)
{
    for (uint32_t i = 0; i < n; i++) {
        random = td_random(random);
        x[i] = (float)(int32_t)(random >> 16) * (1.0f / 32768.0f) - 1.0f;
    }
    return random;
}
#endif

#if BENCH_WORK != BENCH_RUN
static const td_train_config config = {.learning_rate = 0.01f,
                                       .batch = BENCH_BATCH,
                                       .optimizer = BENCH_OPTIMIZER,
                                       .precision = BENCH_PRECISION};

static void open_trainer(td_trainer *trainer, const td_model *model, void *memory)
{
    if (td_trainer_init(trainer, model, &config, memory, td_trainer_size(model, &config, NULL)) != TD_OK) {
        fail("trainer");
    }
}
#endif

#if BENCH_WORK == BENCH_RUN || BENCH_WORK == BENCH_CLASSIFY
static void measure(const td_model *model, uint8_t *arena)
{
    uint32_t random = 1, size = model->arena_size;
    for (uint32_t i = 0; i < model->input_size; i++) {
        random = td_random(random);
        arena[model->input_offset + i] = (uint8_t)(random >> 24);
    }
#if BENCH_WORK == BENCH_CLASSIFY
    static float x[BENCH_INPUTS];
    td_trainer trainer;
    open_trainer(&trainer, model, arena + size);
    size += td_trainer_size(model, &config, NULL);
#endif
    uint32_t start = ticks_now();
    if (td_model_run(model, arena, model->arena_size) != TD_OK) fail("run");
#if BENCH_WORK == BENCH_CLASSIFY
    float loss;
    for (uint32_t i = 0; i < BENCH_INPUTS; i++) {
        int32_t value = (int8_t)arena[model->embedding_offset + i];
        x[i] = model->embedding_scale * (float)(value - model->embedding_zero_point);
    }
    if (td_trainer_predict(&trainer, x, 0, &loss) < 0) fail("predict");
#endif
    uint32_t ticks = ticks_now() - start;
    report(ticks, 1, td_crc32(0, arena + model->embedding_offset, model->embedding_size), size);
}
#else
static void measure(const td_model *model, uint8_t *arena)
{
    static float x[BENCH_INPUTS];
    td_trainer trainer;
    open_trainer(&trainer, model, arena);
    float loss = 0.0f;
    uint32_t random = 1, start = ticks_now();
    for (uint32_t i = 0; i < BENCH_SAMPLES; i++) {
        random = fill(x, BENCH_INPUTS, random);
#if BENCH_WORK == BENCH_STEP
        td_trainer_step(&trainer, x, i % BENCH_CLASSES, 1.0f, &loss);
#else
        td_trainer_predict(&trainer, x, 0, NULL);
#endif
    }
    uint32_t ticks = ticks_now() - start;
    (void)loss;
    start = ticks_now(); /* what making the inputs took does not count */
    for (uint32_t i = 0; i < BENCH_SAMPLES; i++) random = fill(x, BENCH_INPUTS, random);
    ticks -= ticks_now() - start;
    report(ticks, BENCH_SAMPLES, td_crc32(0, (const uint8_t *)trainer.parameters, trainer.n_parameters * 4u),
           td_trainer_size(model, &config, NULL));
}
#endif

void td_firmware(void)
{
    td_memory memory;
    td_model model;
    td_port_memory(&memory);
    start_timer();
    if (td_model_open(&model, bench_model, (uint32_t)(bench_model_end - bench_model)) != TD_OK) fail("model");
    uint32_t needed = model.arena_size;
#if BENCH_WORK != BENCH_RUN
    needed += td_trainer_size(&model, &config, NULL);
#endif
    if (needed > memory.arena_size) fail("memory");
    measure(&model, memory.arena);
}
