/* Reads many rows, or any row at once, with tables in the caller's memory (docs/DESIGN.md, "Two ways to read").
 * decode.c reads the same rows without.
 *
 * An output row is cut into words of 64 bits: eight, four or two values. What a word needs is worked out once a part;
 * then each step runs over the rows of a block: keys, bits of keys and short rows by tables, other bits by spreading, sum;
 * at last, value by value, entries of lists and transforms. */
#include "archive.h"
#include "parts.h"
#include "transform.h"

enum { STEPS = 6, GROUP = 4, WORD = 64, SMALL = 4, LARGE = 8 };
/* So many words of each row of a block are worked out before they are written: a row gets a whole line of a cache, so that
 * long rows do not push each other's lines out with every word. */
enum { TILE = 8 };
enum { BLOCK_WORDS = (3 + TILE) * TD_KEY_BLOCK };
static const uint32_t NO_PART = 0xFFFFFFFFu;

/* Moves the lowest n_bits of a word to where a mask has ones, in order. */
typedef struct spread {
    uint64_t mask;
    uint64_t move[STEPS];       /* what step s moves left by 2^s; steps run from the last to the first */
    uint32_t n_bits;
    uint32_t at;                /* of its bits in a base or in a row of the rows block */
} spread;

/* What the bits of a key or of a row stand for in a word: one table for each chunk of them, from bit `shift` on. */
typedef struct tables {
    const uint64_t *entry[GROUP];
    uint32_t shift;
    uint32_t n;
} tables;

/* Values that are numbers of entries. */
typedef struct lookup {
    const uint32_t *entry;
    uint32_t feature;           /* bytes from the row's start */
    uint32_t last;              /* number of the last entry */
} lookup;

typedef struct word {
    uint64_t constant;          /* bits of the only base */
    spread base;                /* with several bases */
    spread deviation;           /* where rows are not short */
    uint64_t sum;               /* added value by value */
    const tables *of_key;
    const tables *of_row;       /* where rows are short */
    uint32_t n_of_key;
    uint32_t n_of_row;
} word;

/* A part, prepared. */
typedef struct prepared {
    uint32_t index;             /* of the part, NO_PART: none */
    uint32_t chunk;             /* bits of a key to a table */
    bool short_rows;            /* rows of the rows block are looked up in tables, as keys are */
    td_part part;
    word *words;
    const lookup *lookups;
    uint32_t n_lookups;
} prepared;

/* How a transform is undone: value = ((factor * other mod 2^32) >> shift) + value + addend, and Gray code when the factor
 * is 0. Minimum and width come in as everywhere. */
struct td_undo {
    uint32_t feature;           /* bytes from the row's start */
    uint32_t other;
    uint32_t factor;
    uint32_t shift;
    uint32_t addend;            /* less the minimum that is still in the value */
};

/* ------------------------------------------------------------------- memory */

static uint64_t aligned(uint64_t size)
{
    return (size + 7u) & ~(uint64_t)7u;
}

static uint32_t lanes(uint32_t bits)
{
    return WORD / bits;
}

static uint32_t words_of(const td_pack *pack, uint32_t bits)
{
    return (pack->n_features + lanes(bits) - 1u) / lanes(bits);
}

/* Bits to a table: larger tables are worth their making where rows are many. */
static uint32_t chunk_bits(const td_part *part)
{
    return part->n_rows < TD_MANY_ROWS ? SMALL : LARGE;
}

/* Whether the bits of rows are looked up: with large tables, in fewer steps than they are spread. */
static bool has_short_rows(const td_part *part)
{
    return part->n_rows >= TD_MANY_ROWS && part->row_bits > 0 && part->row_bits <= WORD;
}

/* A chunk of a key touches at most as many words as it has bits; those of a row lie word by word. */
static uint32_t max_tables(const td_pack *pack, const td_part *part, uint32_t bits)
{
    uint32_t n_words = words_of(pack, bits), chunk = chunk_bits(part);
    uint32_t of_key = (part->n_key + chunk - 1u) / chunk * (n_words < chunk ? n_words : chunk);
    uint32_t with_bits = n_words < part->row_bits ? n_words : part->row_bits;
    return of_key + (has_short_rows(part) ? part->row_bits / chunk + with_bits : 0);
}

static uint64_t slot_size(const td_pack *pack, const td_part *part, uint32_t bits)
{
    uint32_t n_tables = max_tables(pack, part, bits);
    uint64_t size = aligned(sizeof(prepared)) + (uint64_t)words_of(pack, bits) * sizeof(word);
    if (n_tables) size += (uint64_t)n_tables * sizeof(tables) + (n_tables + 1u) * (sizeof(uint64_t) << chunk_bits(part));
    if (part->dictionary) {
        size += (uint64_t)pack->n_features * sizeof(lookup) + 4u * (uint64_t)td_part_entries(pack, part);
    }
    return aligned(size);
}

