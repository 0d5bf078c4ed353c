/* The fields of a part's rows: bases, deviations, dictionaries, sums; and what of them a cache keeps. */
#include "parts.h"

/* Fields of a block, one after another. */
typedef struct fields {
    const uint8_t *next;        /* byte */
    uint32_t rest;              /* bits of the byte before it that were not taken yet */
    uint32_t n_rest;
} fields;

static inline fields fields_at(const uint8_t *stream, uint32_t at)
{
    fields in = {stream + (at >> 3), 0, 0};
    if (at & 7u) {
        in.rest = (uint32_t)*in.next++ >> (at & 7u);
        in.n_rest = 8u - (at & 7u);
    }
    return in;
}

static inline uint32_t take_field(fields *in, uint32_t n_bits)
{
    uint32_t field = in->rest;
    for (; in->n_rest < n_bits; in->n_rest += 8u) field |= (uint32_t)*in->next++ << in->n_rest;
    in->n_rest -= n_bits;
    if (n_bits <= 24) { /* all that was read is still there */
        in->rest = field >> n_bits;
        return field & (((uint32_t)1 << n_bits) - 1u);
    }
    in->rest = (uint32_t)in->next[-1] >> (8u - in->n_rest);
    return field & td_low_mask(n_bits);
}

/* The shape of a feature: its deviation bits; SCATTERED when they are not just its lowest. */
enum { SCATTERED = 0x80 };

static uint32_t next_shape(const td_pack *pack, fields *plan)
{
    uint32_t field = take_field(plan, td_part_plan_bits(pack, &pack->part));
    if (!td_part_has(&pack->part, TD_PART_MASKS)) return pack->width - field;
    uint32_t n = pack->width - td_count_bits(field);
    return field & td_low_mask(n) ? n | SCATTERED : n;
}

/* Minimum and offset. */
static uint32_t next_sum(const td_pack *pack, fields *offsets)
{
    return (uint32_t)pack->minimum + (pack->part.offsets ? take_field(offsets, pack->width) : 0u);
}

static fields offsets_of(const td_pack *pack)
{
    return fields_at(pack->part.offsets ? pack->part.offsets : pack->part.plan, 0);
}

/* Joins to what is there of the values (from NULL: nothing) the base's fields, the deviation's, or both. */
static void join(const td_pack *pack, fields *base, fields *deviation, const uint32_t *from, uint32_t *to)
{
    fields plan = fields_at(pack->part.plan, 0);
    for (uint32_t f = 0; f < pack->n_features; f++) {
        uint32_t shape = pack->cached ? td_cached_shapes(pack)[f] : next_shape(pack, &plan);
        uint32_t n_low = shape & ~(uint32_t)SCATTERED, value = from ? from[f] : 0u;
        uint32_t high = base ? take_field(base, pack->width - n_low) : 0u;
        uint32_t low = deviation ? take_field(deviation, n_low) : 0u;
        if (shape & SCATTERED) {
            uint32_t mask = td_part_base_mask(pack, &pack->part, f);
            value |= td_scatter(high, mask) | td_scatter(low, td_low_mask(pack->width) & ~mask);
        } else {
            value |= (n_low < 32 ? high << n_low : 0u) | low;
        }
        to[f] = value;
    }
}

void td_fields_cache(td_pack *pack)
{
    const td_part *part = &pack->part;
    fields plan = fields_at(part->plan, 0), offsets = offsets_of(pack), base = fields_at(part->bases, 0);
    for (uint32_t f = 0; f < pack->n_features; f++) {
        td_cached_values(pack)[f] = 0;
        td_cached_sums(pack)[f] = next_sum(pack, &offsets);
        td_cached_shapes(pack)[f] = (uint8_t)next_shape(pack, &plan);
    }
    bool rest = td_part_row_bits(part) > 0 || part->dictionary || !td_part_has(part, TD_PART_KEYS);
    pack->cached = rest ? TD_CACHED_PART : TD_CACHED_ALL;
    pack->part.spread = 0;
    if (part->id_bits == 0) join(pack, &base, NULL, NULL, td_cached_values(pack));
}

void td_fields_join(const td_pack *pack, uint32_t row, const uint32_t *from, uint32_t *values)
{
    const td_part *part = &pack->part;
    uint32_t at = row * td_part_row_bits(part), base_bits = td_part_base_bits(pack, part);
    fields base = fields_at(part->bases, td_read_bits(part->rows, at, part->id_bits) * base_bits);
    fields deviation = fields_at(part->rows, at + part->id_bits);
    join(pack, part->id_bits || !from ? &base : NULL, &deviation, from, values);
}

void td_fields_finish(const td_pack *pack, const uint32_t *from, uint32_t *values)
{
    const uint8_t *n_entries = pack->part.dictionary, *entries = n_entries ? n_entries + 2u * (size_t)pack->n_features : NULL;
    fields offsets = offsets_of(pack);
    uint32_t first = 0;
    for (uint32_t f = 0; f < pack->n_features; f++) {
        uint32_t value = from[f], n = n_entries ? td_get16(n_entries + 2u * (size_t)f) : 0u;
        if (n > 0) {
            if (value >= n) value = n - 1u;
            value = td_read_bits(entries, (first + value) * pack->width, pack->width);
            first += n;
        }
        values[f] = value + (pack->cached ? td_cached_sums(pack)[f] : next_sum(pack, &offsets));
    }
}
