/* Garbage flash under the store: mounting, reading and pushing stay inside the region, and a push always ends with
 * the object that was pushed.
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -Ic_src tests/fuzz/fuzz_store.c c_src/store.c c_src/common.c */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "td.h"

enum { BLOCK = 64, N_BLOCKS = 24, REGION = BLOCK * N_BLOCKS };

typedef struct flash_state {
    uint8_t *bytes;
    uint8_t erased;
    uint8_t used[REGION];       /* programmed since the last erase */
} flash_state;

static void require(int condition)
{
    if (!condition) abort();
}

static int erase(void *context, uint32_t offset)
{
    flash_state *flash = context;
    require(offset % BLOCK == 0 && offset < REGION);
    memset(flash->bytes + offset, flash->erased, BLOCK);
    memset(flash->used + offset, 0, BLOCK);
    return TD_OK;
}

static int program(void *context, uint32_t offset, const uint8_t *bytes, uint32_t size)
{
    flash_state *flash = context;
    require(size > 0 && size <= BLOCK && offset < REGION && offset / BLOCK == (offset + size - 1) / BLOCK);
    for (uint32_t i = 0; i < size; i++) {
        require(flash->used[offset + i] == 0);
        flash->used[offset + i] = 1;
        flash->bytes[offset + i] = bytes[i];
    }
    return TD_OK;
}

static void read_all(const td_store *store, const uint8_t *base)
{
    for (int object = 0; object < TD_N_OBJECTS; object++) {
        td_section out;
        if (td_store_get(store, object, &out, NULL) != TD_OK) continue;
        require(out.size > 0 && out.size <= td_store_capacity(store, object));
        require(out.data >= base && out.data + out.size <= base + REGION);
    }
    td_section newest;
    int slot = td_store_newest_slot(store, &newest, NULL);
    require(slot == TD_E_NOT_FOUND || slot == TD_OBJECT_SLOT_A || slot == TD_OBJECT_SLOT_B);
    require(td_store_spare_slot(store) != slot);
}

/* Makes the record's CRC right, so that the bytes behind it are looked at. */
static void seal(uint8_t *record)
{
    uint32_t crc = td_crc32(0, record, 28);
    for (int i = 0; i < 4; i++) record[28 + i] = (uint8_t)(crc >> 8 * i);
}

/* data: settings (1), object (1), size of the push (1), then the flash. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) return 0;
    uint8_t settings = data[0];
    int object = data[1] % TD_N_OBJECTS;
    flash_state *state = calloc(1, sizeof *state);
    require(state != NULL);
    state->bytes = malloc(REGION);
    require(state->bytes != NULL);
    state->erased = settings & 1u ? 0xFF : 0x00;
    memset(state->bytes, state->erased, REGION);
    memcpy(state->bytes, data + 3, size - 3 < REGION ? size - 3 : REGION);

    td_flash flash = {state->bytes, REGION, BLOCK, 1u << (settings >> 1) % 5, state->erased, erase, program, state};
    const uint32_t capacity[TD_N_OBJECTS] = {200, 200, 100, 64, 64};
    td_store store;
    require(td_store_init(&store, &flash, capacity) == TD_OK);
    if (settings & 0x80u) {
        for (int i = 0; i < TD_N_OBJECTS; i++) seal(state->bytes + store.partition[i].offset);
    }
    read_all(&store, state->bytes);

    uint8_t bytes[256];
    uint32_t room = td_store_capacity(&store, object), n = 1u + data[2] % room, at = 0;
    for (uint32_t i = 0; i < n; i++) bytes[i] = (uint8_t)(i * 7u + data[2]);
    /* Garbage counts as programmed, except where it happens to be erased. */
    for (uint32_t i = 0; i < REGION; i++) state->used[i] = state->bytes[i] != state->erased;
    require(td_store_begin(&store, object, n, td_crc32(0, bytes, n), data[1], &at) == TD_OK);
    require(at <= n);
    require(td_store_write(&store, at, bytes + at, n - at) == TD_OK);
    int status = td_store_commit(&store);
    if (status == TD_E_CRC) { /* marks that lied about the data: dropped, and the second push starts anew */
        require(td_store_begin(&store, object, n, td_crc32(0, bytes, n), data[1], &at) == TD_OK && at == 0);
        require(td_store_write(&store, 0, bytes, n) == TD_OK);
        status = td_store_commit(&store);
    }
    require(status == TD_OK);
    td_section out;
    require(td_store_get(&store, object, &out, NULL) == TD_OK && out.size == n && memcmp(out.data, bytes, n) == 0);
    read_all(&store, state->bytes);
    free(state->bytes);
    free(state);
    return 0;
}