/* The largest part's; 0 when a value does not fit. */
static uint64_t largest_slot(const td_pack *pack, uint32_t bits)
{
    uint64_t largest = 0;
    uint32_t first = 0;
    td_part part;
    if ((bits != 8 && bits != 16 && bits != 32) || pack->width > bits || (pack->image && bits != 32)) return 0;
    if (pack->archive) return aligned(sizeof(prepared));
    for (uint32_t p = 0; p < pack->n_parts; p++, first += part.n_rows) {
        if (!td_part_open(pack, p, first, &part)) return 0;
        uint64_t size = slot_size(pack, &part, bits);
        if (size > largest) largest = size;
    }
    return largest;
}

static uint64_t fixed_size(const td_pack *pack)
{
    return aligned(4u * ((uint64_t)pack->n_parts + 1u)) + BLOCK_WORDS * sizeof(uint64_t) +
           aligned((uint64_t)pack->n_transforms * sizeof(td_undo));
}

uint32_t td_unpacker_size(const td_pack *pack, uint32_t bits, uint32_t n_slots)
{
    uint64_t slot = largest_slot(pack, bits);
    if (slot == 0 || n_slots == 0 || slot > 0xFFFFFFFFu / n_slots) return 0;
    uint64_t size = fixed_size(pack) + slot * n_slots;
    return size > 0xFFFFFFFFu ? 0 : (uint32_t)size;
}

static void prepare_transforms(td_unpacker *u)
{
    const uint8_t *record = u->pack->transforms;
    u->n_undo = u->pack->n_transforms;
    for (uint32_t i = 0; i < u->n_undo; i++, record += TD_TRANSFORM_RECORD) {
        td_undo *t = u->undo + i;
        t->feature = td_transform_feature(record) * (u->bits / 8u);
        t->other = td_transform_other(record) * (u->bits / 8u);
        t->factor = td_transform_factor(record);
        t->shift = record[6];
        t->addend = td_transform_turn(record, 32u - u->pack->width) - (uint32_t)u->pack->minimum;
    }
}

int td_unpacker_init(td_unpacker *u, const td_pack *pack, uint32_t bits, uint32_t n_slots, void *memory, uint32_t size)
{
    uint32_t needed = td_unpacker_size(pack, bits, n_slots);
    if (needed == 0) return TD_E_ARGUMENT;
    if (size < needed) return TD_E_MEMORY;
    u->pack = pack;
    u->bits = bits;
    u->n_slots = n_slots;
    u->slot_size = (size_t)largest_slot(pack, bits);
    u->first_rows = (uint32_t *)memory;
    u->block = (uint64_t *)(void *)((uint8_t *)memory + aligned(4u * ((uint64_t)pack->n_parts + 1u)));
    u->undo = (td_undo *)(void *)(u->block + BLOCK_WORDS);
    u->slots = (uint8_t *)u->undo + (size_t)aligned((uint64_t)pack->n_transforms * sizeof(td_undo));
    prepare_transforms(u);
    u->first_rows[0] = 0;
    for (uint32_t p = 0; p < pack->n_parts; p++) {
        u->first_rows[p + 1] = u->first_rows[p] + td_get32(pack->parts + (size_t)p * TD_PART_RECORD);
    }
    for (uint32_t s = 0; s < n_slots; s++) ((prepared *)(void *)(u->slots + s * u->slot_size))->index = NO_PART;
    return TD_OK;
}

/* ------------------------------------------------------------------ prepare */

static void plan_spread(spread *to, uint64_t mask, uint32_t at)
{
    uint64_t left = mask, zeros = ~mask << 1;
    to->mask = mask;
    to->at = at;
    to->n_bits = td_count_bits((uint32_t)mask) + td_count_bits((uint32_t)(mask >> 32));
    for (uint32_t s = 0; s < STEPS; s++) { /* a bit moves by 2^s when the zeros below it are odd in number, and so on */
        uint64_t odd = zeros ^ zeros << 1;
        odd ^= odd << 2;
        odd ^= odd << 4;
        odd ^= odd << 8;
        odd ^= odd << 16;
        odd ^= odd << 32;
        uint64_t move = odd & left;
        to->move[s] = move;
        left = (left ^ move) | move >> (1u << s);
        zeros &= ~odd;
    }
}

