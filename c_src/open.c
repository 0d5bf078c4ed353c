/* Opens a .tdz: checks all that reading relies on, once (docs/SPEC.md, ".tdz"). */
#include "archive.h"
#include "parts.h"
#include "transform.h"

enum { ALL_FLAGS = TD_PART_OFFSETS | TD_PART_MASKS | TD_PART_KEYS | TD_PART_DICTIONARY };
/* f32 numbers that are not negative are in the order of their bits, NaN above all: no routine has to compare them. */
static const uint32_t BITS_OF_1E30 = 0x7149F2CAu, BITS_OF_1E21 = 0x6258D727u, BITS_OF_1E_6 = 0x358637BDu,
                      BITS_OF_MINUS_0 = 0x80000000u;

/* False for a section that has not `size` bytes; *data: NULL when there is none. */
static bool section(const td_pack *pack, uint32_t kind, uint32_t size, const uint8_t **data)
{
    td_section found;
    *data = NULL;
    if (td_file_section(&pack->file, kind, &found) != TD_OK) return true;
    *data = found.data;
    return found.size == size;
}

/* ------------------------------------------------------------------ schema */

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
    const uint8_t *p;
    if (!section(pack, TD_PACK_SCHEMA, TD_PACK_SCHEMA_SIZE, &p) || !p) return TD_E_FORMAT;
    uint32_t scale = td_get32(p + 20), images = td_get32(p + 32);
    pack->n_rows = td_get32(p);
    pack->n_samples = td_get32(p + 4);
    pack->n_features = td_get16(p + 8);
    pack->n_classes = (uint16_t)td_get16(p + 10);
    pack->n_parts = (uint16_t)td_get16(p + 12);
    pack->width = p[14];
    pack->value_type = p[15];
    pack->minimum = td_get_i32(p + 16);
    memcpy(&pack->scale, &scale, sizeof scale);
    pack->zero_point = td_get_i32(p + 24);
    pack->model_hash = td_get32(p + 28);
    /* One less than what may not be 0 compares all bounds at once. */
    if (pack->n_rows - 1u >= 0x0FFFFFFFu || pack->n_samples - 1u >= pack->n_rows ||
        pack->n_features - 1u >= TD_MAX_FEATURES || pack->n_classes - 1u >= TD_MAX_CLASSES || pack->n_parts == 0 ||
        pack->width - 1u >= TD_MAX_WIDTH || pack->value_type > TD_VALUE_U16 ||
        pack->width > type_bits(pack->value_type) || scale - 1u >= BITS_OF_1E30 || images > 1 ||
        (images && pack->value_type != TD_VALUE_I32))
        return TD_E_FORMAT;
    return read_image(pack, images != 0);
}

/* ------------------------------------------------------------------- parts */

/* The key names base bits of a feature, each once, and they are zero in the base; *left: key bits not found yet. */
static bool check_places(const td_part *part, uint32_t feature, uint32_t free, uint32_t *left)
{
    for (uint32_t b = 0; b < part->n_bases; b++) {
        uint32_t named, bit;
        td_part_place(part, b, &named, &bit);
        if (named != feature) continue;
        if (!(free >> bit & 1u)) return false;
        free &= ~((uint32_t)1 << bit);
        --*left;
    }
    return true;
}

/* Bits at..end of the codes: n ones, the last bit among them; none when n is 0. */
static bool holds_ones(const uint8_t *codes, uint32_t at, uint32_t end, uint32_t n)
{
    uint32_t last = 1;
    if (n == 0) return at == end;
    for (uint32_t n_bits; at < end; at += n_bits) {
        n_bits = end - at < 32u ? end - at : 32u;
        last = td_read_bits(codes, at, n_bits);
        n -= td_count_bits(last);
        last = last >> (n_bits - 1u);
    }
    return n == 0 && last == 1;
}

