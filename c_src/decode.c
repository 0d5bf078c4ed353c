/* Opens a .tdz and reads rows and samples from it in place (docs/SPEC.md, ".tdz"). */
#include "archive.h"
#include "parts.h"

static uint32_t bytes_of(uint64_t bits)
{
    return (uint32_t)((bits + 7u) / 8u);
}

enum { LOW_FIELD = 6, CODE_BITS_FIELD = 32,
       ALL_FLAGS = TD_PART_OFFSETS | TD_PART_MASKS | TD_PART_KEYS | TD_PART_DICTIONARY };
static const uint32_t NO_ROW = 0xFFFFFFFFu, MAX_CODE_BITS = 0x7FFFFFFFu;

/* ------------------------------------------------------------------- parts */

static void read_part_header(const td_pack *pack, uint32_t index, td_part_header *header)
{
    const uint8_t *record = pack->parts + (size_t)index * TD_PART_RECORD;
    uint32_t last = td_get32(record + 12);
    header->n_rows = td_get32(record);
    header->offset = td_get32(record + 4);
    header->label = (uint16_t)td_get16(record + 8);
    header->n_bases = (uint16_t)td_get16(record + 10);
    header->deviation_bits = last & 0x00FFFFFFu;
    header->base_bits = pack->n_features * pack->width - header->deviation_bits;
    header->flags = (uint8_t)(last >> 24);
}

static uint32_t plan_field_bits(const td_pack *pack, const td_part *part)
{
    return part->header.flags & TD_PART_MASKS ? pack->width : td_id_bits(pack->width + 1u);
}

uint32_t td_part_base_mask(const td_pack *pack, const td_part *part, uint32_t feature)
{
    uint32_t n_bits = plan_field_bits(pack, part);
    uint32_t field = td_read_bits(part->plan, feature * n_bits, n_bits);
    return part->header.flags & TD_PART_MASKS ? field : td_leading_mask(pack->width, field);
}

static uint32_t n_bases(const td_part *part)
{
    return td_part_has(part, TD_PART_KEYS) ? 1u : part->header.n_bases;
}

/* The next n_bits of the data section, as whole bytes; NULL, and so from then on, when they are not there. */
static const uint8_t *take(const td_pack *pack, uint64_t *at, uint64_t n_bits)
{
    uint64_t start = *at;
    *at += (n_bits + 7u) / 8u;
    return *at <= pack->data.size ? pack->data.data + start : NULL;
}

uint32_t td_part_entries(const td_pack *pack, const td_part *part)
{
    uint32_t n = 0;
    for (uint32_t f = 0; f < pack->n_features; f++) n += td_get16(part->dictionary + 2u * (size_t)f);
    return n;
}

static uint32_t index_field_bits(const td_part *part)
{
    return part->header.n_bases + LOW_FIELD + td_id_bits(part->code_bits + 1u);
}

static uint32_t index_bits(const td_part *part)
{
    return CODE_BITS_FIELD + (part->header.n_rows + TD_KEY_BLOCK - 1u) / TD_KEY_BLOCK * index_field_bits(part);
}

/* The blocks of a part with keys, from `at` on; false when they do not fit. */
static bool place_keys(const td_pack *pack, uint64_t *at, td_part *part)
{
    part->bit_bits = (uint8_t)td_id_bits(pack->width);
    part->place_bytes = (uint8_t)((td_id_bits(pack->n_features) + part->bit_bits + 7u) / 8u);
    part->places = take(pack, at, 8u * (uint64_t)part->place_bytes * part->header.n_bases);
    uint64_t index = *at;
    if (!take(pack, at, CODE_BITS_FIELD)) return false;
    part->code_bits = td_get32(pack->data.data + index);
    if (part->code_bits > MAX_CODE_BITS) return false;
    *at = index;
    part->index = take(pack, at, index_bits(part));
    part->codes = take(pack, at, part->code_bits);
    part->at_row = NO_ROW;
    return part->codes != NULL;
}