static inline uint64_t spread_one(const spread *by, uint64_t value)
{
    for (uint32_t s = STEPS; s-- > 0;) value ^= (value ^ value << (1u << s)) & by->move[s];
    return value & by->mask;
}

/* Many values step by step, which compilers do for several at once. */
static TD_INLINE void spread_bits(const spread *by, uint64_t *values, uint32_t n)
{
    for (uint32_t s = STEPS; s-- > 0;) {
        uint64_t move = by->move[s];
        uint32_t distance = (uint32_t)1 << s;
        for (uint32_t i = 0; move && i < n; i++) values[i] ^= (values[i] ^ values[i] << distance) & move;
    }
    for (uint32_t i = 0; i < n; i++) values[i] &= by->mask;
}

/* Masks, constant and sums of the words. */
static void prepare_words(const td_unpacker *u, prepared *to)
{
    const td_pack *pack = u->pack;
    const td_part *part = &to->part;
    uint32_t at_base = 0, at_row = part->id_bits, all = td_low_mask(pack->width);
    for (uint32_t w = 0, f = 0; f < pack->n_features; w++) {
        word *word = to->words + w;
        uint64_t base = 0, deviation = 0;
        word->sum = 0;
        for (uint32_t shift = 0; shift < WORD && f < pack->n_features; shift += u->bits, f++) {
            uint32_t mask = td_part_base_mask(pack, part, f), sum = (uint32_t)pack->minimum;
            if (part->offsets) sum += td_read_bits(part->offsets, f * pack->width, pack->width);
            base |= (uint64_t)mask << shift;
            deviation |= (uint64_t)(all & ~mask) << shift;
            word->sum |= (uint64_t)(sum & td_low_mask(u->bits)) << shift;
        }
        plan_spread(&word->base, base, at_base);
        plan_spread(&word->deviation, deviation, at_row);
        at_base += word->base.n_bits;
        at_row += word->deviation.n_bits;
        word->constant = 0;
        if (part->id_bits == 0) {
            word->constant = spread_one(&word->base, td_read_long(part->bases, word->base.at, word->base.n_bits));
            word->base.n_bits = 0;
        }
        word->n_of_key = word->n_of_row = 0;
    }
}

/* The bits of word w that the key's bits from..from + n - 1, counted from the least significant, stand for. */
static bool key_bits_of(const td_unpacker *u, const td_part *part, uint32_t w, uint32_t from, uint32_t n, uint64_t *bits)
{
    bool any = false;
    for (uint32_t i = 0; i < n; i++) {
        bits[i] = 0;
        if (from + i >= part->n_key) continue;
        uint32_t name = td_part_name(part, from + i), feature = name >> part->bit_bits, bit = name & td_part_bit_mask(part);
        if (feature / lanes(u->bits) != w) continue;
        bits[i] = (uint64_t)1 << (feature % lanes(u->bits) * u->bits + bit);
        any = true;
    }
    return any;
}

/* Where tables are made. */
typedef struct maker {
    tables *group;              /* behind the last one */
    uint64_t *entry;            /* of the next table */
    const uint64_t *nothing;    /* a table of zeros */
    uint32_t chunk;
} maker;

/* A table for the chunk from bit `shift` on, whose bits stand for these: in the last of n groups, or in a new one. */
static void make_table(maker *m, uint32_t *n, uint32_t shift, const uint64_t *bits)
{
    if (*n == 0 || shift - m->group[-1].shift >= GROUP * m->chunk) {
        *m->group++ = (tables){{m->nothing, m->nothing, m->nothing, m->nothing}, shift, 0};
        ++*n;
    }
    tables *group = m->group - 1;
    uint32_t at = (shift - group->shift) / m->chunk;
    uint64_t *entry = m->entry;
    group->entry[at] = entry;
    group->n = at + 1u;
    entry[0] = 0;
    for (uint32_t i = 0; i < m->chunk; i++) {
        for (uint32_t e = 0, half = (uint32_t)1 << i; e < half; e++) entry[half + e] = entry[e] ^ bits[i];
    }
    m->entry += (uint32_t)1 << m->chunk;
}

