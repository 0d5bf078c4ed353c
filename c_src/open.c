/* Opens a .tdz: checks all that reading relies on, once (docs/SPEC.md, ".tdz"). */
#include "archive.h"
#include "parts.h"
#include "transform.h"

enum { ALL_FLAGS = TD_PART_OFFSETS | TD_PART_MASKS | TD_PART_KEYS | TD_PART_DICTIONARY };
/* f32 numbers that are not negative are in the order of their bits, NaN above all: no routine has to compare them. */
static const uint32_t BITS_OF_1E30 = 0x7149F2CAu, BITS_OF_1E21 = 0x6258D727u, BITS_OF_1E_6 = 0x358637BDu;

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
#if TD_IMAGES
    td_section image;
    bool found = td_file_section(&pack->file, TD_PACK_IMAGE, &image) == TD_OK;
    pack->image = found ? image.data : NULL;
    if (found != promised) return TD_E_FORMAT;
    return found ? td_image_check(image.data, image.size, pack->n_features) : TD_OK;
#else
    pack->image = NULL;
    return promised ? TD_E_UNSUPPORTED : TD_OK;
#endif
}

TD_NOINLINE static int read_schema(td_pack *pack)
{
    static const uint8_t type_bits[] = {32, 8, 8, 16, 16};
    const uint8_t *p;
    if (!section(pack, TD_PACK_SCHEMA, TD_PACK_SCHEMA_SIZE, &p) || !p) return TD_E_FORMAT;
    uint32_t word[TD_PACK_SCHEMA_SIZE / 4];
    for (uint32_t i = 0; i < TD_PACK_SCHEMA_SIZE / 4; i++) word[i] = td_word(p + 4u * i);
    union {
        uint32_t bits;
        float value;
    } scale = {word[5]};
    uint32_t type = word[3] >> 24, n_classes = word[2] >> 16;
    pack->n_rows = word[0];
    pack->n_samples = word[1];
    pack->n_features = word[2] & 0xFFFFu;
    pack->n_classes = (uint16_t)n_classes;
    pack->n_parts = (uint16_t)(word[3] & 0xFFFFu);
    pack->width = p[14];
    pack->value_type = (uint8_t)type;
    pack->minimum = (int32_t)word[4];
    pack->scale = scale.value;
    pack->zero_point = (int32_t)word[6];
    pack->model_hash = word[7];
    /* One less than what may not be 0 compares both bounds at once. */
    if (word[0] - 1u >= 0x0FFFFFFFu || word[1] - 1u >= word[0] || pack->n_features - 1u >= TD_MAX_FEATURES ||
        n_classes - 1u >= TD_MAX_CLASSES || pack->n_parts == 0 || type > TD_VALUE_U16 ||
        pack->width - 1u >= type_bits[type] || word[5] - 1u >= BITS_OF_1E30 || word[8] > (type == TD_VALUE_I32))
        return TD_E_FORMAT;
    return read_image(pack, word[8] != 0);
}

/* ------------------------------------------------------------------- parts */

/* Bits at..end of the codes: n ones, the last bit among them; none when n is 0. */
TD_NOINLINE static bool holds_ones(const uint8_t *codes, uint32_t at, uint32_t end, uint32_t n)
{
    uint32_t last = 1;
    for (uint32_t n_bits; at < end; at += n_bits) {
        n_bits = end - at < 32u ? end - at : 32u;
        last = td_field(codes, at, n_bits);
        n -= td_ones(last);
        last = last >> (n_bits - 1u);
    }
    return n == 0 && last == 1;
}

/* Each block of rows starts where the one before ends, and holds a high part for each of its rows. */
TD_NOINLINE static bool check_blocks(td_part *part, uint32_t code_bits)
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
TD_NOINLINE static bool check_part(const td_pack *pack, td_part *part)
{
    if (!td_fields_check(pack)) return false;
    /* Where an id of these bits may be past the last base; never for a single one, whose rows may take no bytes at all. */
    uint32_t n_bases = td_part_n_bases(part);
    for (uint32_t i = 0; n_bases != (uint32_t)1 << part->id_bits && i < part->n_rows; i++) {
        if (td_field(part->rows, i * td_part_row_bits(part), part->id_bits) >= n_bases) return false;
    }
    return !td_part_has(part, TD_PART_KEYS) || check_blocks(part, td_word(part->index));
}

/* The parts of an archive say only how many rows they have and their label. */
static int check_archive(td_pack *pack)
{
#if TD_ARCHIVE
    td_section data = {0, pack->data, pack->data_size};
    uint32_t first = 0;
    for (uint32_t p = 0; p < pack->n_parts; p++) {
        const uint8_t *record = td_part_record(pack, p);
        uint32_t n_rows = td_word(record);
        if (n_rows - 1u >= pack->n_rows - first || td_word(record + 4) || td_get16(record + 8) >= pack->n_classes ||
            td_get16(record + 10) != 1 || td_word(record + 12) != (uint32_t)TD_PART_ARCHIVE << 24)
            return TD_E_FORMAT;
        first += n_rows;
    }
    return first == pack->n_rows ? td_archive_check(pack, &data) : TD_E_FORMAT;
#else
    (void)pack;
    return TD_E_UNSUPPORTED;
#endif
}