/* Each block of rows starts where the one before ends, and holds a high part for each of its rows. */
static bool check_blocks(td_part *part, uint32_t code_bits)
{
    uint32_t end = code_bits;
    for (uint32_t block = (part->n_rows - 1u) / TD_KEY_BLOCK + 1u; block-- > 0;) {
        uint32_t n = td_part_start_block(part, block), start = part->at_low;
        if (part->at_high > end || !holds_ones(part->codes, part->at_high, end, n)) return false;
        end = start;
    }
    return end == 0;
}

/* Plan, ids and keys: what the sizes in the part's record promise, no id past its bases, and a key of base bits. */
static bool check_part(const td_pack *pack, td_part *part)
{
    bool keys = td_part_has(part, TD_PART_KEYS);
    uint32_t n_plan = td_part_plan_bits(pack, part), n_bases = td_part_n_bases(part), row_bits = td_part_row_bits(part);
    uint32_t left = keys ? part->n_bases : 0u, at = 0, base_bits = td_part_base_bits(pack, part);
    for (uint32_t f = 0; f < pack->n_features; f++) {
        uint32_t field = td_read_bits(part->plan, f * n_plan, n_plan), mask = td_part_base_mask(pack, part, f);
        uint32_t n = td_count_bits(mask);
        if (n > base_bits - at || (!td_part_has(part, TD_PART_MASKS) && field > pack->width)) return false;
        if (keys && !check_places(part, f, mask & ~td_scatter(td_read_bits(part->bases, at, n), mask), &left)) return false;
        at += n;
    }
    if (at != base_bits || left > 0) return false;
    /* Where an id of these bits may be past the last base; never for a single one, whose rows may take no bytes at all. */
    if (n_bases != (uint32_t)1 << part->id_bits) {
        at = 0;
        for (uint32_t i = 0; i < part->n_rows; i++, at += row_bits) {
            if (td_read_bits(part->rows, at, part->id_bits) >= n_bases) return false;
        }
    }
    return !keys || check_blocks(part, td_get32(part->index));
}

/* The parts of an archive say only how many rows they have and their label. */
static int check_archive(td_pack *pack)
{
#if TD_ARCHIVE
    td_section data = {0, pack->data, pack->data_size};
    uint32_t first = 0;
    for (uint32_t p = 0; p < pack->n_parts; p++) {
        const uint8_t *record = td_part_record(pack, p);
        uint32_t n_rows = td_get32(record);
        if (n_rows - 1u >= pack->n_rows - first || td_get32(record + 4) || td_get16(record + 8) >= pack->n_classes ||
            td_get16(record + 10) != 1 || td_get32(record + 12) != (uint32_t)TD_PART_ARCHIVE << 24)
            return TD_E_FORMAT;
        first += n_rows;
    }
    return first == pack->n_rows ? td_archive_check(pack, &data) : TD_E_FORMAT;
#else
    (void)pack;
    return TD_E_UNSUPPORTED;
#endif
}

static int check_parts(td_pack *pack)
{
    td_section data;
    if (!section(pack, TD_PACK_PARTS, pack->n_parts * (uint32_t)TD_PART_RECORD, &pack->parts) || !pack->parts ||
        td_file_section(&pack->file, TD_PACK_DATA, &data) != TD_OK)
        return TD_E_FORMAT;
    pack->data = data.data;
    pack->data_size = data.size;
    if (pack->parts[TD_PART_RECORD - 1] == TD_PART_ARCHIVE) return check_archive(pack);
    uint32_t first = 0, expected = 0;
    for (uint32_t p = 0; p < pack->n_parts; p++) {
        td_part *part = &pack->part;
        const uint8_t *record = td_part_record(pack, p);
        uint32_t n_rows = td_get32(record), last = td_get32(record + 12), flags = last >> 24;
        uint32_t n_bases = td_get16(record + 10), most = flags & TD_PART_KEYS ? (uint32_t)TD_MAX_KEY : (uint32_t)TD_MAX_BASES;
        if (n_rows - 1u >= pack->n_rows - first || td_get32(record + 4) != expected ||
            td_get16(record + 8) >= pack->n_classes || (last & 0x00FFFFFFu) > pack->n_features * pack->width ||
            (flags & ~(uint32_t)ALL_FLAGS) || n_bases - 1u >= most ||
            (flags & (TD_PART_KEYS | TD_PART_DICTIONARY)) == TD_PART_DICTIONARY)
            return TD_E_FORMAT;
        if (!td_part_open(pack, p, first, part) || !check_part(pack, part)) return TD_E_FORMAT;
        uint32_t bits = n_rows * td_part_row_bits(part);
        expected = (uint32_t)(part->rows - pack->data) + (bits >> 3) + ((bits & 7u) != 0);
        first += n_rows;
    }
    return first == pack->n_rows && expected == pack->data_size ? TD_OK : TD_E_FORMAT;
}

