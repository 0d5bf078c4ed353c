/* Opens a .tdz and reads rows and samples from it in place (docs/SPEC.md, ".tdz"). */
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

/* Bytes of the name of a key's bit. */
static uint32_t place_bytes(const td_pack *pack)
{
    return (td_id_bits(pack->n_features) + td_id_bits(pack->width) + 7u) / 8u;
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
    part->places = take(pack, at, 8u * (uint64_t)place_bytes(pack) * part->header.n_bases);
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
    part->id_bits = td_id_bits(n_bases(part));
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

static int find_part(td_pack *pack, uint32_t row)
{
    if (row >= pack->n_rows) return TD_E_RANGE;
    if (row - pack->part.first_row < pack->part.header.n_rows) return TD_OK;
    uint32_t first = 0, p = 0;
    if (row > pack->part.first_row) { /* behind the part at hand: rows in order cost one step a part */
        first = pack->part.first_row + pack->part.header.n_rows;
        p = pack->part.number + 1u;
    }
    for (;; p++) {
        read_part_header(pack, p, &pack->part.header);
        if (row - first < pack->part.header.n_rows) break;
        first += pack->part.header.n_rows;
    }
    pack->part.number = p;
    uint64_t end;
    return place_part(pack, first, &pack->part, &end) ? TD_OK : TD_E_FORMAT;
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

/* Goes on by n rows of the block, n > 0: the high part of a row is the number of zeros before its one. */
static void skip_keys(td_part *part, uint32_t n)
{
    uint32_t at = part->at_high, left = n;
    while (left > 0) {
        uint32_t byte = (uint32_t)part->codes[at >> 3] >> (at & 7u), ones = td_count_byte(byte);
        if (ones < left) { /* on to the next byte */
            left -= ones;
            at = (at | 7u) + 1u;
        } else {
            for (; left > 0; byte >>= 1, at++) left -= byte & 1u;
        }
    }
    part->high += at - part->at_high - n;
    part->at_high = at;
    part->key = part->first_key + ((uint64_t)part->high << part->n_low) +
                td_read_long(part->codes, part->at_low + (n - 1u) * part->n_low, part->n_low);
    if (part->header.n_bases < 64) part->key &= ((uint64_t)1 << part->header.n_bases) - 1u;
    part->at_low += n * part->n_low;
    part->at_row += n;
}

static void seek_key(td_part *part, uint32_t row)
{
    if (row < part->at_row || row / TD_KEY_BLOCK != part->at_row / TD_KEY_BLOCK) td_part_start_block(part, row / TD_KEY_BLOCK);
    if (row > part->at_row) skip_keys(part, row - part->at_row);
}

/* feature * 2^bit_bits + bit of the key's bit b. */
static uint32_t read_place(const uint8_t *places, uint32_t n_bytes, uint32_t b)
{
    uint32_t place = 0;
    for (uint32_t i = n_bytes; i-- > 0;) place = place << 8 | places[b * n_bytes + i];
    return place;
}

void td_part_place(const td_pack *pack, const td_part *part, uint32_t b, uint32_t *feature, uint32_t *bit)
{
    uint32_t place = read_place(part->places, place_bytes(pack), b), n_bits = td_id_bits(pack->width);
    *feature = place >> n_bits;
    *bit = place & td_low_mask(n_bits);
}

/* Puts the key's bits into a row. */
static void spread_key(const td_pack *pack, int32_t *values)
{
    uint32_t n_bytes = place_bytes(pack), bit_bits = td_id_bits(pack->width), b = pack->part.header.n_bases;
    uint32_t half[2] = {(uint32_t)pack->part.key, (uint32_t)(pack->part.key >> 32)};
    for (uint32_t h = 0; h < 2 && b > 0; h++) {
        uint32_t end = b > 32u ? b - 32u : 0u;
        for (uint32_t word = half[h]; word && b > end; word >>= 1) {
            b--;
            if (!(word & 1u)) continue;
            uint32_t place = read_place(pack->part.places, n_bytes, b);
            int32_t *value = values + (place >> bit_bits);
            *value = (int32_t)((uint32_t)*value | (uint32_t)1 << (place & td_low_mask(bit_bits)));
        }
        b = end;
    }
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

/* The key's bits are base bits, each block ends where the index says that the next one starts, and holds a high part
 * for each of its rows. */
static bool check_keys(const td_pack *pack, td_part *part)
{
    uint32_t feature, bit, end = 0;
    for (uint32_t b = 0; b < part->header.n_bases; b++) {
        td_part_place(pack, part, b, &feature, &bit);
        if (feature >= pack->n_features || !(td_part_base_mask(pack, part, feature) >> bit & 1u)) return false;
    }
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
    if (!(pack->scale > 0.0f) || pack->scale > 1e30f) return TD_E_FORMAT; /* also refuses NaN */
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

static int check_parts(td_pack *pack)
{
    td_section parts;
    if (td_file_section(&pack->file, TD_PACK_PARTS, &parts) != TD_OK) return TD_E_FORMAT;
    if (td_file_section(&pack->file, TD_PACK_DATA, &pack->data) != TD_OK) return TD_E_FORMAT;
    if (parts.size != pack->n_parts * (uint32_t)TD_PART_RECORD) return TD_E_FORMAT;
    pack->parts = parts.data;
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
        float weight = td_get_f32(weights.data + 4u * (size_t)i);
        if (!(weight >= 0.0f) || weight > 1e30f) return TD_E_FORMAT;
        pack->total_weight += weight;
    }
    /* The sampler divides by it: the quotient must stay finite. */
    return pack->total_weight >= 1e-6f && pack->total_weight < 1e30f ? TD_OK : TD_E_FORMAT;
}

int td_pack_open(td_pack *pack, const uint8_t *data, uint32_t size)
{
    int status = td_file_open(&pack->file, TD_MAGIC_PACK, data, size);
    if (status == TD_OK) status = read_schema(pack);
    if (status == TD_OK) status = check_parts(pack);
    if (status == TD_OK) status = check_samples(pack);
    return status;
}

/* -------------------------------------------------------------------- read */

int td_pack_plan(const td_pack *pack, uint32_t part, td_part_header *header, uint32_t *base, uint32_t *key)
{
    td_part found;
    if (part >= pack->n_parts) return TD_E_RANGE;
    if (!td_part_open(pack, part, 0, &found)) return TD_E_FORMAT;
    *header = found.header;
    for (uint32_t f = 0; f < pack->n_features; f++) {
        base[f] = td_part_base_mask(pack, &found, f);
        key[f] = 0;
    }
    for (uint32_t b = 0; td_part_has(&found, TD_PART_KEYS) && b < header->n_bases; b++) {
        uint32_t feature, bit;
        td_part_place(pack, &found, b, &feature, &bit);
        key[feature] |= (uint32_t)1 << bit;
    }
    return TD_OK;
}

/* Puts a dictionary's entry in place of its number; a number past the end stands for the last one. */
static void look_up(const td_pack *pack, int32_t *values)
{
    const uint8_t *n_entries = pack->part.dictionary, *entries = n_entries + 2u * (size_t)pack->n_features;
    uint32_t first = 0;
    for (uint32_t f = 0; f < pack->n_features; f++) {
        uint32_t n = td_get16(n_entries + 2u * (size_t)f), number = (uint32_t)values[f];
        if (n == 0) continue;
        if (number >= n) number = n - 1u;
        values[f] = (int32_t)td_read_bits(entries, (first + number) * pack->width, pack->width);
        first += n;
    }
}

int td_pack_row(td_pack *pack, uint32_t row, int32_t *values, uint32_t *label)
{
    int status = find_part(pack, row);
    if (status != TD_OK) return status;
    td_part *part = &pack->part;
    if (td_part_has(part, TD_PART_KEYS)) seek_key(part, row - part->first_row);
    uint32_t width = pack->width, all = td_low_mask(width);
    uint32_t at = (row - part->first_row) * td_part_row_bits(part);
    uint32_t base_at = td_read_bits(part->rows, at, part->id_bits) * part->header.base_bits;
    at += part->id_bits;
    for (uint32_t f = 0; f < pack->n_features; f++) {
        uint32_t mask = td_part_base_mask(pack, part, f), deviation = all & ~mask;
        uint32_t n_base = td_count_bits(mask), n_deviation = width - n_base;
        uint32_t high = td_read_bits(part->bases, base_at, n_base), low = td_read_bits(part->rows, at, n_deviation);
        uint32_t value = deviation == td_low_mask(n_deviation) ? (n_deviation < 32 ? high << n_deviation : 0u) | low
                                                               : td_scatter(high, mask) | td_scatter(low, deviation);
        values[f] = (int32_t)value;
        base_at += n_base;
        at += n_deviation;
    }
    if (td_part_has(part, TD_PART_KEYS)) spread_key(pack, values);
    if (part->dictionary) look_up(pack, values);
    for (uint32_t f = 0; f < pack->n_features; f++) {
        uint32_t offset = part->offsets ? td_read_bits(part->offsets, f * width, width) : 0u;
        values[f] = (int32_t)((uint32_t)values[f] + (uint32_t)pack->minimum + offset);
    }
#if TD_IMAGES
    if (pack->image) td_image_inverse(pack->image, values);
#endif
    if (label) *label = part->header.label;
    return TD_OK;
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
    int status = td_pack_sample_rows(pack, sample, &first, &count);
    for (uint32_t i = 0; status == TD_OK && i < count; i++) {
        status = td_pack_row(pack, first + i, row, label);
        for (uint32_t f = 0; status == TD_OK && f < pack->n_features; f++) {
            float value = (float)row[f] - (float)pack->zero_point;
            values[f] = i == 0 ? value : values[f] + value;
        }
    }
    if (status != TD_OK) return status;
    float factor = pack->scale / (float)count;
    for (uint32_t f = 0; f < pack->n_features; f++) values[f] *= factor;
    *weight = pack->weights ? td_get_f32(pack->weights + 4u * (size_t)sample) : (float)count;
    return TD_OK;
}