/* The tables of all words. Returns the memory behind them. */
static uint8_t *prepare_tables(const td_unpacker *u, prepared *to, uint8_t *memory)
{
    uint32_t n_words = words_of(u->pack, u->bits), chunk = to->chunk, n_tables = max_tables(u->pack, &to->part, u->bits);
    uint64_t *nothing = (uint64_t *)(void *)((tables *)(void *)memory + n_tables), bits[8];
    maker m = {(tables *)(void *)memory, nothing + ((uint32_t)1 << chunk), nothing, chunk};
    for (uint32_t e = 0; e < (uint32_t)1 << chunk; e++) nothing[e] = 0;
    for (uint32_t w = 0; w < n_words; w++) {
        word *word = to->words + w;
        word->of_key = m.group;
        for (uint32_t from = 0; from < to->part.n_key; from += chunk) {
            if (key_bits_of(u, &to->part, w, from, chunk, bits)) make_table(&m, &word->n_of_key, from, bits);
        }
        word->of_row = m.group;
        for (uint32_t from = 0; to->short_rows && from < word->deviation.n_bits; from += chunk) {
            for (uint32_t i = 0; i < chunk; i++) {
                bits[i] = from + i < WORD ? spread_one(&word->deviation, (uint64_t)1 << (from + i)) : 0;
            }
            make_table(&m, &word->n_of_row, word->deviation.at + from, bits);
        }
    }
    return (uint8_t *)m.entry;
}

/* Lists of entries that are the values in full: their features take nothing from the word's sum. */
static void prepare_lookups(const td_unpacker *u, prepared *to, uint8_t *memory)
{
    const td_pack *pack = u->pack;
    const uint8_t *sizes = to->part.dictionary, *lists = sizes + 2u * (size_t)pack->n_features;
    lookup *lookups = (lookup *)(void *)memory;
    uint32_t *entry = (uint32_t *)(void *)(lookups + pack->n_features), done = 0;
    to->lookups = lookups;
    for (uint32_t f = 0; f < pack->n_features; f++) {
        word *word = to->words + f / lanes(u->bits);
        uint32_t n = td_get16(sizes + 2u * (size_t)f), shift = f % lanes(u->bits) * u->bits;
        if (n == 0) continue;
        uint32_t sum = (uint32_t)(word->sum >> shift) & td_low_mask(u->bits);
        word->sum &= ~((uint64_t)td_low_mask(u->bits) << shift);
        *lookups++ = (lookup){entry, f * (u->bits / 8u), n - 1u};
        to->n_lookups++;
        for (uint32_t e = 0; e < n; e++, done++) {
            *entry++ = (td_read_bits(lists, done * pack->width, pack->width) + sum) & td_low_mask(u->bits);
        }
    }
}

static uint32_t find_part(const td_unpacker *u, uint32_t row)
{
    uint32_t low = 0, high = u->pack->n_parts;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2u;
        if (u->first_rows[middle] <= row) low = middle;
        else high = middle;
    }
    return low;
}

/* The part that holds a row, from its slot. */
static prepared *prepare(const td_unpacker *u, uint32_t row)
{
    uint32_t index = find_part(u, row);
    prepared *to = (prepared *)(void *)(u->slots + index % u->n_slots * u->slot_size);
    if (to->index == index) return to;
    if (!td_part_open(u->pack, index, u->first_rows[index], &to->part)) return NULL;
    uint8_t *memory = (uint8_t *)to + aligned(sizeof *to);
    to->index = index;
    to->chunk = chunk_bits(&to->part);
    to->short_rows = has_short_rows(&to->part);
    to->n_lookups = 0;
    to->words = (word *)(void *)memory;
    memory += (size_t)words_of(u->pack, u->bits) * sizeof(word);
    prepare_words(u, to);
    if (max_tables(u->pack, &to->part, u->bits)) memory = prepare_tables(u, to, memory);
    if (to->part.dictionary) prepare_lookups(u, to, memory);
    return to;
}

/* --------------------------------------------------------------------- read */