/* Sets the part's pointers; *end: where it ends in the data section. False when it does not fit there. */
static bool place_part(const td_pack *pack, uint32_t first_row, td_part *part, uint64_t *end)
{
    const td_part_header *header = &part->header;
    uint64_t at = header->offset, values = (uint64_t)pack->width * pack->n_features;
    part->first_row = first_row;
    part->id_bits = (uint8_t)td_id_bits(n_bases(part));
    part->plan = take(pack, &at, (uint64_t)plan_field_bits(pack, part) * pack->n_features);
    part->offsets = td_part_has(part, TD_PART_OFFSETS) ? take(pack, &at, values) : NULL;
    part->dictionary = NULL;
    if (td_part_has(part, TD_PART_DICTIONARY)) {
        part->dictionary = take(pack, &at, 16u * (uint64_t)pack->n_features);
        if (!part->dictionary) return false;
        uint64_t entries = (uint64_t)td_part_entries(pack, part) * pack->width;
        if (entries > 0xFFFFFFFFu) return false;
        take(pack, &at, entries);
    }
    part->bases = take(pack, &at, (uint64_t)n_bases(part) * header->base_bits);
    if (td_part_has(part, TD_PART_KEYS) && !place_keys(pack, &at, part)) return false;
    part->rows = take(pack, &at, (uint64_t)header->n_rows * td_part_row_bits(part));
    *end = at;
    return part->rows != NULL;
}

bool td_part_open(const td_pack *pack, uint32_t index, uint32_t first_row, td_part *part)
{
    uint64_t end;
    read_part_header(pack, index, &part->header);
    return place_part(pack, first_row, part, &end);
}

/* Makes the part of a row the one at hand. */
static int find_part(td_pack *pack, uint32_t row)
{
    if (row >= pack->n_rows) return TD_E_RANGE;
    td_part *part = &pack->part;
    uint32_t first = 0, p = 0;
    if (row > part->first_row) { /* behind the part at hand: rows in order cost one step a part */
        first = part->first_row + part->header.n_rows;
        p = part->number + 1u;
    }
    for (;; p++) {
        read_part_header(pack, p, &part->header);
        if (row - first < part->header.n_rows) break;
        first += part->header.n_rows;
    }
    part->number = p;
    uint64_t end;
    pack->cached = false;
    return place_part(pack, first, part, &end) ? TD_OK : TD_E_FORMAT;
}

/* -------------------------------------------------------------------- keys */

uint64_t td_read_long(const uint8_t *stream, uint32_t at, uint32_t n_bits)
{
    if (n_bits <= 32) return td_read_bits(stream, at, n_bits);
    return td_read_bits(stream, at, 32) | (uint64_t)td_read_bits(stream, at + 32u, n_bits - 32u) << 32;
}

/* Rows of the block behind its first: each has a code. */
static uint32_t block_codes(const td_part *part, uint32_t block)
{
    uint32_t left = part->header.n_rows - block * TD_KEY_BLOCK;
    return (left < TD_KEY_BLOCK ? left : TD_KEY_BLOCK) - 1u;
}

uint32_t td_part_start_block(td_part *part, uint32_t block)
{
    uint32_t n_key = part->header.n_bases, n_bits = index_field_bits(part), at = CODE_BITS_FIELD + block * n_bits;
    part->first_key = td_read_long(part->index, at, n_key);
    part->n_low = td_read_bits(part->index, at + n_key, LOW_FIELD);
    part->at_low = td_read_bits(part->index, at + n_key + LOW_FIELD, n_bits - n_key - LOW_FIELD);
    uint32_t n_codes = block_codes(part, block);
    part->at_high = part->at_low + n_codes * part->n_low;
    part->at_row = block * TD_KEY_BLOCK;
    part->key = part->first_key;
    part->high = 0;
    return n_codes;
}

static inline uint64_t shifted(uint32_t value, uint32_t n_bits)
{
    if (n_bits >= 32) return (uint64_t)(value << (n_bits - 32u)) << 32;
    return value << n_bits | (uint64_t)(value >> 1 >> (31u - n_bits)) << 32;
}

/* Goes on by n rows of the block, n > 0: the high part of a row is the number of zeros before its one. Bits of the key
 * from n_bases on are not cleared. */
static void skip_keys(td_part *part, uint32_t n)
{
    uint32_t at = part->at_high, left = n;
    const uint8_t *from = part->codes + (at >> 3);
    uint32_t bits = (uint32_t)*from >> (at & 7u);
    while (left > 0) {
        uint32_t ones = left > 1 ? td_count_byte(bits) : bits != 0;
        if (ones < left) {
            at = (at | 7u) + 1u;
            bits = *++from;
            left -= ones;
        } else {
            do {
                left -= bits & 1u;
                bits >>= 1;
                at++;
            } while (left > 0);
        }
    }
    part->high += at - part->at_high - n;
    part->at_high = at;
    part->at_row += n;
    uint32_t n_low = part->n_low;
    at = part->at_low + (n - 1u) * n_low;
    part->at_low = at + n_low;
    part->key = part->first_key + shifted(part->high, n_low) + td_read_long(part->codes, at, n_low);
}

