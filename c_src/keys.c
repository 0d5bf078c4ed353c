/* Parts whose rows are sorted by a key: cost and encoding (docs/SPEC.md, ".tdz"). decode.c reads them. */
#include "td_bits.h"

/* Fields of the index: bits of a low part, bits of all codes. */
enum { LOW_FIELD = 6, CODE_BITS_FIELD = 32 };

/* ------------------------------------------------------------------ survey */

/* As many rows are seen as one: a row alone may be shorter than what a processor compares at once. */
enum { SIDE_BY_SIDE = 4 };

static const uint32_t SIGN = 0x80000000u; /* turned over, unsigned numbers compare as signed ones do, which is quicker */

static void widen(const uint32_t *restrict values, uint32_t n, int32_t *restrict low, int32_t *restrict high)
{
    for (uint32_t i = 0; i < n; i++) {
        int32_t value = (int32_t)(values[i] ^ SIGN);
        low[i] = value < low[i] ? value : low[i];
        high[i] = value > high[i] ? value : high[i];
    }
}

void td_key_survey(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, uint32_t *low, uint32_t *high)
{
    int32_t *lowest = (int32_t *)low, *highest = (int32_t *)high;
    uint32_t n = SIDE_BY_SIDE * n_features, together = n_rows - n_rows % SIDE_BY_SIDE;
    for (uint32_t i = 0; i < n; i++) low[i] = high[i] = rows[i % n_features] ^ SIGN;
    for (uint32_t i = 0; i < together; i += SIDE_BY_SIDE) widen(rows + (size_t)i * n_features, n, lowest, highest);
    for (uint32_t i = together; i < n_rows; i++) widen(rows + (size_t)i * n_features, n_features, lowest, highest);
    for (uint32_t i = n_features; i < n; i++) {
        uint32_t f = i % n_features;
        lowest[f] = lowest[i] < lowest[f] ? lowest[i] : lowest[f];
        highest[f] = highest[i] > highest[f] ? highest[i] : highest[f];
    }
    for (uint32_t f = 0; f < n_features; f++) {
        high[f] -= low[f];
        low[f] ^= SIGN;
    }
}

static void differ(const uint32_t *restrict values, uint32_t n, const uint32_t *restrict low,
                   const uint32_t *restrict first, uint32_t *restrict varying)
{
    for (uint32_t i = 0; i < n; i++) varying[i] |= (values[i] - low[i]) ^ first[i];
}

void td_key_varying(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, const uint32_t *low, uint32_t *varying,
                    uint32_t *scratch)
{
    uint32_t n = SIDE_BY_SIDE * n_features, together = n_rows - n_rows % SIDE_BY_SIDE, *lows = scratch, *first = lows + n;
    for (uint32_t i = 0; i < n; i++) {
        lows[i] = low[i % n_features];
        first[i] = rows[i % n_features] - lows[i];
        varying[i] = 0;
    }
    for (uint32_t i = 0; i < together; i += SIDE_BY_SIDE) differ(rows + (size_t)i * n_features, n, lows, first, varying);
    for (uint32_t i = together; i < n_rows; i++) differ(rows + (size_t)i * n_features, n_features, lows, first, varying);
    for (uint32_t i = n_features; i < n; i++) varying[i % n_features] |= varying[i];
}

void td_key_sample(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, const uint32_t *low, uint32_t step,
                   uint32_t *out)
{
    for (uint32_t first = 0, k = 0; first < n_rows; first += step, k++, out += n_features) {
        uint32_t i = first + (k * 2654435769u >> 16 & (step - 1u)); /* Knuth's multiplicative hash: no rhythm of rows */
        const uint32_t *row = rows + (size_t)(i < n_rows ? i : n_rows - 1u) * n_features;
        for (uint32_t f = 0; f < n_features; f++) out[f] = row[f] - low[f];
    }
}

/* Rows that are looked at feature by feature before the next ones: they stay in a processor's nearest cache. */
enum { ROWS_AT_ONCE = 256 };