/* The 64 bits from a byte on; those past the end of the file are zero. */
static inline uint64_t load(const uint8_t *p, const uint8_t *end)
{
    if (end - p >= 8) {
        return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
               (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
    }
    uint64_t value = 0;
    for (uint32_t i = 0; p + i < end; i++) value |= (uint64_t)p[i] << 8u * i;
    return value;
}

static inline uint64_t mask_of(uint32_t n_bits)
{
    return n_bits < 64 ? ((uint64_t)1 << n_bits) - 1u : ~(uint64_t)0;
}

/* n_bits (mask: as many ones) of a stream inside the file, at most 64. */
static inline uint64_t read(const uint8_t *stream, const uint8_t *end, uint64_t at, uint32_t n_bits, uint64_t mask)
{
    const uint8_t *p = stream + (at >> 3);
    uint32_t shift = (uint32_t)at & 7u;
    uint64_t value = load(p, end) >> shift;
    if (shift + n_bits > 64) value |= (uint64_t)p[8] << (64u - shift);
    return value & mask;
}

/* Zeros below the lowest one of a word that is not 0. */
static inline uint32_t trailing_zeros(uint64_t bits)
{
#if defined(__GNUC__)
    return (uint32_t)__builtin_ctzll(bits);
#else
    uint64_t below = (bits & (0u - bits)) - 1u;
    return td_count_bits((uint32_t)below) + td_count_bits((uint32_t)(below >> 32));
#endif
}

static inline uint32_t count_ones(uint64_t bits)
{
    return td_count_bits((uint32_t)bits) + td_count_bits((uint32_t)(bits >> 32));
}

/* Where the codes of a block have their ones. */
typedef struct ones {
    const uint8_t *stream, *end;
    uint64_t at;                /* bit at which `bits` starts */
    uint64_t bits;              /* ones not taken yet */
} ones;

static void next_word(ones *in)
{
    in->at += 64u - (in->at & 7u); /* at a byte from the second word on */
    in->bits = load(in->stream + (in->at >> 3), in->end);
}

static inline uint64_t next_one(ones *in)
{
    while (in->bits == 0) next_word(in);
    uint64_t at = in->at + trailing_zeros(in->bits);
    in->bits &= in->bits - 1u;
    return at;
}

static void skip_ones(ones *in, uint32_t n)
{
    for (uint32_t here; (here = count_ones(in->bits)) <= n && n > 0; n -= here) next_word(in);
    for (; n > 0; n--) in->bits &= in->bits - 1u;
}

/* Keys of n rows from row `first` of the part on, all of one block. */
static void read_keys(const uint8_t *end, td_part *part, uint32_t first, uint32_t n, uint64_t *keys)
{
    td_part_start_block(part, first / TD_KEY_BLOCK);
    uint32_t skipped = first % TD_KEY_BLOCK, n_low = part->n_low;
    uint64_t start = part->at_high, low_at = part->at_low, all = mask_of(part->n_key), low_mask = mask_of(n_low);
    if (skipped == 0) {
        *keys++ = part->high_key;
        n--;
    } else {
        skipped--;
    }
    if (n == 0) return;
    low_at += (uint64_t)skipped * n_low;
    ones in = {part->codes, end, start & ~(uint64_t)7u, 0};
    in.bits = load(in.stream + (start >> 3), end) >> (start & 7u) << (start & 7u);
    skip_ones(&in, skipped);
    start += skipped;
    for (uint32_t i = 0; i < n; i++, low_at += n_low) {
        uint64_t high = next_one(&in) - start - i, low = read(part->codes, end, low_at, n_low, low_mask);
        keys[i] = (part->high_key + (high << n_low) + low) & all;
    }
}

/* Bits of the bases block at which the base of each row starts. */
static void read_bases(const uint8_t *end, const td_part *part, uint32_t base_bits, uint64_t row_at, uint32_t n, uint64_t *at)
{
    uint64_t mask = mask_of(part->id_bits);
    for (uint32_t i = 0; i < n; i++, row_at += part->row_bits) {
        at[i] = read(part->rows, end, row_at, part->id_bits, mask) * base_bits;
    }
}

/* Adds what n_tables tables have for each of n keys or rows. Both numbers are constants where this is called. */
static TD_INLINE void add_group(const tables *by, uint32_t n_tables, uint32_t chunk, const uint64_t *keys, uint32_t n,
                                uint64_t *out)
{
    const uint64_t *a = by->entry[0], *b = by->entry[1], *c = by->entry[2], *d = by->entry[3], mask = mask_of(chunk);
    uint32_t shift = by->shift;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t key = keys[i] >> shift, sum = out[i] ^ a[key & mask];
        if (n_tables > 1) sum ^= b[key >> chunk & mask];
        if (n_tables > 2) sum ^= c[key >> 2u * chunk & mask] ^ d[key >> 3u * chunk & mask];
        out[i] = sum;
    }
}

static void add_tables(const tables *by, uint32_t n_groups, uint32_t chunk, const uint64_t *keys, uint32_t n, uint64_t *out)
{
    for (; n_groups > 0; n_groups--, by++) {
        if (chunk == SMALL) add_group(by, GROUP, SMALL, keys, n, out);
        else if (by->n == 1) add_group(by, 1, LARGE, keys, n, out);
        else if (by->n == 2) add_group(by, 2, LARGE, keys, n, out);
        else add_group(by, GROUP, LARGE, keys, n, out);
    }
}