TD_NOINLINE static int check_parts(td_pack *pack)
{
    td_section data;
    if (!section(pack, TD_PACK_PARTS, pack->n_parts * (uint32_t)TD_PART_RECORD, &pack->parts) || !pack->parts ||
        td_file_section(&pack->file, TD_PACK_DATA, &data) != TD_OK)
        return TD_E_FORMAT;
    pack->data = data.data;
    pack->data_size = data.size;
    if (pack->parts[TD_PART_RECORD - 1] == TD_PART_ARCHIVE) return check_archive(pack);
    uint32_t first = 0, values = pack->n_features * pack->width;
    const uint8_t *expected = pack->data;
    for (uint32_t p = 0; p < pack->n_parts; p++) {
        td_part *part = &pack->part;
        const uint8_t *end = td_part_open(pack, p, first, part);
        uint32_t flags = part->flags, most = flags & TD_PART_KEYS ? (uint32_t)TD_MAX_KEY : (uint32_t)TD_MAX_BASES;
        if (!end || part->plan != expected || part->n_rows - 1u >= pack->n_rows - first || part->label >= pack->n_classes ||
            part->deviation_bits > values || flags > ALL_FLAGS || part->n_bases - 1u >= most ||
            (flags & (TD_PART_KEYS | TD_PART_DICTIONARY)) == TD_PART_DICTIONARY || !check_part(pack, part))
            return TD_E_FORMAT;
        expected = end;
        first += part->n_rows;
    }
    return first == pack->n_rows && expected == pack->data + pack->data_size ? TD_OK : TD_E_FORMAT;
}

/* ----------------------------------------------------------- samples, order */

bool td_pack_starts(const td_pack *pack, uint32_t row, uint32_t *sample)
{
    if (!td_samples_listed(pack)) return td_starts_sample(pack, row);
    for (; *sample < pack->n_samples; ++*sample) {
        uint32_t start = td_listed_start(pack, *sample);
        if (start >= row) return start == row;
    }
    return false;
}

/* The list rises, and begins each part. */
TD_NOINLINE static bool check_list(const td_pack *pack)
{
    const uint8_t *record = pack->parts;
    uint32_t first = 0, next = 0; /* row of a part, row that a sample may begin */
    for (uint32_t i = 0; i < pack->n_samples; i++) {
        uint32_t start = td_listed_start(pack, i);
        if (start < next || start > first || start >= pack->n_rows) return false;
        next = start + 1u;
        if (start != first) continue;
        first += td_word(record);
        record += TD_PART_RECORD;
    }
    return first == pack->n_rows;
}

/* A part begins a sample, the ones number n_samples, the padding is zero. */
TD_NOINLINE static bool check_bitmap(const td_pack *pack)
{
    uint32_t n = pack->n_samples;
    const uint8_t *record = pack->parts, *starts = pack->starts;
    for (uint32_t first = 0; first < pack->n_rows; record += TD_PART_RECORD) {
        if (!td_starts_sample(pack, first)) return false;
        first += td_word(record);
    }
    for (uint32_t row = 0; row < pack->n_rows; row += 8u) n -= td_ones(*starts++);
    return n == 0 && td_padded(pack->starts, pack->n_rows);
}

static bool check_starts(td_pack *pack)
{
    bool listed = td_samples_listed(pack);
    uint32_t size = listed ? 4u * pack->n_samples : (pack->n_rows + 7u) / 8u;
    if (!section(pack, TD_PACK_SAMPLES, size, &pack->starts) || !pack->starts) return false;
    return listed ? check_list(pack) : check_bitmap(pack);
}

/* The sampler divides by their sum: bounds for each keep the quotient finite, and no sum of floats is needed here. */
TD_NOINLINE static bool check_weights(td_pack *pack)
{
    bool enough = false;
    if (!section(pack, TD_PACK_WEIGHTS, 4u * pack->n_samples, &pack->weights)) return false;
    for (uint32_t i = 0; pack->weights && i < pack->n_samples; i++) {
        uint32_t bits = td_word(pack->weights + 4u * (size_t)i);
        if (bits > BITS_OF_1E21) return false;
        enough |= bits >= BITS_OF_1E_6;
    }
    return enough || !pack->weights;
}

/* The position of each row that was given, if they were to be kept. */
TD_NOINLINE static bool check_order(td_pack *pack)
{
    uint32_t n_bits = td_log2up(pack->n_rows), rest = (pack->n_rows & 7u) * n_bits, size = (pack->n_rows >> 3) * n_bits;
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
    if (status == TD_OK) status = read_schema(pack);
    if (status == TD_OK) status = check_parts(pack);
    if (status == TD_OK) status = td_transforms_open(pack);
    if (status == TD_OK && !(check_starts(pack) && check_weights(pack) && check_order(pack))) status = TD_E_FORMAT;
    return status;
}