/* No counting here: to look at what was just written takes twice as long. */
static void see_values(const uint32_t *column, uint32_t n_rows, size_t stride, uint32_t low, uint8_t *seen)
{
    for (; n_rows >= 4; n_rows -= 4, column += 4 * stride) {
        uint32_t a = column[0] - low, b = column[stride] - low, c = column[2 * stride] - low, d = column[3 * stride] - low;
        seen[a] = seen[b] = seen[c] = seen[d] = 1;
    }
    for (; n_rows > 0; n_rows--, column += stride) seen[*column - low] = 1;
}

static uint32_t count_seen(const uint8_t *seen, uint32_t n)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++) count += seen[i];
    return count;
}

void td_key_values(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, const uint32_t *low, const uint32_t *high,
                   const uint32_t *most, uint32_t *count, uint8_t *seen)
{
    memset(count, 0, (size_t)n_features * sizeof *count);
    for (uint32_t first = 0, n, counted = 8u * ROWS_AT_ONCE; first < n_rows; first += n) {
        n = n_rows - first < ROWS_AT_ONCE ? n_rows - first : ROWS_AT_ONCE;
        bool now = first + n == n_rows || first + n == counted; /* seldom, as that takes time, too */
        uint8_t *own = seen;
        for (uint32_t f = 0; f < n_features; f++) {
            if (most[f] == 0) continue;
            if (count[f] <= most[f]) {
                see_values(rows + (size_t)first * n_features + f, n, (size_t)n_features, low[f], own);
                if (now) count[f] = count_seen(own, high[f] + 1u);
            }
            own += high[f] + 1u;
        }
        if (now) counted *= 2;
    }
}

void td_key_stored(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, const uint32_t *low, const uint32_t *start,
                   const uint32_t *numbers, uint32_t *out)
{
    for (uint32_t i = 0; i < n_rows; i++, rows += n_features, out += n_features) {
        for (uint32_t f = 0; f < n_features; f++) out[f] = rows[f] - low[f];
        for (uint32_t f = 0; f < n_features; f++) {
            if (start[f] != TD_KEY_NO_LIST) out[f] = numbers[start[f] + out[f]];
        }
    }
}

/* --------------------------------------------------------------------- keys */

/* What a byte of a feature adds to the key. */
typedef struct byte_table {
    uint32_t feature;
    uint32_t low; /* taken off the feature */
    uint32_t shift;
    uint64_t entry[256];
} byte_table;

uint32_t td_key_work_size(uint32_t n_key)
{
    return n_key * (uint32_t)sizeof(byte_table);
}

static uint32_t make_tables(const uint32_t *low, const uint32_t *key_bits, uint32_t n_key, byte_table *tables)
{
    uint32_t n = 0;
    for (uint32_t b = 0; b < n_key; b++) {
        uint32_t feature = key_bits[b] >> 5, shift = key_bits[b] & 24u, t = 0;
        while (t < n && (tables[t].feature != feature || tables[t].shift != shift)) t++;
        if (t == n) {
            tables[t].feature = feature;
            tables[t].low = low[feature];
            tables[t].shift = shift;
            memset(tables[t].entry, 0, sizeof tables[t].entry);
            n++;
        }
        for (uint32_t value = 0; value < 256; value++) {
            if (value >> (key_bits[b] & 7u) & 1u) tables[t].entry[value] |= (uint64_t)1 << (n_key - 1u - b);
        }
    }
    return n;
}

static uint64_t key_of(const uint32_t *row, const byte_table *table, uint32_t n_tables)
{
    uint64_t key = 0;
    for (; n_tables; n_tables--, table++) key |= table->entry[(row[table->feature] - table->low) >> table->shift & 0xFFu];
    return key;
}