static void read_rows(const uint8_t *end, const td_part *part, uint64_t row_at, uint32_t n, uint64_t *rows)
{
    uint64_t mask = mask_of(part->row_bits);
    for (uint32_t i = 0; i < n; i++, row_at += part->row_bits) rows[i] = read(part->rows, end, row_at, part->row_bits, mask);
}

static void add_spread(const spread *by, uint64_t *fields, uint32_t n, uint64_t *out)
{
    if (n == 1) { /* a row alone has nobody beside it */
        *out ^= spread_one(by, *fields);
        return;
    }
    spread_bits(by, fields, n);
    for (uint32_t i = 0; i < n; i++) out[i] ^= fields[i];
}

static void add_bases(const uint8_t *end, const td_part *part, const spread *by, const uint64_t *base_at, uint32_t n,
                      uint64_t *fields, uint64_t *out)
{
    uint64_t mask = mask_of(by->n_bits);
    for (uint32_t i = 0; i < n; i++) fields[i] = read(part->bases, end, base_at[i] + by->at, by->n_bits, mask);
    add_spread(by, fields, n, out);
}

static void add_deviations(const uint8_t *end, const td_part *part, const spread *by, uint64_t row_at, uint32_t n,
                           uint64_t *fields, uint64_t *out)
{
    uint64_t mask = mask_of(by->n_bits), at = row_at + by->at;
    for (uint32_t i = 0; i < n; i++, at += part->row_bits) fields[i] = read(part->rows, end, at, by->n_bits, mask);
    add_spread(by, fields, n, out);
}

/* Value by value, modulo 2^bits: high bits are added without their carry. */
static void add_sum(uint64_t sum, uint32_t bits, uint32_t n, uint64_t *out)
{
    uint64_t high = (bits == 8 ? 0x8080808080808080u : bits == 16 ? 0x8000800080008000u : 0x8000000080000000u);
    uint64_t low_sum = sum & ~high;
    for (uint32_t i = 0; i < n; i++) out[i] = ((out[i] & ~high) + low_sum) ^ ((out[i] ^ sum) & high);
}

/* The first n_values of a word, in the machine's byte order. */
static void put_values(uint64_t value, uint32_t bits, uint32_t n_values, uint8_t *out)
{
    for (uint32_t v = 0; v < n_values; v++, value >>= bits) {
        if (bits == 8) {
            out[v] = (uint8_t)(value & 0xFFu);
        } else if (bits == 16) {
            uint16_t half = (uint16_t)(value & 0xFFFFu);
            memcpy(out + 2u * v, &half, sizeof half);
        } else {
            uint32_t whole = (uint32_t)value;
            memcpy(out + 4u * v, &whole, sizeof whole);
        }
        if (bits == 32 && v == 1) break;
    }
}

/* A tile into its rows, whole words as long as they fit before the end; loops are made for an n_words that is a constant.
 * Returns how many rows are written: none where words are not their values in memory, on big-endian machines. */
static TD_INLINE uint32_t put_whole(const uint64_t *words, uint32_t n_words, uint32_t n, size_t stride, uint8_t *out,
                                    const uint8_t *end)
{
    uint32_t i = 0;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    for (; i < n && end - out >= (ptrdiff_t)(8u * n_words); i++, out += stride) {
        for (uint32_t w = 0; w < n_words; w++) memcpy(out + 8u * w, words + w * TD_KEY_BLOCK + i, 8);
    }
#else
    (void)words, (void)n_words, (void)n, (void)stride, (void)out, (void)end;
#endif
    return i;
}

/* A tile of n_words words into its rows, which have n_values from there on. Last words may be written whole, over what follows their row:
 * rows come forwards and their tiles backwards, so that it is yet to be written. */
static void put_words(const uint64_t *words, uint32_t n_words, uint32_t n, uint32_t bits, uint32_t n_values, size_t stride,
                      uint8_t *out, const uint8_t *end)
{
    uint32_t i;
    if (n_words == TILE) i = put_whole(words, TILE, n, stride, out, end);
    else if (n_words == 1) i = put_whole(words, 1, n, stride, out, end);
    else i = put_whole(words, n_words, n, stride, out, end);
    for (out += i * stride; i < n; i++, out += stride) {
        for (uint32_t w = 0, left = n_values; w < n_words; w++, left -= lanes(bits)) {
            put_values(words[w * TD_KEY_BLOCK + i], bits, left < lanes(bits) ? left : lanes(bits), out + 8u * w);
        }
    }
}

static inline uint32_t get_value(const uint8_t *at, uint32_t n_bytes)
{
    if (n_bytes == 1) return *at;
    if (n_bytes == 2) {
        uint16_t half;
        memcpy(&half, at, sizeof half);
        return half;
    }
    uint32_t whole;
    memcpy(&whole, at, sizeof whole);
    return whole;
}

