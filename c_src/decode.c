/* Reads rows from a .tdz in place (docs/SPEC.md, ".tdz"). */
#include "archive.h"
#include "parts.h"
#include "transform.h"

/* Row `row` of the part at hand, as it is stored. */
TD_NOINLINE static void read_row(td_pack *pack, uint32_t row, uint32_t *values)
{
    td_part *part = &pack->part;
    uint32_t *from = pack->memory ? td_cached_values(pack) : values;
    if (!part->cached) {
        for (uint32_t f = 0; f < pack->n_features; f++) from[f] = 0;
        part->spread = 0;
    }
    if (part->n_key) td_part_spread(part, row, from);
    td_fields_read(pack, row, from, values);
#if TD_TRANSFORMS
    if (pack->transforms) td_transforms_undo(pack, values);
#endif
}

/* The same when the cache holds all but the key. */
static inline void read_key_row(td_pack *pack, uint32_t row, uint32_t *values)
{
    td_part_spread(&pack->part, row, td_cached_values(pack));
    const uint32_t *from = td_cached_values(pack), *sum = td_cached_sums(pack), *end = sum;
    do *values++ = *from++ + *sum++; /* sums lie behind the values */
    while (from != end);
}

uint32_t td_pack_cache_size(const td_pack *pack)
{
    return (pack->n_features * 9u + 3u) & ~(uint32_t)3u;
}

int td_pack_use_cache(td_pack *pack, void *memory, uint32_t size)
{
    if (memory && size < td_pack_cache_size(pack)) return TD_E_MEMORY;
    if (td_is_archive(pack)) return TD_OK; /* has no use for one */
    pack->memory = memory;
    pack->part.cached = TD_CACHED_NOTHING;
    return TD_OK;
}

#if TD_ARCHIVE
static int read_archived(td_pack *pack, uint32_t row, int32_t *values, uint32_t *label)
{
    if (row >= pack->n_rows) return TD_E_RANGE;
    const uint32_t *stored = td_archive_row(pack, row);
    if (!stored) return TD_E_MEMORY;
    for (uint32_t f = 0; f < pack->n_features; f++) values[f] = (int32_t)(stored[f] + (uint32_t)pack->minimum);
#if TD_IMAGES
    if (pack->image) td_image_inverse(pack->image, values);
#endif
    const uint8_t *record = pack->parts;
    for (; row >= td_get32(record); record += TD_PART_RECORD) row -= td_get32(record);
    if (label) *label = td_get16(record + 8);
    return TD_OK;
}
#endif

/* In both functions that give rows: a call less for each. */
static TD_INLINE int stored_row(td_pack *pack, uint32_t row, int32_t *values, uint32_t *label)
{
#if TD_ARCHIVE
    if (pack->archive) return read_archived(pack, row, values, label);
#endif
    td_part *part = &pack->part;
    if (row - part->first_row >= part->n_rows) {
        int status = td_part_find(pack, row);
        if (status != TD_OK) return status;
    }
    row -= part->first_row;
    if (label) *label = part->label;
    if (pack->part.cached == TD_CACHED_ALL) read_key_row(pack, row, (uint32_t *)values);
    else read_row(pack, row, (uint32_t *)values);
#if TD_IMAGES
    if (pack->image) td_image_inverse(pack->image, values);
#endif
    return TD_OK;
}

int td_pack_stored_row(td_pack *pack, uint32_t row, int32_t *values, uint32_t *label)
{
    return stored_row(pack, row, values, label);
}

int td_pack_row(td_pack *pack, uint32_t row, int32_t *values, uint32_t *label)
{
    if (pack->order && row < pack->n_rows) row = td_pack_position(pack, row);
    return stored_row(pack, row, values, label);
}

int td_pack_rows(td_pack *pack, uint32_t first, uint32_t count, int32_t *values)
{
    if (first > pack->n_rows || count > pack->n_rows - first) return TD_E_RANGE;
    int status = TD_OK;
    for (uint32_t i = 0; status == TD_OK && i < count; i++, values += pack->n_features) {
        status = td_pack_row(pack, first + i, values, NULL);
    }
    return status;
}

