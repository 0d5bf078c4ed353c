/* Any settings, weights, inputs, labels and rates: the trainer refuses them or steps inside its memory, and in integers
 * nothing overflows and every parameter stays finite.
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -Ic_src tests/fuzz/fuzz_train.c c_src/train.c c_src/dense.c
 *     c_src/fixed.c c_src/loss.c c_src/optimise.c c_src/common.c */
#include <stdlib.h>
#include <string.h>

#include "td_internal.h"

enum { MAX_WIDTH = 70, MAX_STEPS = 12 };

typedef struct input {
    const uint8_t *bytes;
    size_t size;
} input;

static uint8_t next(input *in)
{
    if (in->size == 0) return 0;
    in->size--;
    return *in->bytes++;
}

/* Any finite f32; half of them of a size that models have. */
static float next_float(input *in)
{
    uint32_t bits = next(in);
    if (bits & 1u) return (float)(int32_t)bits / 64.0f - 2.0f;
    for (int i = 0; i < 3; i++) bits = bits << 8 | next(in);
    if ((bits & 0x7F800000u) == 0x7F800000u) bits ^= 0x40000000u;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A model that is only its tail; *stored holds its weights, scales and biases. */
static void make_model(input *in, td_model *model, uint8_t *stored)
{
    memset(model, 0, sizeof *model);
    model->n_tail = 1u + next(in) % 3u;
    uint16_t width = (uint16_t)(1u + next(in) % MAX_WIDTH);
    model->embedding_size = width;
    for (uint32_t l = 0; l < model->n_tail; l++) {
        td_dense *layer = &model->tail[l];
        layer->n_in = width;
        layer->n_out = width = (uint16_t)(1u + next(in) % MAX_WIDTH);
        layer->activation = next(in) & 1u;
        layer->weights = stored;
        for (uint32_t i = 0; i < (uint32_t)layer->n_in * layer->n_out; i++) *stored++ = (uint8_t)(i * 37u + next(in));
        layer->scales = stored;
        layer->bias = stored + 4u * layer->n_out;
        for (uint32_t i = 0; i < 2u * layer->n_out; i++, stored += 4) {
            float value = next_float(in);
            memcpy(stored, &value, sizeof value);
        }
    }
}

static void make_config(input *in, td_train_config *config)
{
    memset(config, 0, sizeof *config);
    config->learning_rate = next_float(in);
    uint8_t kind = next(in);
    config->precision = kind & 1u;
    config->loss = kind >> 1 & 1u;
    config->keep_best = kind >> 2 & 1u;
    if (kind & 8u) return;
    config->optimizer = next(in) & 3u;
    config->batch = next(in) & 7u;
    config->l2 = next_float(in);
    config->momentum = next_float(in);
    config->beta_2 = next_float(in);
    config->clip_norm = kind & 16u ? next_float(in) : 0.0f;
    config->clip_value = kind & 32u ? next_float(in) : 0.0f;
}

static void run(input *in, td_trainer *trainer, bool fixed)
{
    const td_model *model = trainer->model;
    uint32_t n_out = model->tail[model->n_tail - 1].n_out;
    float x[MAX_WIDTH], targets[MAX_WIDTH], loss;
    for (int i = 0; i < MAX_STEPS && in->size != 0; i++) {
        uint8_t kind = next(in);
        if (kind & 1u) {
            float value = next_float(in), finite = next_float(in);
            trainer->learning_rate = value < 0.0f ? -value : value;
            td_trainer_set(trainer, 0, 1, &finite);
        }
        for (uint32_t j = 0; j < model->embedding_size; j++) x[j] = next_float(in);
        for (uint32_t j = 0; j < n_out; j++) targets[j] = next_float(in);
        if (kind & 2u) td_trainer_step_to(trainer, x, targets, next_float(in), &loss);
        else td_trainer_step(trainer, x, next(in), next_float(in), &loss);
        if (kind & 4u) td_trainer_keep(trainer);
        if (kind & 8u && td_trainer_is_finite(trainer)) td_trainer_restore(trainer);
        if (kind & 16u) td_trainer_flush(trainer);
        if (fixed) {
            for (uint32_t j = 0; j < trainer->n_parameters; j++) {
                float value;
                td_trainer_get(trainer, j, 1, &value);
                if (value - value != 0.0f) abort();
            }
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t stored[3 * (MAX_WIDTH * MAX_WIDTH + 8 * MAX_WIDTH)];
    input in = {data, size};
    td_model model;
    td_train_config config;
    td_trainer trainer;
    make_model(&in, &model, stored);
    make_config(&in, &config);
    uint32_t bytes = td_trainer_size(&model, &config, NULL);
    void *memory = malloc(bytes);
    if (!memory) abort();
    if (td_trainer_init(&trainer, &model, &config, memory, bytes) == TD_OK) {
        run(&in, &trainer, config.precision == TD_PRECISION_FIXED);
    }
    free(memory);
    return 0;
}
