/* Any bytes as a .tdm: td_model_open refuses them or td_model_run stays in the arena and the file. Checksums are
 * repaired first, else no mutation would get past them. Good seeds are real .tdm files.
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -Ic_src tests/fuzz/fuzz_model.c c_src/model.c c_src/kernels.c
 *     c_src/file.c c_src/common.c */
#include <stdlib.h>
#include <string.h>

#include "td_internal.h"

enum { MAX_ARENA = 1 << 16, MAX_WORK = 1 << 28 };

static void repair(uint8_t *bytes, uint32_t size)
{
    if (size < TD_FILE_HEADER) return;
    td_put32(bytes, TD_MAGIC_MODEL);
    uint32_t n = td_get16(bytes + 6);
    if (n > TD_FILE_MAX_SECTIONS || TD_FILE_HEADER + TD_FILE_ENTRY * n > size) return;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *entry = bytes + TD_FILE_HEADER + TD_FILE_ENTRY * i;
        uint32_t offset = td_get32(entry + 4), length = td_get32(entry + 8);
        if (offset <= size && length <= size - offset) td_put32(entry + 12, td_crc32(0, bytes + offset, length));
    }
    uint32_t crc = td_crc32(0, bytes, 12);
    td_put32(bytes + 12, td_crc32(crc, bytes + TD_FILE_HEADER, TD_FILE_ENTRY * (size_t)n));
}

static void run(const td_model *model)
{
    uint8_t *arena = aligned_alloc(16, model->arena_size + 16u);
    if (!arena) abort();
    memset(arena, 0x5A, model->arena_size + 16u);
    if (td_model_run(model, arena, model->arena_size) != TD_OK) abort();
    for (uint32_t i = 0; i < 16; i++) {
        if (arena[model->arena_size + i] != 0x5A) abort();
    }
    free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    td_model model;
    uint8_t *bytes = malloc(size ? size : 1);
    if (!bytes || size > UINT32_MAX) abort();
    memcpy(bytes, data, size);
    repair(bytes, (uint32_t)size);
    if (td_model_open(&model, bytes, (uint32_t)size) == TD_OK) {
        /* Each output takes at most the file's bytes of work: bounds the time of an absurd but valid model. */
        uint64_t work = (uint64_t)model.n_ops * model.arena_size * size;
        if (model.arena_size <= MAX_ARENA && work <= MAX_WORK) run(&model);
    }
    free(bytes);
    return 0;
}