static void seek_key(td_part *part, uint32_t row)
{
    uint32_t there = part->at_row;
    if (row < there || (row ^ there) >= TD_KEY_BLOCK) {
        td_part_start_block(part, row / TD_KEY_BLOCK);
        there = part->at_row;
    }
    if (row > there) skip_keys(part, row - there);
}

/* The name of a bit of the key: feature * 2^bit_bits + bit. */
static inline uint32_t read_place(const uint8_t *place, uint32_t n_bytes)
{
    uint32_t name = n_bytes > 0 ? place[0] : 0u;
    if (n_bytes > 1) name |= (uint32_t)place[1] << 8;
    if (n_bytes > 2) name |= (uint32_t)place[2] << 16;
    return name;
}

void td_part_place(const td_part *part, uint32_t b, uint32_t *feature, uint32_t *bit)
{
    uint32_t name = read_place(part->places + b * part->place_bytes, part->place_bytes);
    *feature = name >> part->bit_bits;
    *bit = name & td_low_mask(part->bit_bits);
}

/* Toggles the bits of values for which `changed` has ones, from bit 31 on; that is bit `b` of the key. */
static void toggle_bits(const td_part *part, uint32_t b, uint32_t changed, uint32_t *values)
{
    uint32_t bit_bits = part->bit_bits, bit_mask = td_low_mask(bit_bits), n_bytes = part->place_bytes;
    const uint8_t *place = part->places + b * n_bytes;
    while (changed && n_bytes == 1) { /* the loop below for most rows */
        if ((int32_t)changed < 0) values[*place >> bit_bits] ^= (uint32_t)1 << (*place & bit_mask);
        changed <<= 1;
        place++;
    }
    for (; changed; changed <<= 1, b++) {
        uint32_t feature, bit;
        td_part_place(part, b, &feature, &bit);
        values[feature] ^= changed >> 31 << bit;
    }
}

/* The bits of the key at hand, in values that have those of the key `old`. Most bits that change are the last ones. */
static void spread_key(const td_part *part, uint64_t old, uint32_t *values)
{
    uint64_t changed = part->key ^ old;
    uint32_t n_key = part->header.n_bases, low = (uint32_t)changed, high = (uint32_t)(changed >> 32), from = 0;
    if (n_key > 32) {
        from = n_key - 32u;
        high <<= 32u - from;
        if (high) toggle_bits(part, 0, high, values);
    } else {
        low <<= 32u - n_key;
    }
    if (!(low >> 16)) {
        low <<= 16;
        from += 16u;
    }
    toggle_bits(part, from, low, values);
}

/* Bits at..end of the codes: n ones, the last bit among them; none when n is 0. */
static bool holds_ones(const td_part *part, uint32_t at, uint32_t end, uint32_t n)
{
    if (at > end || (end == at) != (n == 0)) return false;
    if (n == 0) return true;
    uint32_t ones = 0;
    for (uint32_t bit = at; bit < end; bit += 32u) {
        ones += td_count_bits(td_read_bits(part->codes, bit, end - bit < 32u ? end - bit : 32u));
    }
    return ones == n && td_read_bits(part->codes, end - 1u, 1) == 1;
}

/* The key names base bits of a feature, each once, and they are zero in the base; *left: key bits not found yet. */
static bool check_places(const td_part *part, uint32_t feature, uint32_t free, uint32_t *left)
{
    for (uint32_t b = 0; b < part->header.n_bases; b++) {
        uint32_t named, bit;
        td_part_place(part, b, &named, &bit);
        if (named != feature) continue;
        if (!(free >> bit & 1u)) return false;
        free &= ~((uint32_t)1 << bit);
        --*left;
    }
    return true;
}

/* The key's bits are all there, each block ends where the index says that the next one starts, and holds a high part
 * for each of its rows. */
static bool check_keys(const td_pack *pack, td_part *part)
{
    uint32_t at = 0, end = 0, left = part->header.n_bases;
    for (uint32_t f = 0; f < pack->n_features; f++) {
        uint32_t mask = td_part_base_mask(pack, part, f), n = td_count_bits(mask);
        if (!check_places(part, f, mask & ~td_scatter(td_read_bits(part->bases, at, n), mask), &left)) return false;
        at += n;
    }
    if (left > 0) return false;
    uint32_t n_blocks = (part->header.n_rows + TD_KEY_BLOCK - 1u) / TD_KEY_BLOCK;
    for (uint32_t block = 0; block < n_blocks; block++, part->at_row = NO_ROW) {
        uint32_t n = td_part_start_block(part, block), start = part->at_low, high = part->at_high;
        if (start != end || start > part->code_bits || n * part->n_low > part->code_bits - start) return false;
        end = part->code_bits;
        if (block + 1 < n_blocks) {
            td_part_start_block(part, block + 1u);
            end = part->at_low;
        }
        if (end > part->code_bits || !holds_ones(part, high, end, n)) return false;
    }
    return end == part->code_bits;
}

