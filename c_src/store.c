/* Objects in flash partitions, visible only when whole (docs/SPEC.md, "Store").
 *
 * A partition is head blocks, then data blocks. The head holds the begin record, one mark for each data
 * block, and the commit mark; each is programmed once per erase. The head is erased before any data
 * block changes and the commit mark comes last, so a power cut leaves the old object, or none.
 */
#include "td_internal.h"

enum { RECORD = 32, MAX_UNIT = 16, MIN_BLOCK = 64 };
#define MAGIC 0x31534454u /* "TDS1" */

/* ------------------------------------------------------------- the flash */

static int flash_status(int status)
{
    if (status == TD_OK) return TD_OK;
    return status < 0 ? status : TD_E_FLASH;
}

static bool is_filled(const uint8_t *bytes, uint32_t size, uint8_t value)
{
    for (uint32_t i = 0; i < size; i++) {
        if (bytes[i] != value) return false;
    }
    return true;
}

static int erase_block(const td_flash *flash, uint32_t offset)
{
    int status = flash_status(flash->erase(flash->context, offset));
    if (status != TD_OK) return status;
    return is_filled(flash->base + offset, flash->erase_block, flash->erased) ? TD_OK : TD_E_FLASH;
}

static int program(const td_flash *flash, uint32_t offset, const uint8_t *bytes, uint32_t size)
{
    if (size == 0) return TD_OK;
    int status = flash_status(flash->program(flash->context, offset, bytes, size));
    if (status != TD_OK) return status;
    return memcmp(flash->base + offset, bytes, (size_t)size) == 0 ? TD_OK : TD_E_FLASH;
}

/* Whole units as they are, the last one filled up with erased bytes. */
static int program_padded(const td_flash *flash, uint32_t offset, const uint8_t *bytes, uint32_t size)
{
    uint32_t tail = size & (flash->program_unit - 1), whole = size - tail;
    int status = program(flash, offset, bytes, whole);
    if (status != TD_OK || tail == 0) return status;
    uint8_t unit[MAX_UNIT];
    memset(unit, flash->erased, sizeof unit);
    memcpy(unit, bytes + whole, (size_t)tail);
    return program(flash, offset + whole, unit, flash->program_unit);
}

/* -------------------------------------------------------- one partition */

typedef struct layout {
    uint32_t head;              /* offset of the first head block in the region */
    uint32_t n_head;            /* blocks */
    uint32_t data;              /* offset of the first data block */
    uint32_t n_data;            /* blocks */
} layout;

static uint32_t blocks_for(uint32_t size, uint32_t block)
{
    return size / block + (size % block != 0);
}

static uint32_t head_blocks(const td_flash *flash, uint32_t n_data)
{
    return blocks_for(RECORD + (n_data + 1) * flash->program_unit, flash->erase_block);
}

static layout layout_of(const td_store *store, int object)
{
    const td_flash *flash = &store->flash;
    uint32_t n_blocks = store->partition[object].size / flash->erase_block;
    layout l = {store->partition[object].offset, 0, 0, 0};
    while (l.n_head < n_blocks && l.n_head < head_blocks(flash, n_blocks - l.n_head)) l.n_head++;
    l.n_data = n_blocks - l.n_head;
    l.data = l.head + l.n_head * flash->erase_block;
    return l;
}

static uint32_t mark_at(const td_store *store, const layout *l, uint32_t i)
{
    return l->head + RECORD + i * store->flash.program_unit;
}

/* The commit mark follows the marks of the data blocks: it is mark n_data. */
static bool is_marked(const td_store *store, const layout *l, uint32_t i)
{
    const td_flash *flash = &store->flash;
    return is_filled(flash->base + mark_at(store, l, i), flash->program_unit, (uint8_t)~flash->erased);
}

static int set_mark(const td_store *store, const layout *l, uint32_t i)
{
    uint8_t unit[MAX_UNIT];
    memset(unit, (uint8_t)~store->flash.erased, sizeof unit);
    return program(&store->flash, mark_at(store, l, i), unit, store->flash.program_unit);
}

static void make_record(const td_store *store, int object, uint32_t size, uint32_t crc, uint32_t sequence,
                        uint8_t *record)
{
    td_put32(record, MAGIC);
    td_put16(record + 4, TD_STORE_FORMAT);
    record[6] = (uint8_t)object;
    record[7] = store->flash.program_unit & 0xFFu;
    td_put32(record + 8, size);
    td_put32(record + 12, crc);
    td_put32(record + 16, sequence);
    td_put32(record + 20, store->flash.erase_block);
    td_put32(record + 24, store->partition[object].size);
    td_put32(record + 28, td_crc32(0, record, 28));
}

