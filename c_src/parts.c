/* The parts of a .tdz: where their blocks are (docs/SPEC.md, ".tdz"). */
#include "parts.h"

enum { LOW_FIELD = 6, CODE_BITS_FIELD = 32 };
static const uint32_t NO_ROW = 0xFFFFFFFFu, MAX_CODE_BITS = 0x7FFFFFFFu;

/* What is left of the data section. */
typedef struct blocks {
    const uint8_t *at;          /* NULL: a block was not there */
    uint32_t left;              /* bytes */
} blocks;

TD_NOINLINE uint32_t td_field(const uint8_t *stream, uint32_t at, uint32_t n_bits)
{
    return td_read_bits(stream, at, n_bits);
}

uint32_t td_ones(uint32_t word)
{
    uint32_t n = 0;
    for (; word; word &= word - 1u) n++;
    return n;
}

TD_NOINLINE uint32_t td_log2up(uint32_t n)
{
    return td_id_bits(n);
}

bool td_padded(const uint8_t *block, uint32_t n_bits)
{
    return (n_bits & 7u) == 0 || block[n_bits >> 3] >> (n_bits & 7u) == 0;
}

/* The next block, of `count` fields of n_bits: NULL, and so from then on, when it does not fit, or is not padded with zeros.
 * With count below 2^28 and n_bits below 2^18, which open.c sees to afterwards, also when it has 2^32 bits or more. */
static const uint8_t *take_block(blocks *in, uint32_t count, uint32_t n_bits)
{
    const uint8_t *block = in->at;
    uint32_t bits = count * n_bits, size = (bits >> 3) + ((bits & 7u) != 0);
    uint32_t above = (count >> 14) * n_bits + ((count & 0x3FFFu) * n_bits >> 14); /* of the product without a limit */
    in->at = NULL;
    if (!block || above >> 18 || size > in->left || !td_padded(block, bits)) return NULL;
    in->at = block + size;
    in->left -= size;
    return block;
}

uint32_t td_pack_position(const td_pack *pack, uint32_t row)
{
    uint32_t n_bits = td_log2up(pack->n_rows);
    /* Eight rows take whole bytes, and bits may be more than 2^32. */
    return pack->order ? td_field(pack->order + (row >> 3) * n_bits, (row & 7u) * n_bits, n_bits) : row;
}

bool td_pack_starts(const td_pack *pack, uint32_t row, uint32_t *sample)
{
    if (!td_samples_listed(pack)) return td_starts_sample(pack, row);
    for (; *sample < pack->n_samples; ++*sample) {
        uint32_t start = td_listed_start(pack, *sample);
        if (start >= row) return start == row;
    }
    return false;
}

uint32_t td_part_entries(const td_pack *pack, const td_part *part)
{
    uint32_t n = 0;
    for (uint32_t f = 0; f < pack->n_features; f++) n += td_get16(part->dictionary + 2u * (size_t)f);
    return n;
}

static uint32_t index_field_bits(const td_part *part)
{
    return (uint32_t)part->n_key + part->start_bits + LOW_FIELD;
}

TD_NOINLINE static void place_keys(const td_pack *pack, blocks *in, td_part *part)
{
    uint32_t bit_bits = td_log2up(pack->width), n_bytes = (td_log2up(pack->n_features) + bit_bits + 7u) / 8u;
    if (n_bytes == 0) n_bytes = 1;
    take_block(in, part->n_key, 8u * n_bytes);
    part->index = take_block(in, CODE_BITS_FIELD, 1);
    if (!part->index) return;
    uint32_t code_bits = td_word(part->index);
    if (code_bits > MAX_CODE_BITS) in->at = NULL;
    part->bit_bits = (uint8_t)bit_bits;
    part->place_bytes = (uint8_t)n_bytes;
    part->last_place = part->index - n_bytes;
    part->start_bits = (uint8_t)td_log2up(code_bits + 1u);
    take_block(in, (part->n_rows + TD_KEY_BLOCK - 1u) / TD_KEY_BLOCK, index_field_bits(part));
    part->codes = take_block(in, code_bits, 1);
}