/* -------------------------------------------------------------------- open */

/* The schema says that rows are images, and so the section is there, or neither. */
static int read_image(td_pack *pack, bool promised)
{
    td_section image;
    bool found = td_file_section(&pack->file, TD_PACK_IMAGE, &image) == TD_OK;
    pack->image = found ? image.data : NULL;
    if (found != promised) return TD_E_FORMAT;
#if TD_IMAGES
    return found ? td_image_check(image.data, image.size, pack->n_features) : TD_OK;
#else
    return found ? TD_E_UNSUPPORTED : TD_OK;
#endif
}

static uint32_t type_bits(uint32_t value_type)
{
    return value_type == TD_VALUE_I32 ? 32u : value_type <= TD_VALUE_U8 ? 8u : 16u;
}

/* f32 numbers that are not negative are in the order of their bits, NaN above all: no routine has to compare them. */
static const uint32_t BITS_OF_1E30 = 0x7149F2CAu, BITS_OF_1E_6 = 0x358637BDu, BITS_OF_MINUS_0 = 0x80000000u;

static int read_schema(td_pack *pack)
{
    td_section schema;
    if (td_file_section(&pack->file, TD_PACK_SCHEMA, &schema) != TD_OK) return TD_E_FORMAT;
    if (schema.size != TD_PACK_SCHEMA_SIZE) return TD_E_FORMAT;
    const uint8_t *p = schema.data;
    pack->n_rows = td_get32(p);
    pack->n_samples = td_get32(p + 4);
    pack->n_features = td_get16(p + 8);
    pack->n_classes = td_get16(p + 10);
    pack->n_parts = td_get16(p + 12);
    pack->width = p[14];
    pack->value_type = p[15];
    pack->minimum = td_get_i32(p + 16);
    pack->scale = td_get_f32(p + 20);
    pack->zero_point = td_get_i32(p + 24);
    pack->model_hash = td_get32(p + 28);
    if (td_get32(p + 32) > 1 || pack->value_type > TD_VALUE_U16 || pack->width > type_bits(pack->value_type) ||
        (td_get32(p + 32) && pack->value_type != TD_VALUE_I32))
        return TD_E_FORMAT;
    if (pack->n_rows == 0 || pack->n_rows > 0x0FFFFFFFu || pack->n_samples == 0 || pack->n_samples > pack->n_rows ||
        pack->n_features == 0 || pack->n_features > TD_MAX_FEATURES || pack->n_classes == 0 ||
        pack->n_classes > TD_MAX_CLASSES || pack->n_parts == 0 || pack->width == 0 || pack->width > TD_MAX_WIDTH)
        return TD_E_FORMAT;
    if (td_get32(p + 20) - 1u >= BITS_OF_1E30) return TD_E_FORMAT; /* 0, above 1e30, negative, NaN */
    return read_image(pack, td_get32(p + 32) != 0);
}

/* The bits behind a block's last, up to its byte's end, are zero. */
static bool padded(const uint8_t *block, uint32_t n_bits)
{
    return (n_bits & 7u) == 0 || block[n_bits >> 3] >> (n_bits & 7u) == 0;
}

static bool keys_padded(const td_pack *pack, const td_part *part)
{
    const uint8_t *entries = part->dictionary ? part->dictionary + 2u * (size_t)pack->n_features : NULL;
    return (!entries || padded(entries, td_part_entries(pack, part) * pack->width)) &&
           padded(part->index, index_bits(part)) && padded(part->codes, part->code_bits);
}