/* n rows of values of n_bytes, which is a constant where this is called: the loops are made for it. */
static inline void look_up(const prepared *from, uint32_t n_bytes, size_t stride, uint32_t n, uint8_t *out)
{
    for (uint32_t l = 0; l < from->n_lookups; l++) {
        const uint32_t *entry = from->lookups[l].entry, last = from->lookups[l].last;
        uint8_t *value = out + from->lookups[l].feature;
        for (uint32_t i = 0; i < n; i++, value += stride) {
            uint32_t number = get_value(value, n_bytes);
            put_values(entry[number < last ? number : last], 8u * n_bytes, 1, value);
        }
    }
}

#if TD_TRANSFORMS
static inline void undo_gray(const td_undo *t, uint32_t mask, uint32_t low, uint32_t n_bytes, size_t stride, uint32_t n,
                             uint8_t *value)
{
    for (; n > 0; n--, value += stride) {
        uint32_t before = (get_value(value, n_bytes) + t->addend) & mask;
        put_values(td_transform_gray(before) + low, 8u * n_bytes, 1, value);
    }
}

static inline void undo_multiple(const td_undo *t, uint32_t mask, uint32_t low, uint32_t n_bytes, size_t stride, uint32_t n,
                                 uint8_t *value, const uint8_t *other)
{
    uint32_t factor = t->factor, shift = t->shift, addend = t->addend;
    for (; n > 0; n--, value += stride, other += stride) {
        uint32_t product = ((get_value(other, n_bytes) - low) & mask) * factor;
        uint32_t before = (get_value(value, n_bytes) + (product >> shift) + addend) & mask;
        put_values(before + low, 8u * n_bytes, 1, value);
    }
}

/* As look_up; as td_transforms_undo. */
static inline void undo_transforms(const td_unpacker *u, uint32_t n_bytes, size_t stride, uint32_t n, uint8_t *out)
{
    uint32_t mask = td_low_mask(u->pack->width), low = (uint32_t)u->pack->minimum;
    for (uint32_t i = 0; i < u->n_undo; i++) {
        const td_undo *t = u->undo + i;
        if (t->factor) undo_multiple(t, mask, low, n_bytes, stride, n, out + t->feature, out + t->other);
        else undo_gray(t, mask, low, n_bytes, stride, n, out + t->feature);
    }
}
#endif

/* What follows when a row's words are together: entries of lists for their numbers, and transforms. */
static inline void finish_values(const td_unpacker *u, const prepared *from, uint32_t n_bytes, uint32_t n, uint8_t *out)
{
    size_t stride = (size_t)u->pack->n_features * (size_t)n_bytes;
    look_up(from, n_bytes, stride, n, out);
#if TD_TRANSFORMS
    undo_transforms(u, n_bytes, stride, n, out);
#endif
}

/* Rows of one block that are read together, in the memory that the unpacker has for them. */
typedef struct block {
    const uint8_t *file_end;
    uint64_t row_at;            /* bit of the rows block at which the first one starts */
    uint32_t n;
    uint64_t *keys;             /* or where the bases are */
    uint64_t *rows;             /* short ones */
    uint64_t *fields;           /* bits of one word, before they are spread */
    uint64_t *words;            /* of a tile: word w of row i at w * TD_KEY_BLOCK + i */
} block;

static block start_block(const td_unpacker *u, prepared *from, uint32_t first, uint32_t n)
{
    td_part *part = &from->part;
    uint64_t *keys = u->block, *rows = keys + TD_KEY_BLOCK, *fields = rows + TD_KEY_BLOCK, *words = fields + TD_KEY_BLOCK;
    block b = {u->pack->file.data + u->pack->file.size, (uint64_t)first * part->row_bits, n, keys, rows, fields, words};
    if (part->n_key) read_keys(b.file_end, part, first, n, keys);
    else if (part->id_bits) read_bases(b.file_end, part, td_part_base_bits(u->pack, part), b.row_at, n, keys);
    if (from->short_rows) read_rows(b.file_end, part, b.row_at, n, rows);
    return b;
}

static TD_INLINE void read_word(const prepared *from, const word *word, const block *b, uint32_t bits, uint64_t *out)
{
    for (uint32_t i = 0; i < b->n; i++) out[i] = word->constant;
    if (word->n_of_key) add_tables(word->of_key, word->n_of_key, from->chunk, b->keys, b->n, out);
    if (word->n_of_row) add_tables(word->of_row, word->n_of_row, from->chunk, b->rows, b->n, out);
    if (word->base.n_bits) add_bases(b->file_end, &from->part, &word->base, b->keys, b->n, b->fields, out);
    if (word->deviation.n_bits && !from->short_rows) {
        add_deviations(b->file_end, &from->part, &word->deviation, b->row_at, b->n, b->fields, out);
    }
    add_sum(word->sum, bits, b->n, out);
}