void td_key_rows(const uint32_t *rows, uint32_t n_rows, uint32_t n_features, const uint32_t *low,
                 const uint32_t *key_bits, uint32_t n_key, uint64_t *keys, void *work)
{
    byte_table *tables = (byte_table *)work;
    uint32_t n = make_tables(low, key_bits, n_key, tables);
    for (uint32_t i = 0; i < n_rows; i++, rows += n_features) keys[i] = key_of(rows, tables, n);
}

enum { DIGIT = 8, DIGITS = TD_MAX_KEY / DIGIT };

static uint32_t digit_of(uint64_t key, uint32_t digit)
{
    return (uint32_t)(key >> DIGIT * digit) & 0xFFu;
}

/* Where the rows of each value of a digit begin. */
static void count_digits(const uint64_t *keys, uint32_t n_rows, uint32_t n_digits, uint32_t start[DIGITS][256])
{
    memset(start, 0, DIGITS * sizeof start[0]);
    for (uint32_t i = 0; i < n_rows; i++) {
        for (uint32_t d = 0; d < n_digits; d++) start[d][digit_of(keys[i], d)]++;
    }
    for (uint32_t d = 0; d < n_digits; d++) {
        uint32_t total = 0;
        for (uint32_t value = 0; value < 256; value++) {
            uint32_t n = start[d][value];
            start[d][value] = total;
            total += n;
        }
    }
}

/* True when all rows agree in the digit of this key: then nothing has to be moved. */
static bool is_constant(const uint32_t start[256], uint32_t n_rows, uint32_t value)
{
    return start[value] == 0 && (value == 255u ? n_rows : start[value + 1u]) == n_rows;
}

void td_key_sort(uint64_t *keys, uint32_t *order, uint32_t n_rows, uint32_t n_key, uint64_t *spare_keys,
                 uint32_t *spare_order)
{
    uint32_t start[DIGITS][256], n_digits = (n_key + DIGIT - 1u) / DIGIT;
    uint64_t *from = keys, *to = spare_keys;
    uint32_t *from_order = order, *to_order = spare_order;
    count_digits(keys, n_rows, n_digits, start);
    for (uint32_t i = 0; i < n_rows && order; i++) order[i] = i;
    for (uint32_t d = 0; d < n_digits; d++) {
        if (is_constant(start[d], n_rows, digit_of(keys[0], d))) continue;
        for (uint32_t i = 0; i < n_rows; i++) {
            uint32_t at = start[d][digit_of(from[i], d)]++;
            to[at] = from[i];
            if (order) to_order[at] = from_order[i];
        }
        uint64_t *swap = from;
        uint32_t *swap_order = from_order;
        from = to;
        to = swap;
        from_order = to_order;
        to_order = swap_order;
    }
    if (from == keys) return;
    memcpy(keys, from, (size_t)n_rows * sizeof *keys);
    if (order) memcpy(order, from_order, (size_t)n_rows * sizeof *order);
}

/* --------------------------------------------------------------------- cost */

static uint32_t bit_length(uint64_t value)
{
#if defined(__GNUC__)
    return value ? 64u - (uint32_t)__builtin_clzll(value) : 0;
#else
    uint32_t n = 0;
    for (; value; value >>= 1) n++;
    return n;
#endif
}

/* Bits of the low parts that make the codes of n + 1 rows smallest, whose keys go over `span`: one more costs n bits and
 * halves the high part, which pays while that is above 2 n. */
static uint32_t choose_low(uint64_t span, uint32_t n)
{
    uint32_t of_span = bit_length(span), of_high = bit_length(2u * (uint64_t)n);
    uint32_t low = of_span > of_high ? of_span - of_high : 0;
    return span >> low > 2u * (uint64_t)n ? low + 1u : low;
}

/* Bits of the codes of a block of n + 1 rows; *low: of its low parts. */
static uint64_t plan_block(uint64_t span, uint32_t n, uint32_t *low)
{
    *low = 0;
    if (n == 0) return 0;
    *low = choose_low(span, n);
    return (uint64_t)n * (*low + 1u) + (span >> *low);
}