/* The begin record in flash, or NULL when there is none that this build could have written. */
static const uint8_t *find_record(const td_store *store, int object, const layout *l)
{
    if (l->n_data == 0) return NULL;
    const uint8_t *record = store->flash.base + l->head;
    uint32_t size = td_get32(record + 8);
    uint8_t expected[RECORD];
    make_record(store, object, size, td_get32(record + 12), td_get32(record + 16), expected);
    bool fits = size != 0 && blocks_for(size, store->flash.erase_block) <= l->n_data;
    return fits && memcmp(record, expected, RECORD) == 0 ? record : NULL;
}

/* The block with the record goes first: whatever happens next, there is no object any more. */
static int erase_head(const td_store *store, const layout *l)
{
    for (uint32_t i = 0; i < l->n_head; i++) {
        int status = erase_block(&store->flash, l->head + i * store->flash.erase_block);
        if (status != TD_OK) return status;
    }
    return TD_OK;
}

/* ------------------------------------------------------------ the store */

static bool is_power_of_two(uint32_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

static bool usable(const td_flash *flash)
{
    return flash->base != NULL && flash->erase != NULL && flash->program != NULL &&
           is_power_of_two(flash->erase_block) && flash->erase_block >= MIN_BLOCK &&
           is_power_of_two(flash->program_unit) && flash->program_unit <= MAX_UNIT &&
           (flash->erased == 0xFF || flash->erased == 0x00);
}

static bool is_object(int object)
{
    return object >= 0 && object < TD_N_OBJECTS;
}

int td_store_init(td_store *store, const td_flash *flash, const uint32_t capacity[TD_N_OBJECTS])
{
    if (!usable(flash)) return TD_E_ARGUMENT;
    memset(store, 0, sizeof *store);
    store->flash = *flash;
    store->writing = -1;
    uint32_t n_free = flash->size / flash->erase_block, used = 0;
    for (int i = 0; i < TD_N_OBJECTS; i++) {
        uint32_t n_data = blocks_for(capacity[i], flash->erase_block);
        uint32_t n_blocks = n_data == 0 ? 0 : n_data + head_blocks(flash, n_data);
        if (n_blocks > n_free) return TD_E_FULL;
        store->partition[i].offset = used * flash->erase_block;
        store->partition[i].size = n_blocks * flash->erase_block;
        n_free -= n_blocks;
        used += n_blocks;
    }
    return TD_OK;
}

uint32_t td_store_capacity(const td_store *store, int object)
{
    return is_object(object) ? layout_of(store, object).n_data * store->flash.erase_block : 0;
}

/* Data blocks that are marked done; -1 when the head was left half written or half erased. */
static int32_t count_marks(const td_store *store, const layout *l, uint32_t size)
{
    const td_flash *flash = &store->flash;
    uint32_t n = 0, n_needed = blocks_for(size, flash->erase_block);
    while (n < n_needed && is_marked(store, l, n)) n++;
    uint32_t rest = mark_at(store, l, n), commit = mark_at(store, l, l->n_data);
    bool committed = n == n_needed && is_marked(store, l, l->n_data);
    uint32_t end = committed ? commit : l->data;
    return is_filled(flash->base + rest, end - rest, flash->erased) ? (int32_t)n : -1;
}

static uint32_t data_crc(const td_store *store, const layout *l, uint32_t size)
{
    return td_crc32(0, store->flash.base + l->data, (size_t)size);
}

/* Bytes of this very object that are in flash already; -1 when it must be written anew. */
static int64_t resumable(const td_store *store, const layout *l, const uint8_t *wanted)
{
    if (memcmp(store->flash.base + l->head, wanted, RECORD) != 0) return -1;
    uint32_t size = td_get32(wanted + 8);
    int32_t n = count_marks(store, l, size);
    if (n < 0) return -1;
    if ((uint32_t)n < blocks_for(size, store->flash.erase_block)) return (int64_t)n * (int64_t)store->flash.erase_block;
    return data_crc(store, l, size) == td_get32(wanted + 12) ? (int64_t)size : -1;
}

static int start_anew(const td_store *store, const layout *l, const uint8_t *record)
{
    int status = erase_head(store, l);
    return status != TD_OK ? status : program(&store->flash, l->head, record, RECORD);
}

static bool is_writing(const td_store *store, int object, uint32_t size, uint32_t crc, uint32_t sequence)
{
    return store->writing == object && store->size == size && store->crc == crc && store->sequence == sequence;
}

int td_store_begin(td_store *store, int object, uint32_t size, uint32_t crc, uint32_t sequence, uint32_t *resume_at)
{
    if (!is_object(object) || size == 0) return TD_E_ARGUMENT;
    layout l = layout_of(store, object);
    if (blocks_for(size, store->flash.erase_block) > l.n_data) return TD_E_FULL;
    if (!is_writing(store, object, size, crc, sequence)) {
        uint8_t record[RECORD];
        make_record(store, object, size, crc, sequence, record);
        store->writing = -1;
        int64_t n = resumable(store, &l, record);
        int status = n < 0 ? start_anew(store, &l, record) : TD_OK;
        if (status != TD_OK) return status;
        store->writing = object;
        store->size = size;
        store->crc = crc;
        store->sequence = sequence;
        store->written = n < 0 ? 0 : (uint32_t)n;
    }
    *resume_at = store->written;
    return TD_OK;
}

/* The part of a write that lies in one data block; `size` does not pass the block's end. */
static int write_in_block(td_store *store, const layout *l, const uint8_t *bytes, uint32_t size)
{
    const td_flash *flash = &store->flash;
    uint32_t block = store->written / flash->erase_block;
    int status = TD_OK;
    if (store->written % flash->erase_block == 0) status = erase_block(flash, l->data + block * flash->erase_block);
    if (status == TD_OK) status = program_padded(flash, l->data + store->written, bytes, size);
    if (status != TD_OK) return status;
    store->written += size;
    bool done = store->written % flash->erase_block == 0 || store->written == store->size;
    return done ? set_mark(store, l, block) : TD_OK;
}

int td_store_write(td_store *store, uint32_t offset, const uint8_t *bytes, uint32_t size)
{
    if (store->writing < 0) return TD_E_STATE;
    if (offset > store->size || size > store->size - offset) return TD_E_RANGE;
    if (offset + size <= store->written) return TD_OK;
    if (offset != store->written) return TD_E_STATE;
    if (size % store->flash.program_unit != 0 && offset + size != store->size) return TD_E_ARGUMENT;
    layout l = layout_of(store, (int)store->writing);
    while (size > 0) {
        uint32_t room = store->flash.erase_block - store->written % store->flash.erase_block;
        uint32_t part = size < room ? size : room;
        int status = write_in_block(store, &l, bytes, part);
        if (status != TD_OK) {
            /* Units may be half written: the next begin goes back to the start of this block. */
            store->writing = -1;
            return status;
        }
        bytes += part;
        size -= part;
    }
    return TD_OK;
}

int td_store_commit(td_store *store)
{
    if (store->writing < 0 || store->written != store->size) return TD_E_STATE;
    layout l = layout_of(store, (int)store->writing);
    store->writing = -1;
    if (data_crc(store, &l, store->size) != store->crc) {
        int status = erase_head(store, &l);
        return status != TD_OK ? status : TD_E_CRC;
    }
    return is_marked(store, &l, l.n_data) ? TD_OK : set_mark(store, &l, l.n_data);
}

int td_store_get(const td_store *store, int object, td_section *out, uint32_t *sequence)
{
    if (!is_object(object)) return TD_E_ARGUMENT;
    layout l = layout_of(store, object);
    const uint8_t *record = find_record(store, object, &l);
    if (record == NULL || !is_marked(store, &l, l.n_data)) return TD_E_NOT_FOUND;
    uint32_t size = td_get32(record + 8);
    if (data_crc(store, &l, size) != td_get32(record + 12)) return TD_E_CRC;
    out->kind = (uint32_t)object;
    out->data = store->flash.base + l.data;
    out->size = size;
    if (sequence != NULL) *sequence = td_get32(record + 16);
    return TD_OK;
}

int td_store_erase(td_store *store, int object)
{
    if (!is_object(object)) return TD_E_ARGUMENT;
    if (store->writing == object) store->writing = -1;
    layout l = layout_of(store, object);
    return erase_head(store, &l);
}

int td_store_newest_slot(const td_store *store, td_section *out, uint32_t *sequence)
{
    td_section a, b;
    uint32_t sequence_a = 0, sequence_b = 0;
    bool has_a = td_store_get(store, TD_OBJECT_SLOT_A, &a, &sequence_a) == TD_OK;
    bool has_b = td_store_get(store, TD_OBJECT_SLOT_B, &b, &sequence_b) == TD_OK;
    if (!has_a && !has_b) return TD_E_NOT_FOUND;
    /* Sequence numbers wrap: the newer one is less than half the circle ahead. */
    bool is_b = has_b && (!has_a || (sequence_b - sequence_a) < 0x80000000u);
    *out = is_b ? b : a;
    if (sequence != NULL) *sequence = is_b ? sequence_b : sequence_a;
    return is_b ? TD_OBJECT_SLOT_B : TD_OBJECT_SLOT_A;
}

int td_store_spare_slot(const td_store *store)
{
    td_section newest;
    return td_store_newest_slot(store, &newest, NULL) == TD_OBJECT_SLOT_A ? TD_OBJECT_SLOT_B : TD_OBJECT_SLOT_A;
}
