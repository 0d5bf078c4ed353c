/* The fields of a part's rows: bases, deviations, dictionaries, sums; and what of them a cache keeps. */
#include "parts.h"

/* Inlined unless size counts: the trainer reads without a cache. */
#ifdef __OPTIMIZE_SIZE__
#define QUICK static
#else
#define QUICK static TD_INLINE
#endif

/* Fields of a stream, taken one after another. */
typedef struct fields {
    const uint8_t *stream;
    uint32_t at;                /* bit */
} fields;

QUICK uint32_t take(fields *in, uint32_t n_bits)
{
    uint32_t at = in->at;
    in->at = at + n_bits;
    return td_quick_field(in->stream, at, n_bits);
}

/* The shape of a feature: its deviation bits; SCATTERED when they are not just its lowest. */
enum { SCATTERED = 0x80 };

QUICK uint32_t next_shape(const td_pack *pack, fields *plan)
{
    uint32_t field = take(plan, td_part_plan_bits(pack, &pack->part));
    if (!td_part_has(&pack->part, TD_PART_MASKS)) return pack->width - field;
    uint32_t n = pack->width - td_quick_ones(field);
    return field & td_low_mask(n) ? n | SCATTERED : n;
}

/* The bits of a feature's next field, of the base or of the deviation, where they belong. */
QUICK uint32_t next_bits(const td_pack *pack, uint32_t feature, uint32_t shape, fields *in, bool base)
{
    uint32_t n_low = shape & ~(uint32_t)SCATTERED, width = pack->width;
    uint32_t field = take(in, base ? width - n_low : n_low);
    if (shape & SCATTERED) {
        uint32_t mask = td_field(pack->part.plan, feature * width, width);
        return td_scatter(field, base ? mask : td_low_mask(width) & ~mask);
    }
    return base && field ? field << n_low : field;
}

/* Minimum and offset. */
QUICK uint32_t next_sum(const td_pack *pack, fields *offsets)
{
    return (uint32_t)pack->minimum + (offsets->stream ? take(offsets, pack->width) : 0u);
}

bool td_fields_check(const td_pack *pack)
{
    const td_part *part = &pack->part;
    fields plan = {part->plan, 0};
    uint32_t width = pack->width, base_bits = td_part_base_bits(pack, part);
    for (uint32_t f = 0; f < pack->n_features; f++) {
        uint32_t n_low = next_shape(pack, &plan) & ~(uint32_t)SCATTERED;
        if (n_low > width) return false;
        base_bits -= width - n_low;
    }
    for (uint32_t b = 0; b < part->n_key; b++) {
        uint32_t name = td_part_name(part, b);
        if (name >> part->bit_bits >= pack->n_features || (name & td_part_bit_mask(part)) >= width) return false;
    }
    return base_bits == 0;
}

/* The cache has what each row of the part begins with. */
static void now_cached(td_pack *pack)
{
    td_part *part = &pack->part;
    bool rest = part->row_bits > 0 || part->dictionary || part->n_key == 0 || td_is_transformed(pack);
    part->cached = rest ? TD_CACHED_PART : TD_CACHED_ALL;
}

/* Number `value` of the list of entries at bit *first, of `size`; *first: where the next feature's are then. */
static uint32_t entry(const td_pack *pack, uint32_t value, uint32_t size, uint32_t *first)
{
    uint32_t width = pack->width, at = *first;
    *first = at + size * width;
    return td_field(pack->part.dictionary, at + (value < size ? value : size - 1u) * width, width);
}

void td_fields_read(td_pack *pack, uint32_t row, uint32_t *from, uint32_t *values)
{
    const td_part *part = &pack->part;
    uint32_t first = 16u * pack->n_features; /* bit at which the feature's entries start, behind the sizes */
    bool cached = part->cached != TD_CACHED_NOTHING, base = part->id_bits || !cached, fill = !cached && pack->memory;
    fields deviation = {part->rows, row * part->row_bits}, plan = {part->plan, 0}, offsets = {part->offsets, 0};
    fields bases = {part->bases, take(&deviation, part->id_bits) * td_part_base_bits(pack, part)};
    for (uint32_t f = 0; f < pack->n_features; f++) {
        uint32_t shape = cached ? td_cached_shapes(pack)[f] : next_shape(pack, &plan), value = from[f];
        uint32_t sum = cached ? td_cached_sums(pack)[f] : next_sum(pack, &offsets);
        if (base) value ^= next_bits(pack, f, shape, &bases, true);
        if (fill) {
            if (!part->id_bits) from[f] = value;
            td_cached_sums(pack)[f] = sum;
            td_cached_shapes(pack)[f] = (uint8_t)shape;
        }
        if (shape) value ^= next_bits(pack, f, shape, &deviation, false);
        uint32_t n = part->dictionary ? td_get16(part->dictionary + 2u * (size_t)f) : 0u;
        if (n > 0) value = entry(pack, value, n, &first);
        values[f] = value + sum;
    }
    if (fill) now_cached(pack);
}