const uint8_t *td_part_open(const td_pack *pack, uint32_t index, uint32_t first_row, td_part *part)
{
    const uint8_t *record = td_part_record(pack, index);
    uint32_t offset = td_word(record + 4), ids = td_word(record + 8), last = td_word(record + 12);
    part->flags = (uint8_t)(last >> 24);
    part->cached = TD_CACHED_NOTHING;
    part->label = (uint16_t)(ids & 0xFFFFu);
    part->n_bases = (uint16_t)(ids >> 16);
    part->n_key = 0;
    if (td_part_has(part, TD_PART_KEYS)) {
        part->n_key = part->n_bases;
        part->n_bases = 1;
    }
    part->id_bits = (uint8_t)td_log2up(part->n_bases);
    part->number = (uint16_t)index;
    part->n_rows = td_word(record);
    part->first_row = first_row;
    part->row_bits = (last & 0x00FFFFFFu) + part->id_bits;
    part->at_row = NO_ROW;
    part->offsets = part->dictionary = NULL;
    if (offset > pack->data_size) return NULL;
    blocks in = {pack->data + offset, pack->data_size - offset};
    part->plan = take_block(&in, pack->n_features, td_part_plan_bits(pack, part));
    if (td_part_has(part, TD_PART_OFFSETS)) part->offsets = take_block(&in, pack->n_features, pack->width);
    if (td_part_has(part, TD_PART_DICTIONARY)) {
        part->dictionary = take_block(&in, pack->n_features, 16);
        if (!part->dictionary) return NULL;
        take_block(&in, td_part_entries(pack, part), pack->width);
    }
    part->bases = take_block(&in, part->n_bases, td_part_base_bits(pack, part));
    if (part->n_key) place_keys(pack, &in, part);
    part->rows = take_block(&in, part->n_rows, part->row_bits);
    return in.at;
}

int td_part_find(td_pack *pack, uint32_t row)
{
    if (row >= pack->n_rows) return TD_E_RANGE;
    const td_part *part = &pack->part;
    uint32_t first = 0, index = 0, n;
    if (row > part->first_row) { /* behind the part at hand: rows in order cost one step a part */
        first = part->first_row + part->n_rows;
        index = part->number + (uint32_t)1;
    }
    for (; row - first >= (n = td_word(td_part_record(pack, index))); index++) first += n;
    return td_part_open(pack, index, first, &pack->part) ? TD_OK : TD_E_FORMAT;
}

uint32_t td_part_base_mask(const td_pack *pack, const td_part *part, uint32_t feature)
{
    uint32_t n_bits = td_part_plan_bits(pack, part);
    uint32_t field = td_field(part->plan, feature * n_bits, n_bits);
    return td_part_has(part, TD_PART_MASKS) ? field : td_leading_mask(pack->width, field);
}

uint64_t td_read_long(const uint8_t *stream, uint32_t at, uint32_t n_bits)
{
    if (n_bits <= 32) return td_field(stream, at, n_bits);
    return td_field(stream, at, 32) | (uint64_t)td_field(stream, at + 32u, n_bits - 32u) << 32;
}

uint32_t td_part_name(const td_part *part, uint32_t b)
{
    uint32_t name = 0, n = part->place_bytes;
    const uint8_t *place = part->last_place - b * n;
    while (n-- > 0) name = name << 8 | place[n];
    return name;
}

uint32_t td_part_start_block(td_part *part, uint32_t block)
{
    uint32_t n_key = part->n_key, row = block * TD_KEY_BLOCK;
    uint32_t at = CODE_BITS_FIELD + block * index_field_bits(part), n_codes = part->n_rows - row - 1u;
    if (n_codes >= TD_KEY_BLOCK) n_codes = TD_KEY_BLOCK - 1u;
    part->high_key = td_read_long(part->index, at, n_key);
    part->n_low = (uint8_t)td_field(part->index, at + n_key, LOW_FIELD);
    part->at_low = td_field(part->index, at + n_key + LOW_FIELD, part->start_bits);
    part->at_high = part->at_low + n_codes * part->n_low;
    part->at_row = row;
    return n_codes;
}

int td_pack_plan(const td_pack *pack, uint32_t index, td_part_header *header, uint32_t *base, uint32_t *key,
                 uint32_t *entries)
{
    if (index >= pack->n_parts) return TD_E_RANGE;
    td_part part;
    if (!pack->archive && !td_part_open(pack, index, 0, &part)) return TD_E_FORMAT;
    const uint8_t *record = td_part_record(pack, index);
    uint32_t last = td_word(record + 12);
    header->n_rows = td_word(record);
    header->offset = td_word(record + 4);
    header->label = (uint16_t)td_get16(record + 8);
    header->n_bases = (uint16_t)td_get16(record + 10);
    header->deviation_bits = last & 0x00FFFFFFu;
    header->base_bits = pack->n_features * pack->width - header->deviation_bits;
    header->flags = (uint8_t)(last >> 24);
    for (uint32_t f = 0; f < pack->n_features; f++) {
        base[f] = pack->archive ? 0u : td_part_base_mask(pack, &part, f);
        entries[f] = pack->archive || !part.dictionary ? 0u : td_get16(part.dictionary + 2u * (size_t)f);
        key[f] = 0;
    }
    for (uint32_t b = 0; (header->flags & TD_PART_KEYS) && b < header->n_bases; b++) {
        uint32_t name = td_part_name(&part, b);
        key[name >> part.bit_bits] |= (uint32_t)1 << (name & td_part_bit_mask(&part));
    }
    return TD_OK;
}
