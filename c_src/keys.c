/* Parts whose rows are sorted by a key: cost and encoding (docs/SPEC.md, ".tdz"). decode.c reads them. */
#include "td_bits.h"

/* Fields of the index: bits of a low part, bits of all codes. */
enum { LOW_FIELD = 6, CODE_BITS_FIELD = 32 };

void td_key_rows(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, const uint32_t *key_bits,
                 uint32_t n_key, uint64_t *keys)
{
    for (uint32_t i = 0; i < n_rows; i++, rows += n_features) {
        uint64_t key = 0;
        for (uint32_t b = 0; b < n_key; b++) key = key << 1 | (rows[key_bits[b] >> 5] >> (key_bits[b] & 31u) & 1u);
        keys[i] = key;
    }
}

/* Bits of the low parts that make the codes of n + 1 rows from `first` to `last` smallest: one more costs n bits and
 * halves the high part. */
static uint32_t choose_low(uint64_t span, uint32_t n)
{
    uint32_t low = 0;
    while (low < TD_MAX_KEY - 1u && (span >> low) - (span >> (low + 1u)) > n) low++;
    return low;
}

/* Bits of the codes of a block; *low: of its low parts. */
static uint64_t plan_block(const uint64_t *keys, uint32_t n, uint32_t drop, uint32_t *low)
{
    *low = 0;
    if (n < 2) return 0;
    uint64_t span = (keys[n - 1] >> drop) - (keys[0] >> drop);
    *low = choose_low(span, n - 1u);
    return (uint64_t)(n - 1u) * (*low + 1u) + (span >> *low);
}

static uint32_t block_rows(uint32_t n_rows, uint32_t first)
{
    return n_rows - first < TD_KEY_BLOCK ? n_rows - first : TD_KEY_BLOCK;
}

uint64_t td_key_cost(const uint64_t *keys, uint32_t n_rows, uint32_t n_key, uint32_t drop)
{
    uint64_t total = 0;
    uint32_t low;
    for (uint32_t i = 0; i < n_rows; i += TD_KEY_BLOCK) {
        total += plan_block(keys + i, block_rows(n_rows, i), drop, &low) + n_key - drop + LOW_FIELD + CODE_BITS_FIELD;
    }
    return total;
}

static void write_long(uint8_t *stream, uint32_t at, uint32_t n_bits, uint64_t value)
{
    uint32_t low = n_bits < 32 ? n_bits : 32;
    td_write_bits(stream, at, low, (uint32_t)(value & td_low_mask(low)));
    td_write_bits(stream, at + low, n_bits - low, (uint32_t)(value >> 32));
}

static uint64_t bytes_of(uint64_t bits)
{
    return (bits + 7u) / 8u;
}

typedef struct layout {
    uint32_t base_bits, place_bytes, index_field, n_blocks, code_bits;
    uint64_t n_entries, size;
    uint64_t dictionary, base, places, index, codes, rows; /* where blocks start */
} layout;

static int lay_out(layout *l, const uint32_t *base, const uint64_t *keys, uint32_t n_rows, uint32_t n_features,
                   uint32_t width, const td_key_plan *plan)
{
    uint64_t code_bits = 0;
    uint32_t low;
    for (uint32_t i = 0; i < n_rows; i += TD_KEY_BLOCK) {
        code_bits += plan_block(keys + i, block_rows(n_rows, i), 0, &low);
        if (code_bits > 0x7FFFFFFFu) return TD_E_FULL;
    }
    l->code_bits = (uint32_t)code_bits;
    l->n_entries = 0;
    for (uint32_t f = 0; f < n_features && plan->n_entries; f++) l->n_entries += plan->n_entries[f];
    l->base_bits = 0;
    for (uint32_t f = 0; f < n_features; f++) l->base_bits += td_count_bits(base[f]);
    uint64_t row_bits = (uint64_t)n_rows * (n_features * width - l->base_bits);
    if (row_bits > 0xFFFFFFFFu || l->n_entries * width > 0xFFFFFFFFu) return TD_E_FULL;
    l->place_bytes = (td_id_bits(n_features) + td_id_bits(width) + 7u) / 8u;
    l->index_field = plan->n_key + LOW_FIELD + td_id_bits(l->code_bits + 1u);
    l->n_blocks = (n_rows + TD_KEY_BLOCK - 1u) / TD_KEY_BLOCK;
    l->dictionary = bytes_of((uint64_t)width * n_features) * (plan->offsets ? 2u : 1u);
    l->base = l->dictionary + (plan->n_entries ? 2u * n_features + bytes_of(l->n_entries * width) : 0u);
    l->places = l->base + bytes_of(l->base_bits);
    l->index = l->places + l->place_bytes * plan->n_key;
    l->codes = l->index + bytes_of(CODE_BITS_FIELD + (uint64_t)l->index_field * l->n_blocks);
    l->rows = l->codes + bytes_of(l->code_bits);
    l->size = l->rows + bytes_of(row_bits);
    return TD_OK;
}