/* n rows from row `first` of the part on, all of one block. */
static void read_block(const td_unpacker *u, prepared *from, uint32_t first, uint32_t n, uint8_t *out, const uint8_t *end)
{
    uint32_t bits = u->bits, n_features = u->pack->n_features;
    size_t stride = (size_t)n_features * (size_t)(bits / 8u);
    const block b = start_block(u, from, first, n);
    for (uint32_t stop = words_of(u->pack, bits), start; stop > 0; stop = start) { /* backwards: see put_words */
        start = (stop - 1u) / TILE * TILE;
        uint64_t *words = b.words;
        for (uint32_t w = start; w < stop; w++, words += TD_KEY_BLOCK) read_word(from, from->words + w, &b, bits, words);
        put_words(b.words, stop - start, n, bits, n_features - start * lanes(bits), stride, out + 8u * (size_t)start, end);
    }
    if (u->bits == 8) finish_values(u, from, 1, n, out);
    else if (u->bits == 16) finish_values(u, from, 2, n, out);
    else finish_values(u, from, 4, n, out);
#if TD_IMAGES
    for (uint32_t i = 0; u->pack->image && i < n; i++) {
        td_image_inverse(u->pack->image, (int32_t *)(void *)(out + i * stride));
    }
#endif
}

/* One row of an archive. */
static int read_archived(const td_unpacker *u, uint32_t row, uint8_t *out)
{
#if TD_ARCHIVE
    const td_pack *pack = u->pack;
    const uint32_t *stored = td_archive_row(pack, row);
    if (!stored) return TD_E_MEMORY;
    for (uint32_t f = 0; f < pack->n_features; f++) {
        put_values(stored[f] + (uint32_t)pack->minimum, u->bits, 1, out + (size_t)f * (size_t)(u->bits / 8u));
    }
#if TD_IMAGES
    if (pack->image) td_image_inverse(pack->image, (int32_t *)(void *)out);
#endif
    return TD_OK;
#else
    (void)u, (void)row, (void)out;
    return TD_E_UNSUPPORTED;
#endif
}

int td_unpacker_rows(const td_unpacker *u, uint32_t first, uint32_t count, void *values)
{
    size_t stride = (size_t)u->pack->n_features * (size_t)(u->bits / 8u);
    if (first > u->pack->n_rows || count > u->pack->n_rows - first) return TD_E_RANGE;
    if (!u->pack->order) return td_unpacker_stored(u, first, count, values);
    int status = TD_OK;
    for (uint32_t i = 0; status == TD_OK && i < count; i++) {
        status = td_unpacker_stored(u, td_pack_position(u->pack, first + i), 1, (uint8_t *)values + i * stride);
    }
    return status;
}

int td_unpacker_stored(const td_unpacker *u, uint32_t first, uint32_t count, void *values)
{
    size_t stride = (size_t)u->pack->n_features * (size_t)(u->bits / 8u);
    uint8_t *out = (uint8_t *)values;
    const uint8_t *end = out + count * stride;
    if (first > u->pack->n_rows || count > u->pack->n_rows - first) return TD_E_RANGE;
    for (; u->pack->archive && count > 0; first++, count--, out += stride) {
        int status = read_archived(u, first, out);
        if (status != TD_OK) return status;
    }
    while (count > 0) {
        prepared *from = prepare(u, first);
        if (!from) return TD_E_FORMAT;
        uint32_t row = first - from->part.first_row, n = TD_KEY_BLOCK - row % TD_KEY_BLOCK;
        if (n > from->part.n_rows - row) n = from->part.n_rows - row;
        if (n > count) n = count;
        read_block(u, from, row, n, out, end);
        out += n * stride;
        first += n;
        count -= n;
    }
    return TD_OK;
}

int td_unpacker_take(const td_unpacker *u, const uint32_t *rows, uint32_t count, void *values)
{
    size_t stride = (size_t)u->pack->n_features * (size_t)(u->bits / 8u);
    uint8_t *out = (uint8_t *)values;
    int status = TD_OK;
    for (uint32_t i = 0; status == TD_OK && i < count; i++) status = td_unpacker_rows(u, rows[i], 1, out + i * stride);
    return status;
}