static uint32_t block_rows(uint32_t n_rows, uint32_t first)
{
    return n_rows - first < TD_KEY_BLOCK ? n_rows - first : TD_KEY_BLOCK;
}

uint64_t td_key_cost(const uint64_t *keys, uint32_t n_rows, uint32_t step, uint32_t n_key, uint32_t drop)
{
    uint32_t n_keys = (n_rows - 1u) / step + 1u, steps = (TD_KEY_BLOCK - 1u + step / 2u) / step, low;
    uint64_t total = 0;
    for (uint32_t first = 0; first < n_rows; first += TD_KEY_BLOCK) {
        uint32_t i = first / step, last = n_keys - i > steps ? i + steps : n_keys - 1u;
        total += plan_block((keys[last] >> drop) - (keys[i] >> drop), block_rows(n_rows, first) - 1u, &low);
        total += n_key - drop + LOW_FIELD + CODE_BITS_FIELD;
    }
    return total;
}

uint64_t td_key_length(const uint64_t *keys, uint32_t n_rows, uint32_t step, uint32_t n_key, uint32_t *length)
{
    uint64_t least = td_key_cost(keys, n_rows, step, n_key, 0);
    uint32_t n_codes = n_rows - ((n_rows - 1u) / TD_KEY_BLOCK + 1u); /* of a bit each at least */
    *length = n_key;
    for (uint32_t drop = TD_KEY_TRIED; drop < n_key && (uint64_t)drop * n_rows + n_codes < least; drop += TD_KEY_TRIED) {
        uint64_t size = td_key_cost(keys, n_rows, step, n_key, drop) + (uint64_t)drop * n_rows;
        if (size >= least) continue;
        least = size;
        *length = n_key - drop;
    }
    return least;
}

void td_key_cells(const uint64_t *keys, uint32_t n_rows, uint32_t most, uint8_t *starts)
{
    uint32_t steps[TD_MAX_KEY + 1] = {0}, least = TD_MAX_KEY + 1, n_cells = 1; /* steps from row to row, by bit length */
    for (uint32_t i = 1; i < n_rows; i++) steps[bit_length(keys[i] ^ keys[i - 1u])]++;
    while (least > 1u && n_cells + steps[least - 1u] <= most) n_cells += steps[--least];
    starts[0] = 1;
    for (uint32_t i = 1; i < n_rows; i++) starts[i] = bit_length(keys[i] ^ keys[i - 1u]) >= least;
}

/* ------------------------------------------------------------------- encode */

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
        uint32_t n = block_rows(n_rows, i) - 1u;
        code_bits += plan_block(keys[i + n] - keys[i], n, &low);
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
    if (l->place_bytes == 0) l->place_bytes = 1;
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
        plan_block(key[n - 1u] - key[0], n - 1u, &low);
        write_long(out + l->index, entry, plan->n_key, key[0]);
        td_write_bits(out + l->index, entry + plan->n_key, LOW_FIELD, low);
        td_write_bits(out + l->index, entry + plan->n_key + LOW_FIELD, n_index, at);
        uint32_t high = at + (n - 1u) * low, low_bits = low < 32 ? low : 32u;
        td_writer w;
        td_writer_start(&w, out + l->codes, at);
        for (uint32_t i = 1; i < n; i++) {
            uint64_t part = key[i] - key[0];
            td_writer_put(&w, low_bits, (uint32_t)part & td_low_mask(low_bits));
            td_writer_put(&w, low - low_bits, (uint32_t)(part >> 32) & td_low_mask(low - low_bits));
        }
        td_writer_end(&w);
        for (uint32_t i = 1; i < n; i++) {
            uint32_t one = high + (uint32_t)((key[i] - key[0]) >> low) + i - 1u;
            out[l->codes + (one >> 3)] = (uint8_t)(out[l->codes + (one >> 3)] | 1u << (one & 7u));
        }
        if (n > 1) at = high + (uint32_t)((key[n - 1] - key[0]) >> low) + n - 1u;
    }
}