static void write_keys(uint8_t *out, const layout *l, const uint64_t *keys, uint32_t n_rows, const td_key_plan *plan)
{
    uint32_t entry = CODE_BITS_FIELD, at = 0, low;
    td_put32(out + l->index, l->code_bits);
    for (uint32_t first = 0; first < n_rows; first += TD_KEY_BLOCK, entry += l->index_field) {
        const uint64_t *key = keys + first;
        uint32_t n = block_rows(n_rows, first), n_index = l->index_field - plan->n_key - LOW_FIELD;
        plan_block(key, n, 0, &low);
        write_long(out + l->index, entry, plan->n_key, key[0]);
        td_write_bits(out + l->index, entry + plan->n_key, LOW_FIELD, low);
        td_write_bits(out + l->index, entry + plan->n_key + LOW_FIELD, n_index, at);
        uint32_t high = at + (n - 1u) * low;
        for (uint32_t i = 1; i < n; i++, at += low) {
            uint64_t difference = key[i] - key[0];
            write_long(out + l->codes, at, low, difference & (((uint64_t)1 << low) - 1u));
            td_write_bits(out + l->codes, high + (uint32_t)(difference >> low) + i - 1u, 1, 1);
        }
        if (n > 1) at = high + (uint32_t)((key[n - 1] - key[0]) >> low) + n - 1u;
    }
}

/* Plan, offsets, dictionaries, base and the key's bits. */
static void write_head(uint8_t *out, const layout *l, const uint32_t *base, const uint32_t *first_row,
                       uint32_t n_features, uint32_t width, const td_key_plan *plan)
{
    uint32_t at = 0;
    for (uint32_t f = 0; f < n_features; f++) {
        uint32_t n_bits = td_count_bits(base[f]);
        td_write_bits(out, f * width, width, base[f]);
        if (plan->offsets) td_write_bits(out + l->dictionary / 2u, f * width, width, plan->offsets[f]);
        if (plan->n_entries) td_put16(out + l->dictionary + 2u * f, plan->n_entries[f]);
        td_write_bits(out + l->base, at, n_bits, td_gather(first_row[f] & plan->constant[f], base[f]));
        at += n_bits;
    }
    for (uint32_t e = 0; e < l->n_entries; e++) {
        td_write_bits(out + l->dictionary + 2u * n_features, e * width, width, plan->entries[e]);
    }
    for (uint32_t b = 0; b < plan->n_key; b++) {
        uint32_t feature = plan->key_bits[b] >> 5, bit = plan->key_bits[b] & 31u;
        td_write_bits(out + l->places, 8u * l->place_bytes * b, 8u * l->place_bytes, feature << td_id_bits(width) | bit);
    }
}

static int check_plan(uint32_t n_rows, uint32_t n_features, uint32_t width, const td_key_plan *plan)
{
    if (n_rows == 0 || n_features == 0 || n_features > TD_MAX_FEATURES || width == 0 || width > TD_MAX_WIDTH ||
        plan->n_key == 0 || plan->n_key > TD_MAX_KEY)
        return TD_E_ARGUMENT;
    for (uint32_t b = 0; b < plan->n_key; b++) {
        if (plan->key_bits[b] >> 5 >= n_features || (plan->key_bits[b] & 31u) >= width) return TD_E_ARGUMENT;
    }
    for (uint32_t f = 0; f < n_features; f++) {
        if (plan->constant[f] & ~td_low_mask(width)) return TD_E_ARGUMENT;
        if (plan->offsets && (plan->offsets[f] & ~td_low_mask(width))) return TD_E_RANGE;
    }
    return TD_OK;
}

/* Base bits of a feature: those in which the rows agree, and the key's. */
static uint32_t base_of(const td_key_plan *plan, uint32_t feature)
{
    uint32_t mask = plan->constant[feature];
    for (uint32_t b = 0; b < plan->n_key; b++) {
        if (plan->key_bits[b] >> 5 == feature) mask |= (uint32_t)1 << (plan->key_bits[b] & 31u);
    }
    return mask;
}

int td_encode_keys(const uint32_t *rows, const uint64_t *keys, uint32_t n_rows, uint32_t n_features, uint32_t width,
                   const td_key_plan *plan, uint32_t *base, uint8_t *out, uint32_t capacity, td_part_header *header)
{
    layout l;
    int status = check_plan(n_rows, n_features, width, plan);
    if (status != TD_OK) return status;
    for (uint32_t f = 0; f < n_features; f++) base[f] = base_of(plan, f);
    status = lay_out(&l, base, keys, n_rows, n_features, width, plan);
    if (status != TD_OK) return status;
    if (l.size > capacity || l.size > ~0u >> 1) return TD_E_FULL; /* the largest int */
    memset(out, 0, (size_t)l.size);
    write_head(out, &l, base, rows, n_features, width, plan);
    write_keys(out, &l, keys, n_rows, plan);
    uint32_t bit = 0, all = td_low_mask(width);
    for (uint32_t i = 0; i < n_rows; i++, rows += n_features) {
        for (uint32_t f = 0; f < n_features; f++) {
            uint32_t deviation = all & ~base[f], n_bits = td_count_bits(deviation);
            if (rows[f] & ~all) return TD_E_RANGE;
            if (n_bits) td_write_bits(out + l.rows, bit, n_bits, td_gather(rows[f], deviation));
            bit += n_bits;
        }
    }
    header->n_rows = n_rows;
    header->n_bases = (uint16_t)plan->n_key;
    header->base_bits = l.base_bits;
    header->deviation_bits = n_features * width - l.base_bits;
    header->flags = (uint8_t)(TD_PART_KEYS | TD_PART_MASKS | (plan->offsets ? TD_PART_OFFSETS : 0) |
                              (plan->n_entries ? TD_PART_DICTIONARY : 0));
    return (int)l.size;
}
