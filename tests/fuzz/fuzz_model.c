/* Any bytes as a .tdm: td_model_open refuses them or td_model_run stays in the arena and the file, and so does a step
 * of training. Checksums are repaired first, else no mutation would get past them. Good seeds are real .tdm files.
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -Ic_src tests/fuzz/fuzz_model.c c_src/model.c c_src/kernels.c
 *     c_src/kernels_f32.c c_src/kernels_int16.c c_src/recurrent.c c_src/elementwise.c c_src/file.c c_src/common.c */
#include <stdlib.h>
#include <string.h>

#include "repair.h"

enum { MAX_ARENA = 1 << 16, MAX_WORK = 1 << 28 };

static void run(const td_model *model)
{
    uint8_t *arena = aligned_alloc(16, model->arena_size + 16u);
    if (!arena) abort();
    memset(arena, 0x5A, model->arena_size + 16u);
    if (td_model_reset(model, arena, model->arena_size) != TD_OK) abort();
    if (td_model_run(model, arena, model->arena_size) != TD_OK) abort();
    for (uint32_t i = 0; i < 16; i++) {
        if (arena[model->arena_size + i] != 0x5A) abort();
    }
    free(arena);
}

/* Weights of any bits may be NaN or infinite: only the memory matters. */
static void train(const td_model *model, uint32_t size)
{
    td_trainer trainer;
    td_train_config config = {.l2 = 0.5f};
    float loss, *x = calloc(model->embedding_size, sizeof *x);
    uint8_t *memory = aligned_alloc(16, (size + 31u) / 16u * 16u);
    if (!x || !memory) abort();
    memset(memory, 0x5A, size + 16u);
    for (uint32_t i = 0; i < model->embedding_size; i++) x[i] = (float)(i % 7u) - 3.0f;
    if (td_trainer_init(&trainer, model, &config, memory, size) != TD_OK) abort();
    td_trainer_step(&trainer, x, 0, 1.0f, &loss);
    for (uint32_t i = 0; i < 16; i++) {
        if (memory[size + i] != 0x5A) abort();
    }
    free(memory);
    free(x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    td_model model;
    uint8_t *bytes = malloc(size ? size : 1);
    if (!bytes || size > UINT32_MAX) abort();
    memcpy(bytes, data, size);
    repair(TD_MAGIC_MODEL, bytes, (uint32_t)size);
    if (td_model_open(&model, bytes, (uint32_t)size) == TD_OK) {
        /* Each output takes at most the file's bytes of work: bounds the time of an absurd but valid model. */
        uint64_t work = (uint64_t)model.n_ops * model.arena_size * size;
        if (model.arena_size <= MAX_ARENA && work <= MAX_WORK) run(&model);
        td_train_config config = {.l2 = 0.5f};
        uint32_t trainer = model.n_tail ? td_trainer_size(&model, &config, NULL) : 0;
        if (trainer && trainer <= MAX_ARENA && model.embedding_size <= MAX_ARENA &&
            (uint64_t)model.n_tail * trainer * size <= MAX_WORK) {
            train(&model, trainer);
        }
    }
    free(bytes);
    return 0;
}
