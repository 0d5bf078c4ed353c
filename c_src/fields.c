/* The fields of a part's rows: bases, deviations, dictionaries, sums; and what of them a cache keeps. */
#include "parts.h"

#ifdef __OPTIMIZE_SIZE__ /* one copy must do */
#define take td_take
#define QUICK static
#else
#define QUICK static TD_INLINE
/* td_take and what uses it, inlined: the trainer reads without a cache. */
QUICK uint32_t take(td_fields *in, uint32_t n_bits)
{
    uint32_t at = in->at;
    in->at = at + n_bits;
    return td_read_bits(in->stream, at, n_bits);
}
#endif

/* The shape of a feature: its deviation bits; SCATTERED when they are not just its lowest. */
enum { SCATTERED = 0x80 };

QUICK uint32_t next_shape(const td_pack *pack, td_fields *plan)
{
    uint32_t field = take(plan, td_part_plan_bits(pack, &pack->part));
    if (!td_part_has(&pack->part, TD_PART_MASKS)) return pack->width - field;
    uint32_t n = pack->width - td_ones(field);
    return field & td_low_mask(n) ? n | SCATTERED : n;
}

/* The bits of a feature's next field, of the base or of the deviation, where they belong. */
QUICK uint32_t next_bits(const td_pack *pack, uint32_t feature, uint32_t shape, td_fields *in, bool base)
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
static uint32_t next_sum(const td_pack *pack, td_fields *offsets)
{
    return (uint32_t)pack->minimum + (offsets->stream ? take(offsets, pack->width) : 0u);
}

void td_fields_cache(td_pack *pack)
{
    td_part *part = &pack->part;
    td_fields plan = {part->plan, 0}, offsets = {part->offsets, 0}, base = {part->bases, 0};
    for (uint32_t f = 0; f < pack->n_features; f++) {
        uint32_t shape = next_shape(pack, &plan);
        td_cached_values(pack)[f] = part->id_bits ? 0u : next_bits(pack, f, shape, &base, true);
        td_cached_sums(pack)[f] = next_sum(pack, &offsets);
        td_cached_shapes(pack)[f] = (uint8_t)shape;
    }
    bool rest = td_part_row_bits(part) > 0 || part->dictionary || !td_part_has(part, TD_PART_KEYS) || pack->n_transforms;
    pack->part.cached = rest ? TD_CACHED_PART : TD_CACHED_ALL;
    part->spread = 0;
}

void td_fields_read(const td_pack *pack, uint32_t row, const uint32_t *from, uint32_t *values)
{
    const td_part *part = &pack->part;
    const uint8_t *sizes = part->dictionary;
    uint32_t first = 16u * pack->n_features; /* bit at which the feature's entries start, behind the sizes */
    bool cached = pack->part.cached != TD_CACHED_NOTHING, base = part->id_bits || !cached;
    td_fields deviation = {part->rows, row * td_part_row_bits(part)}, plan = {part->plan, 0}, offsets = {part->offsets, 0};
    td_fields bases = {part->bases, take(&deviation, part->id_bits) * td_part_base_bits(pack, part)};
    for (uint32_t f = 0; f < pack->n_features; f++) {
        uint32_t shape = cached ? td_cached_shapes(pack)[f] : next_shape(pack, &plan), value = from[f];
        if (base) value |= next_bits(pack, f, shape, &bases, true);
        if (shape) value |= next_bits(pack, f, shape, &deviation, false);
        uint32_t n = sizes ? td_get16(sizes + 2u * (size_t)f) : 0u;
        if (n > 0) {
            if (value >= n) value = n - 1u;
            value = td_field(sizes, first + value * pack->width, pack->width);
            first += n * pack->width;
        }
        values[f] = value + (cached ? td_cached_sums(pack)[f] : next_sum(pack, &offsets));
    }
}