/* Plan and ids of one part: what the sizes in its header promise, and no id past its bases. */
static int check_part(const td_pack *pack, td_part *part)
{
    const td_part_header *header = &part->header;
    uint32_t base_bits = 0;
    if (!padded(part->plan, plan_field_bits(pack, part) * pack->n_features) ||
        (part->offsets && !padded(part->offsets, pack->width * pack->n_features)) ||
        !padded(part->bases, n_bases(part) * header->base_bits) || !padded(part->rows, header->n_rows * td_part_row_bits(part)))
        return TD_E_FORMAT;
    for (uint32_t f = 0; f < pack->n_features; f++) {
        uint32_t n_bits = plan_field_bits(pack, part);
        uint32_t field = td_read_bits(part->plan, f * n_bits, n_bits);
        if (!(part->header.flags & TD_PART_MASKS) && field > pack->width) return TD_E_FORMAT;
        base_bits += td_count_bits(td_part_base_mask(pack, part, f));
    }
    if (base_bits != header->base_bits) return TD_E_FORMAT;
    /* Where an id of these bits may be past the last base; never for a single one, whose rows may take no bytes at all. */
    bool may_pass = n_bases(part) != (uint32_t)1 << part->id_bits;
    for (uint32_t i = 0; may_pass && i < header->n_rows; i++) {
        if (td_read_bits(part->rows, i * td_part_row_bits(part), part->id_bits) >= n_bases(part)) return TD_E_FORMAT;
    }
    if (td_part_has(part, TD_PART_KEYS) && (!keys_padded(pack, part) || !check_keys(pack, part))) return TD_E_FORMAT;
    return TD_OK;
}

/* The parts of an archive say only how many rows they have and their label. */
static int check_archive(td_pack *pack)
{
#if TD_ARCHIVE
    uint32_t first = 0;
    for (uint32_t p = 0; p < pack->n_parts; p++) {
        td_part_header header;
        read_part_header(pack, p, &header);
        if (header.n_rows == 0 || header.n_rows > pack->n_rows - first || header.n_bases != 1 ||
            header.label >= pack->n_classes || header.deviation_bits || header.offset || header.flags != TD_PART_ARCHIVE)
            return TD_E_FORMAT;
        first += header.n_rows;
    }
    return first == pack->n_rows ? td_archive_check(pack, &pack->data) : TD_E_FORMAT;
#else
    (void)pack;
    return TD_E_UNSUPPORTED;
#endif
}

static int check_parts(td_pack *pack)
{
    td_section parts;
    pack->archive = NULL;
    if (td_file_section(&pack->file, TD_PACK_PARTS, &parts) != TD_OK) return TD_E_FORMAT;
    if (td_file_section(&pack->file, TD_PACK_DATA, &pack->data) != TD_OK) return TD_E_FORMAT;
    if (parts.size != pack->n_parts * (uint32_t)TD_PART_RECORD) return TD_E_FORMAT;
    pack->parts = parts.data;
    if (pack->parts[TD_PART_RECORD - 1] == TD_PART_ARCHIVE) return check_archive(pack);
    uint32_t first = 0;
    uint64_t expected = 0;
    for (uint32_t p = 0; p < pack->n_parts; p++) {
        td_part *part = &pack->part;
        read_part_header(pack, p, &part->header);
        part->number = p;
        const td_part_header *header = &part->header;
        if (header->n_rows == 0 || header->n_rows > pack->n_rows - first || header->n_bases == 0 ||
            header->label >= pack->n_classes || header->deviation_bits > pack->n_features * pack->width ||
            (header->flags & ~ALL_FLAGS) || header->offset != expected ||
            (td_part_has(part, TD_PART_KEYS) ? header->n_bases > TD_MAX_KEY : td_part_has(part, TD_PART_DICTIONARY)))
            return TD_E_FORMAT;
        if (!place_part(pack, first, part, &expected) || (uint64_t)header->n_rows * td_part_row_bits(part) > 0xFFFFFFFFu ||
            (uint64_t)n_bases(part) * header->base_bits > 0xFFFFFFFFu)
            return TD_E_FORMAT;
        int status = check_part(pack, part);
        if (status != TD_OK) return status;
        first += header->n_rows;
    }
    return first == pack->n_rows && expected == pack->data.size ? TD_OK : TD_E_FORMAT;
}

/* First row of a sample, where they are listed. */
static uint32_t listed_start(const td_pack *pack, uint32_t sample)
{
    return td_get32(pack->starts + 4u * (size_t)sample);
}

static bool starts_sample(const td_pack *pack, uint32_t row)
{
    return ((uint32_t)pack->starts[row >> 3] >> (row & 7u) & 1u) != 0;
}