/* ----------------------------------------------------------- samples, order */

bool td_pack_starts(const td_pack *pack, uint32_t row, uint32_t *sample)
{
    if (!td_samples_listed(pack)) return td_starts_sample(pack, row);
    while (*sample < pack->n_samples && td_listed_start(pack, *sample) < row) ++*sample;
    return *sample < pack->n_samples && td_listed_start(pack, *sample) == row;
}

/* A part begins a sample; a list rises, and the ones of a bitmap number n_samples. */
static bool check_starts(td_pack *pack)
{
    bool listed = td_samples_listed(pack);
    uint32_t n = pack->n_samples, size = listed ? 4u * n : (pack->n_rows + 7u) / 8u, first = 0, sample = 0;
    if (!section(pack, TD_PACK_SAMPLES, size, &pack->starts) || !pack->starts) return false;
    if (listed) {
        for (uint32_t i = 1; i < n; i++) {
            if (td_listed_start(pack, i) <= td_listed_start(pack, i - 1u)) return false;
        }
        if (td_listed_start(pack, n - 1u) >= pack->n_rows) return false;
    } else {
        for (uint32_t i = 0; i < size; i++) n -= td_count_bits(pack->starts[i]);
        if (n != 0 || !td_padded(pack->starts, pack->n_rows)) return false;
    }
    for (uint32_t p = 0; p < pack->n_parts; p++) {
        if (!td_pack_starts(pack, first, &sample)) return false;
        first += td_get32(td_part_record(pack, p));
    }
    return true;
}

/* The sampler divides by their sum: bounds for each keep the quotient finite, and no sum of floats is needed here. */
static bool check_weights(td_pack *pack)
{
    bool enough = false;
    if (!section(pack, TD_PACK_WEIGHTS, 4u * pack->n_samples, &pack->weights)) return false;
    for (uint32_t i = 0; pack->weights && i < pack->n_samples; i++) {
        uint32_t bits = td_get32(pack->weights + 4u * (size_t)i);
        if (bits > BITS_OF_1E21 && bits != BITS_OF_MINUS_0) return false;
        enough |= bits - BITS_OF_1E_6 <= BITS_OF_1E21 - BITS_OF_1E_6;
    }
    return enough || !pack->weights;
}

/* The position of each row that was given, if they were to be kept. */
static bool check_order(td_pack *pack)
{
    uint32_t n_bits = td_id_bits(pack->n_rows), rest = (pack->n_rows & 7u) * n_bits, size = (pack->n_rows >> 3) * n_bits;
    if (!section(pack, TD_PACK_ORDER, size + (rest + 7u) / 8u, &pack->order)) return false;
    if (!pack->order) return true;
    for (uint32_t row = 0; row < pack->n_rows; row++) {
        if (td_pack_position(pack, row) >= pack->n_rows) return false;
    }
    return td_padded(pack->order + size, rest);
}

int td_pack_open(td_pack *pack, const uint8_t *data, uint32_t size)
{
    int status = td_file_open(&pack->file, TD_MAGIC_PACK, data, size);
    pack->memory = NULL;
    pack->archive = NULL;
    pack->cached = TD_CACHED_NOTHING;
    if (status == TD_OK) status = read_schema(pack);
    if (status == TD_OK) status = check_parts(pack);
    if (status == TD_OK) status = td_transforms_open(pack);
    if (status == TD_OK && !(check_starts(pack) && check_weights(pack) && check_order(pack))) status = TD_E_FORMAT;
    return status;
}
