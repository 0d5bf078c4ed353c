/* Internal: where the blocks of a part are (parts.c) and what its rows are made of
 * (seek.c, fields.c), for those who check and read rows (open.c, decode.c, unpack.c). */
#ifndef PARTS_H
#define PARTS_H

#include "td_bits.h"

/* What td_bits.h has inline, once for all who need not be fast: a field, a count of ones, log2up. */
uint32_t td_field(const uint8_t *stream, uint32_t at, uint32_t n_bits);
uint32_t td_ones(uint32_t word);
uint32_t td_log2up(uint32_t n);

/* For those who must: inlined; built for size, the one copy has to do. */
#ifdef __OPTIMIZE_SIZE__
#define td_quick_field td_field
#define td_quick_ones td_ones
#define td_quick_byte_ones td_ones
#else
#define td_quick_field td_read_bits
#define td_quick_ones td_count_bits
#define td_quick_byte_ones td_count_byte
#endif

static inline bool td_part_has(const td_part *part, uint32_t flag)
{
    return (part->flags & flag) != 0;
}

/* Bits of a feature in the plan. */
static inline uint32_t td_part_plan_bits(const td_pack *pack, const td_part *part)
{
    return td_part_has(part, TD_PART_MASKS) ? pack->width : td_log2up(pack->width + 1u);
}

/* Of the name of a key's bit: the bit's number in its feature. */
static inline uint32_t td_part_bit_mask(const td_part *part)
{
    return ((uint32_t)1 << part->bit_bits) - 1u;
}

/* Bits of one base. */
static inline uint32_t td_part_base_bits(const td_pack *pack, const td_part *part)
{
    return pack->n_features * pack->width + part->id_bits - part->row_bits;
}

static inline const uint8_t *td_part_record(const td_pack *pack, uint32_t index)
{
    return pack->parts + (size_t)index * TD_PART_RECORD;
}

/* What a cache holds: of each feature the bits that rows share and those of the key, then what is added to its value,
 * then its shape. NULL: there is none. */
static inline uint32_t *td_cached_values(const td_pack *pack)
{
    return (uint32_t *)pack->memory;
}

static inline uint32_t *td_cached_sums(const td_pack *pack)
{
    return td_cached_values(pack) + pack->n_features;
}

static inline uint8_t *td_cached_shapes(const td_pack *pack)
{
    return (uint8_t *)(td_cached_sums(pack) + pack->n_features);
}

/* A core that cannot read these has refused them: nothing needs to be asked then. */
static inline bool td_is_archive(const td_pack *pack)
{
    return TD_ARCHIVE && pack->archive;
}

static inline bool td_is_image(const td_pack *pack)
{
    return TD_IMAGES && pack->image;
}

static inline bool td_is_transformed(const td_pack *pack)
{
    return TD_TRANSFORMS && pack->transforms;
}

/* Samples are listed when they are few. */
static inline bool td_samples_listed(const td_pack *pack)
{
    return pack->n_samples < pack->n_rows / TD_LISTED_ROWS;
}

/* What a sample of `count` rows weighs. */
static inline float td_sample_weight(const td_pack *pack, uint32_t sample, uint32_t count)
{
    return pack->weights ? td_get_f32(pack->weights + 4u * (size_t)sample) : (float)count;
}

/* First row of a sample, where they are listed. */
static inline uint32_t td_listed_start(const td_pack *pack, uint32_t sample)
{
    return td_word(pack->starts + 4u * (size_t)sample);
}

/* The same from the bitmap, where they are not. */
static inline bool td_starts_sample(const td_pack *pack, uint32_t row)
{
    return ((uint32_t)pack->starts[row >> 3] >> (row & 7u) & 1u) != 0;
}

/* Whether row `row` begins a sample; *sample: 0 at first, then kept from row to row, as rows rise. */
bool td_pack_starts(const td_pack *pack, uint32_t row, uint32_t *sample);
/* Whether all bits behind the n_bits of a block, up to its byte's end, are zero. */
bool td_padded(const uint8_t *block, uint32_t n_bits);
/* Part `index`, whose first row is first_row, and where it ends; NULL when its blocks do not fit the data section or are
 * not padded with zeros. Takes any record; what it says is to be checked before rows are read. */
const uint8_t *td_part_open(const td_pack *pack, uint32_t index, uint32_t first_row, td_part *part);
/* Makes the part of a row the one at hand: TD_E_RANGE when there is no such row. */
int td_part_find(td_pack *pack, uint32_t row);
/* Which bits of a feature are the base's. */
uint32_t td_part_base_mask(const td_pack *pack, const td_part *part, uint32_t feature);
/* Entries of all dictionaries; the part has TD_PART_DICTIONARY. */
uint32_t td_part_entries(const td_pack *pack, const td_part *part);
/* Bit `b` of the key, counted from the least significant: feature * 2^bit_bits + bit. */
uint32_t td_part_name(const td_part *part, uint32_t b);
/* Fields of n_bits up to 64. */
uint64_t td_read_long(const uint8_t *stream, uint32_t at, uint32_t n_bits);
/* Goes to the first row of a block of TD_KEY_BLOCK rows, whose key is high_key then; returns how many rows follow it in
 * the block. */
uint32_t td_part_start_block(td_part *part, uint32_t block);

/* seek.c: toggles the bits of the values in which the key of row `row` of the part differs from part->spread, and sets
 * that. */
void td_part_spread(td_part *part, uint32_t row, uint32_t *values);

/* fields.c, of the part at hand. Whether its plan has as many base bits as its record says, and its key names bits that
 * there are. */
bool td_fields_check(const td_pack *pack);
/* Row `row` of the part. from: the values in the cache, which is filled if it was not, or values themselves when there is
 * none. Where nothing is cached yet they hold what the key's bits make of zeros. */
void td_fields_read(td_pack *pack, uint32_t row, uint32_t *from, uint32_t *values);

#endif /* PARTS_H */
