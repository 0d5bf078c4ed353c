/* Opens a .tdz: checks all that reading relies on, once (docs/SPEC.md, ".tdz"). */
#include "archive.h"
#include "parts.h"
#include "transform.h"

enum { ALL_FLAGS = TD_PART_OFFSETS | TD_PART_MASKS | TD_PART_KEYS | TD_PART_DICTIONARY };
/* f32 numbers that are not negative are in the order of their bits, NaN above all: no routine has to compare them. */
static const uint32_t BITS_OF_1E30 = 0x7149F2CAu;

/* ------------------------------------------------------------------ schema */

/* The schema says that rows are images, and so the section is there, or neither. */
static int read_image(td_pack *pack, bool promised)
{
#if TD_IMAGES
    uint32_t size;
    pack->image = td_file_find(&pack->file, TD_PACK_IMAGE, &size);
    if ((pack->image != NULL) != promised) return TD_E_FORMAT;
    return promised ? td_image_check(pack->image, size, pack->n_features) : TD_OK;
#else
    pack->image = NULL;
    return promised ? TD_E_UNSUPPORTED : TD_OK;
#endif
}

TD_NOINLINE static int read_schema(td_pack *pack)
{
    static const uint8_t type_bits[] = {32, 8, 8, 16, 16};
    uint32_t size;
    const uint8_t *p = td_file_find(&pack->file, TD_PACK_SCHEMA, &size);
    if (size != TD_PACK_SCHEMA_SIZE) return TD_E_FORMAT;
    uint32_t word[TD_PACK_SCHEMA_SIZE / 4];
    for (uint32_t i = 0; i < TD_PACK_SCHEMA_SIZE / 4; i++) word[i] = td_word(p + 4u * i);
    union {
        uint32_t bits;
        float value;
    } scale = {word[5]};
    uint32_t type = word[3] >> 24, n_classes = word[2] >> 16;
    pack->n_rows = word[0];
    pack->n_samples = 0;
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
    if (word[0] - 1u >= 0x0FFFFFFFu || pack->n_features - 1u >= TD_MAX_FEATURES ||
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

/* Plan, ids and keys: what the sizes in the part's record promise, no id past its bases, and a key of bits that there are. */
TD_NOINLINE static bool check_part(const td_pack *pack, td_part *part)
{
    if (!td_fields_check(pack)) return false;
    /* Where an id of these bits may be past the last base; never for a single one, whose rows may take no bytes at all. */
    for (uint32_t i = 0; part->n_bases != (uint32_t)1 << part->id_bits && i < part->n_rows; i++) {
        if (td_field(part->rows, i * part->row_bits, part->id_bits) >= part->n_bases) return false;
    }
    return part->n_key == 0 || check_blocks(part, td_word(part->index));
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
    uint32_t size;
    pack->parts = td_file_find(&pack->file, TD_PACK_PARTS, &size);
    pack->data = td_file_find(&pack->file, TD_PACK_DATA, &pack->data_size);
    if (!pack->data || size != pack->n_parts * (uint32_t)TD_PART_RECORD) return TD_E_FORMAT;
    if (pack->parts[TD_PART_RECORD - 1] == TD_PART_ARCHIVE) return check_archive(pack);
    uint32_t first = 0, values = pack->n_features * pack->width;
    const uint8_t *expected = pack->data;
    for (uint32_t p = 0; p < pack->n_parts; p++) {
        td_part *part = &pack->part;
        const uint8_t *end = td_part_open(pack, p, first, part);
        bool keys = td_part_has(part, TD_PART_KEYS), lists = td_part_has(part, TD_PART_DICTIONARY);
        if (!end || part->plan != expected || part->n_rows - 1u >= pack->n_rows - first || part->label >= pack->n_classes ||
            td_part_base_bits(pack, part) > values || part->flags > ALL_FLAGS || part->n_bases == 0 ||
            (uint32_t)part->n_key - keys >= TD_MAX_KEY || lists > keys || !check_part(pack, part))
            return TD_E_FORMAT;
        expected = end;
        first += part->n_rows;
    }
    return first == pack->n_rows && expected == pack->data + pack->data_size ? TD_OK : TD_E_FORMAT;
}

/* ------------------------------------------------------------------- order */

/* The position of each row that was given, if they were to be kept. */
TD_NOINLINE static bool check_order(td_pack *pack)
{
    uint32_t n_bits = td_log2up(pack->n_rows), rest = (pack->n_rows & 7u) * n_bits, size = (pack->n_rows >> 3) * n_bits;
    uint32_t found;
    pack->order = td_file_find(&pack->file, TD_PACK_ORDER, &found);
    if (!pack->order) return true;
    if (found != size + (rest + 7u) / 8u) return false;
    for (uint32_t row = 0; row < pack->n_rows; row++) {
        if (td_pack_position(pack, row) >= pack->n_rows) return false;
    }
    return td_padded(pack->order + size, rest);
}

int td_pack_open_rows(td_pack *pack, const uint8_t *data, uint32_t size)
{
    int status = td_file_open(&pack->file, TD_MAGIC_PACK, data, size);
    pack->memory = NULL;
    pack->archive = pack->starts = pack->weights = NULL;
    if (status == TD_OK) status = read_schema(pack);
    if (status == TD_OK) status = check_parts(pack);
    if (status == TD_OK) status = td_transforms_open(pack);
    if (status == TD_OK && !check_order(pack)) status = TD_E_FORMAT;
    return status;
}