/* The list rises, and begins each part. */
static bool check_list(const td_pack *pack)
{
    uint32_t first = 0, part = 0;
    for (uint32_t i = 0; i < pack->n_samples; i++) {
        uint32_t start = listed_start(pack, i);
        if (start >= pack->n_rows || (i > 0 && start <= listed_start(pack, i - 1u))) return false;
        if (part < pack->n_parts && start > first) return false;
        if (start == first) first += td_get32(pack->parts + (size_t)part++ * TD_PART_RECORD);
    }
    return part == pack->n_parts;
}

/* A part begins a sample, the ones number n_samples, the padding is zero. */
static bool check_bitmap(const td_pack *pack)
{
    uint32_t first = 0, n = 0;
    for (uint32_t p = 0; p < pack->n_parts; p++) {
        if (!starts_sample(pack, first)) return false;
        first += td_get32(pack->parts + (size_t)p * TD_PART_RECORD);
    }
    for (uint32_t i = 0; i < bytes_of(pack->n_rows); i++) n += td_count_bits(pack->starts[i]);
    return n == pack->n_samples && padded(pack->starts, pack->n_rows);
}

bool td_pack_starts(const td_pack *pack, uint32_t row, uint32_t *sample)
{
    if (!pack->starts_listed) return starts_sample(pack, row);
    while (*sample < pack->n_samples && listed_start(pack, *sample) < row) (*sample)++;
    return *sample < pack->n_samples && listed_start(pack, *sample) == row;
}

/* The position of each row that was given, if they were to be kept. */
static int check_order(td_pack *pack)
{
    td_section order;
    uint32_t n_bits = td_id_bits(pack->n_rows);
    uint64_t all = (uint64_t)n_bits * pack->n_rows;
    pack->order = NULL;
    if (td_file_section(&pack->file, TD_PACK_ORDER, &order) != TD_OK) return TD_OK;
    if (order.size != (all + 7u) / 8u || (all & 7u && order.data[all >> 3] >> (all & 7u))) return TD_E_FORMAT;
    pack->order = order.data;
    for (uint32_t row = 0; row < pack->n_rows; row++) {
        if (td_pack_position(pack, row) >= pack->n_rows) return TD_E_FORMAT;
    }
    return TD_OK;
}

static int check_samples(td_pack *pack)
{
    td_section samples, weights;
    if (td_file_section(&pack->file, TD_PACK_SAMPLES, &samples) != TD_OK) return TD_E_FORMAT;
    pack->starts = samples.data;
    pack->starts_listed = pack->n_samples < pack->n_rows / TD_LISTED_ROWS;
    if (samples.size != (pack->starts_listed ? 4u * pack->n_samples : bytes_of(pack->n_rows))) return TD_E_FORMAT;
    if (!(pack->starts_listed ? check_list(pack) : check_bitmap(pack))) return TD_E_FORMAT;

    pack->weights = NULL;
    pack->total_weight = (float)pack->n_rows;
    if (td_file_section(&pack->file, TD_PACK_WEIGHTS, &weights) != TD_OK) return TD_OK;
    if (weights.size != 4u * pack->n_samples) return TD_E_FORMAT;
    pack->weights = weights.data;
    pack->total_weight = 0.0f;
    for (uint32_t i = 0; i < pack->n_samples; i++) {
        uint32_t bits = td_get32(weights.data + 4u * (size_t)i);
        if (bits > BITS_OF_1E30 && bits != BITS_OF_MINUS_0) return TD_E_FORMAT;
        pack->total_weight += td_get_f32(weights.data + 4u * (size_t)i);
    }
    /* The sampler divides by it: the quotient must stay finite. */
    uint32_t total;
    memcpy(&total, &pack->total_weight, sizeof total);
    return total >= BITS_OF_1E_6 && total < BITS_OF_1E30 ? TD_OK : TD_E_FORMAT;
}

int td_pack_open(td_pack *pack, const uint8_t *data, uint32_t size)
{
    int status = td_file_open(&pack->file, TD_MAGIC_PACK, data, size);
    pack->cache = NULL;
    pack->cached = false;
    if (status == TD_OK) status = read_schema(pack);
    if (status == TD_OK) status = check_parts(pack);
    if (status == TD_OK) status = check_samples(pack);
    if (status == TD_OK) status = check_order(pack);
    return status;
}

/* -------------------------------------------------------------------- read */

