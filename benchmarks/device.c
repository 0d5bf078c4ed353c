/* Measures one work item on a Cortex-M of an MPS2 under QEMU: instructions and memory, as one line of
 * JSON over the UART. benchmarks/device.py compiles it with the core, startup and port of the firmware, and says by
 * BENCH_* what to do. Steps are BENCH_SAMPLES, with BENCH_BATCH of them an update. */
#include "bench.h"

/* What BENCH_WORK may be: the frozen part, that and the head, the head, a step of SGD. */
#define BENCH_RUN 0
#define BENCH_CLASSIFY 1
#define BENCH_PREDICT 2
#define BENCH_STEP 3

static void report(uint32_t ticks, uint32_t repeats, uint32_t check, uint32_t handed_over)
{
    td_memory memory;
    td_port_memory(&memory);
    put_number("{", "instructions", instructions(ticks, repeats));
    put_number(", ", "check", check);
    put_number(", ", "handed_over", handed_over);
    put_number(", ", "statics", memory.ram_static);
    put_number(", ", "stack", td_port_stack_used());
    end_line();
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
    if (td_model_open(&model, bench_data, (uint32_t)(bench_data_end - bench_data)) != TD_OK) fail("model");
    uint32_t needed = model.arena_size;
#if BENCH_WORK != BENCH_RUN
    needed += td_trainer_size(&model, &config, NULL);
#endif
    if (needed > memory.arena_size) fail("memory");
    measure(&model, memory.arena);
}