/* Plan, offsets, dictionaries, base and the key's bits. */
static void write_head(uint8_t *out, const layout *l, const uint32_t *base, const uint32_t *first_row,
                       const uint32_t *low, uint32_t n_features, uint32_t width, const td_key_plan *plan)
{
    uint32_t at = 0;
    for (uint32_t f = 0; f < n_features; f++) {
        uint32_t n_bits = td_count_bits(base[f]);
        td_write_bits(out, f * width, width, base[f]);
        if (plan->offsets) td_write_bits(out + l->dictionary / 2u, f * width, width, plan->offsets[f]);
        if (plan->n_entries) td_put16(out + l->dictionary + 2u * f, plan->n_entries[f]);
        td_write_bits(out + l->base, at, n_bits, td_gather((first_row[f] - low[f]) & plan->constant[f], base[f]));
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

/* Whether all values fit the width: seen in order, which takes less time than in that of the keys. */
static bool all_fit(const uint32_t *restrict rows, uint32_t n_rows, uint32_t n_features, const uint32_t *restrict low,
                    uint32_t width)
{
    uint32_t above = 0;
    for (uint32_t i = 0; i < n_rows; i++, rows += n_features) {
        for (uint32_t f = 0; f < n_features; f++) above |= rows[f] - low[f];
    }
    return (above & ~td_low_mask(width)) == 0;
}

enum { AHEAD = 16 }; /* rows: they come from anywhere, and are asked for so long before */

/* The bits of rows in `rest`, in the order of the keys. */
static void write_rows(uint8_t *out, const uint32_t *rows, const uint32_t *low, const uint32_t *order, uint32_t n_rows,
                       uint32_t n_features, const uint32_t *rest)
{
    td_writer w;
    td_writer_start(&w, out, 0);
    for (uint32_t i = 0; i < n_rows; i++) {
        const uint32_t *row = rows + (size_t)order[i] * n_features;
        if (n_rows - i > AHEAD) td_fetch(rows + (size_t)order[i + AHEAD] * n_features);
        for (uint32_t f = 0; f < n_features; f++) td_writer_gather(&w, row[f] - low[f], rest[f]);
    }
    td_writer_end(&w);
}

int td_encode_keys(const uint32_t *rows, const uint32_t *low, const uint32_t *order, const uint64_t *keys,
                   uint32_t n_rows, uint32_t n_features, uint32_t width, const td_key_plan *plan, uint32_t *base,
                   uint8_t *out, uint32_t capacity, td_part_header *header)
{
    layout l;
    int status = check_plan(n_rows, n_features, width, plan);
    if (status != TD_OK) return status;
    for (uint32_t f = 0; f < n_features; f++) base[f] = base_of(plan, f);
    status = lay_out(&l, base, keys, n_rows, n_features, width, plan);
    if (status != TD_OK) return status;
    if (l.size > capacity || l.size > ~0u >> 1) return TD_E_FULL; /* the largest int */
    if (!all_fit(rows, n_rows, n_features, low, width)) return TD_E_RANGE;
    memset(out, 0, (size_t)l.size);
    write_head(out, &l, base, rows, low, n_features, width, plan);
    write_keys(out, &l, keys, n_rows, plan);
    for (uint32_t f = 0; f < n_features; f++) base[f] = td_low_mask(width) & ~base[f];
    if (l.size > l.rows) write_rows(out + l.rows, rows, low, order, n_rows, n_features, base);
    header->n_rows = n_rows;
    header->n_bases = (uint16_t)plan->n_key;
    header->base_bits = l.base_bits;
    header->deviation_bits = n_features * width - l.base_bits;
    header->flags = (uint8_t)(TD_PART_KEYS | TD_PART_MASKS | (plan->offsets ? TD_PART_OFFSETS : 0) |
                              (plan->n_entries ? TD_PART_DICTIONARY : 0));
    return (int)l.size;
}