int td_pack_plan(const td_pack *pack, uint32_t part, td_part_header *header, uint32_t *base, uint32_t *key,
                 uint32_t *entries)
{
    td_part found;
    if (part >= pack->n_parts) return TD_E_RANGE;
    if (pack->archive) {
        read_part_header(pack, part, header);
        memset(base, 0, (size_t)pack->n_features * sizeof *base);
        memset(key, 0, (size_t)pack->n_features * sizeof *key);
        memset(entries, 0, (size_t)pack->n_features * sizeof *entries);
        return TD_OK;
    }
    if (!td_part_open(pack, part, 0, &found)) return TD_E_FORMAT;
    *header = found.header;
    for (uint32_t f = 0; f < pack->n_features; f++) {
        base[f] = td_part_base_mask(pack, &found, f);
        key[f] = 0;
        entries[f] = found.dictionary ? td_get16(found.dictionary + 2u * (size_t)f) : 0u;
    }
    for (uint32_t b = 0; td_part_has(&found, TD_PART_KEYS) && b < header->n_bases; b++) {
        uint32_t feature, bit;
        td_part_place(&found, b, &feature, &bit);
        key[feature] |= (uint32_t)1 << bit;
    }
    return TD_OK;
}

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

/* What a cache holds: of each feature the bits that rows share and those of the key, then what is added to its value,
 * then its shape. */
static uint32_t *cached_sums(const td_pack *pack)
{
    return pack->cache + pack->n_features;
}

static uint8_t *cached_shapes(const td_pack *pack)
{
    return (uint8_t *)(cached_sums(pack) + pack->n_features);
}

/* The shape of a feature: its deviation bits; SCATTERED when they are not just its lowest. */
enum { SCATTERED = 0x80 };

static uint32_t find_shape(const td_pack *pack, uint32_t feature)
{
    const td_part *part = &pack->part;
    uint32_t n_bits = plan_field_bits(pack, part), field = td_read_bits(part->plan, feature * n_bits, n_bits);
    if (!td_part_has(part, TD_PART_MASKS)) return pack->width - field;
    uint32_t n = pack->width - td_count_bits(field);
    return field & td_low_mask(n) ? n | SCATTERED : n;
}

/* Minimum and offset. */
static uint32_t find_sum(const td_pack *pack, uint32_t feature)
{
    const uint8_t *offsets = pack->part.offsets;
    return (uint32_t)pack->minimum + (offsets ? td_read_bits(offsets, feature * pack->width, pack->width) : 0u);
}

/* Joins to what is there of the values (from NULL: nothing) the base's fields, the deviation's, or both. */
static void join_fields(const td_pack *pack, fields *base, fields *deviation, const uint32_t *from, uint32_t *to)
{
    for (uint32_t f = 0; f < pack->n_features; f++) {
        uint32_t shape = pack->cached ? cached_shapes(pack)[f] : find_shape(pack, f);
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

static void fill_cache(td_pack *pack)
{
    for (uint32_t f = 0; f < pack->n_features; f++) {
        pack->cache[f] = 0;
        cached_sums(pack)[f] = find_sum(pack, f);
        cached_shapes(pack)[f] = (uint8_t)find_shape(pack, f);
    }
    pack->cached = true;
    if (pack->part.id_bits) return;
    fields base = fields_at(pack->part.bases, 0);
    join_fields(pack, &base, NULL, NULL, pack->cache);
}

/* Puts a dictionary's entry in place of its number; a number past the end stands for the last one. */
static void look_up(const td_pack *pack, uint32_t *values)
{
    const uint8_t *n_entries = pack->part.dictionary, *entries = n_entries + 2u * (size_t)pack->n_features;
    uint32_t first = 0;
    for (uint32_t f = 0; f < pack->n_features; f++, n_entries += 2) {
        uint32_t n = td_get16(n_entries), number = values[f];
        if (n == 0) continue;
        if (number >= n) number = n - 1u;
        values[f] = td_read_bits(entries, (first + number) * pack->width, pack->width);
        first += n;
    }
}

/* The bits of row `row` of the part that are not in `from`. */
static void join_row(const td_pack *pack, uint32_t row, const uint32_t *from, uint32_t *values)
{
    const td_part *part = &pack->part;
    uint32_t at = row * td_part_row_bits(part);
    uint32_t number = td_read_bits(part->rows, at, part->id_bits);
    fields base = fields_at(part->bases, number * part->header.base_bits);
    fields deviation = fields_at(part->rows, at + part->id_bits);
    join_fields(pack, part->id_bits || !from ? &base : NULL, &deviation, from, values);
}

/* What is added to the values. */
static void add_sums(const td_pack *pack, const uint32_t *from, uint32_t *values)
{
    if (pack->cached) {
        const uint32_t *sum = cached_sums(pack);
        for (uint32_t n = pack->n_features; n > 0; n--) *values++ = *from++ + *sum++;
    } else {
        for (uint32_t f = 0; f < pack->n_features; f++) values[f] = from[f] + find_sum(pack, f);
    }
}

/* The row as it is stored: where it lies, in the cache or in values. */
static uint32_t *read_stored(td_pack *pack, uint32_t row, uint32_t *values)
{
    td_part *part = &pack->part;
    uint32_t *from = pack->cache;
    uint64_t old = pack->cached ? part->key : 0u;
    if (from && !pack->cached) fill_cache(pack);
    if (td_part_has(part, TD_PART_KEYS)) {
        seek_key(part, row);
        if (from) spread_key(part, old, from);
    }
    if (from && td_part_row_bits(part) == 0 && !part->dictionary) return from;
    join_row(pack, row, from, values);
    if (!from && td_part_has(part, TD_PART_KEYS)) spread_key(part, 0, values);
    if (part->dictionary) look_up(pack, values);
    return values;
}

uint32_t td_pack_cache_size(const td_pack *pack)
{
    return (pack->n_features * 9u + 3u) & ~(uint32_t)3u;
}

int td_pack_use_cache(td_pack *pack, void *memory, uint32_t size)
{
    if (memory && size < td_pack_cache_size(pack)) return TD_E_MEMORY;
    pack->cache = (uint32_t *)memory;
    pack->cached = false;
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

uint32_t td_pack_position(const td_pack *pack, uint32_t row)
{
    uint32_t n_bits = td_id_bits(pack->n_rows);
    return pack->order ? td_read_bits_at(pack->order, (uint64_t)row * n_bits, n_bits) : row;
}

int td_pack_stored_row(td_pack *pack, uint32_t row, int32_t *values, uint32_t *label)
{
#if TD_ARCHIVE
    if (pack->archive) return read_archived(pack, row, values, label);
#endif
    td_part *part = &pack->part;
    if (row - part->first_row >= part->header.n_rows) {
        int status = find_part(pack, row);
        if (status != TD_OK) return status;
    }
    uint32_t *out = (uint32_t *)values;
    add_sums(pack, read_stored(pack, row - part->first_row, out), out);
#if TD_IMAGES
    if (pack->image) td_image_inverse(pack->image, values);
#endif
    if (label) *label = part->header.label;
    return TD_OK;
}

int td_pack_row(td_pack *pack, uint32_t row, int32_t *values, uint32_t *label)
{
    if (pack->order && row < pack->n_rows) row = td_pack_position(pack, row);
    return td_pack_stored_row(pack, row, values, label);
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

int td_pack_sample_rows(const td_pack *pack, uint32_t sample, uint32_t *first, uint32_t *count)
{
    if (sample >= pack->n_samples) return TD_E_RANGE;
    if (pack->starts_listed) {
        *first = listed_start(pack, sample);
        *count = (sample + 1u < pack->n_samples ? listed_start(pack, sample + 1u) : pack->n_rows) - *first;
        return TD_OK;
    }
    uint32_t byte = 0;
    for (uint32_t ones; (ones = td_count_bits(pack->starts[byte])) <= sample; byte++) sample -= ones;
    uint32_t row = byte * 8u;
    for (;; row++) { /* the (sample + 1)-th start bit from this byte on */
        if (starts_sample(pack, row) && sample-- == 0) break;
    }
    *first = row;
    for (row++; row < pack->n_rows && !starts_sample(pack, row); row++) continue;
    *count = row - *first;
    return TD_OK;
}

int td_pack_sample(td_pack *pack, uint32_t sample, int32_t *row, float *values, uint32_t *label, float *weight)
{
    uint32_t first, count;
    /* Added, and negated as an integer: so boards need no routine for differences of floats. */
    float minus_zero = -(float)pack->zero_point; /* exact, and no choice: some assemblers know no conditional vcvt */
    int status = td_pack_sample_rows(pack, sample, &first, &count);
    for (uint32_t i = 0; status == TD_OK && i < count; i++) {
        status = td_pack_stored_row(pack, first + i, row, label);
        for (uint32_t f = 0; status == TD_OK && f < pack->n_features; f++) {
            float value = (float)row[f] + minus_zero;
            values[f] = i == 0 ? value : values[f] + value;
        }
    }
    if (status != TD_OK) return status;
    float factor = pack->scale / (float)count;
    for (uint32_t f = 0; f < pack->n_features; f++) values[f] *= factor;
    *weight = pack->weights ? td_get_f32(pack->weights + 4u * (size_t)sample) : (float)count;
    return TD_OK;
}
