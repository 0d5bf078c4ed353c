/* The section file: the container of .tdz and .tdm (docs/SPEC.md, "Section file"). */
#include "td_internal.h"

/* Header: magic u32, format u16, n_sections u16, size u32, CRC-32 u32 of the 12 bytes before it and
 * of the table. Table entry: kind u32, offset u32, size u32, CRC-32 u32 of the section's bytes. */

static const uint32_t TOO_LARGE = 0xFFFFFFFFu;

static uint32_t aligned(uint32_t size)
{
    return (size + 3u) & ~(uint32_t)3u;
}

static uint32_t head_size(uint32_t n_sections)
{
    return TD_FILE_HEADER + TD_FILE_ENTRY * n_sections;
}

static uint32_t n_sections_of(const uint8_t *file)
{
    return td_get16(file + 6);
}

static uint32_t head_crc(const uint8_t *file, uint32_t n_sections)
{
    uint32_t crc = td_crc32(0, file, 12);
    return td_crc32(crc, file + TD_FILE_HEADER, TD_FILE_ENTRY * (size_t)n_sections);
}

uint32_t td_file_size(const td_section *sections, uint32_t n_sections)
{
    uint64_t size = head_size(n_sections);
    for (uint32_t i = 0; i < n_sections; i++) size += ((uint64_t)sections[i].size + 3u) & ~(uint64_t)3u;
    return size > 0xFFFFFFFCu ? TOO_LARGE : (uint32_t)size;
}

int td_file_head(uint32_t magic, const td_section *sections, const uint32_t *crcs, uint32_t n_sections, uint8_t *out)
{
    if (n_sections > TD_FILE_MAX_SECTIONS) return TD_E_ARGUMENT;
    uint32_t size = td_file_size(sections, n_sections), at = head_size(n_sections);
    if (size == TOO_LARGE) return TD_E_FULL;
    td_put32(out, magic);
    td_put16(out + 4, TD_FILE_FORMAT);
    td_put16(out + 6, n_sections);
    td_put32(out + 8, size);
    for (uint32_t i = 0; i < n_sections; i++) {
        uint8_t *entry = out + head_size(i);
        td_put32(entry, sections[i].kind);
        td_put32(entry + 4, at);
        td_put32(entry + 8, sections[i].size);
        td_put32(entry + 12, crcs[i]);
        at += aligned(sections[i].size);
    }
    td_put32(out + 12, head_crc(out, n_sections));
    return TD_OK;
}

int td_file_write(uint32_t magic, const td_section *sections, uint32_t n_sections, uint8_t *out, uint32_t capacity)
{
    if (n_sections > TD_FILE_MAX_SECTIONS) return TD_E_ARGUMENT;
    uint32_t size = td_file_size(sections, n_sections), at = head_size(n_sections), crcs[TD_FILE_MAX_SECTIONS];
    if (size == TOO_LARGE || size > capacity) return TD_E_FULL;
    for (uint32_t i = 0; i < n_sections; i++) {
        uint32_t length = sections[i].size;
        crcs[i] = td_crc32(0, sections[i].data, (size_t)length);
        if (length) memcpy(out + at, sections[i].data, (size_t)length);
        memset(out + at + length, 0, (size_t)(aligned(length) - length));
        at += aligned(length);
    }
    return td_file_head(magic, sections, crcs, n_sections, out);
}

/* Sections follow each other without gaps; padding is zero: a file has one form only. *end, where it is to begin and then
 * where it ends, and file_size are multiples of 4, so that a section that ends in the file has its padding there too. */
static int check_section(const uint8_t *data, uint32_t file_size, const uint8_t *entry, uint32_t *end)
{
    uint32_t offset = td_word(entry + 4), length = td_word(entry + 8);
    if (offset != *end || offset > file_size || length > file_size - offset) return TD_E_FORMAT;
    *end = offset + aligned(length);
    for (uint32_t i = offset + length; i < *end; i++) {
        if (data[i] != 0) return TD_E_FORMAT;
    }
    return td_crc32(0, data + offset, (size_t)length) == td_word(entry + 12) ? TD_OK : TD_E_CRC;
}

int td_file_open(td_file *file, uint32_t magic, const uint8_t *data, uint32_t size)
{
    if (size < TD_FILE_HEADER || td_word(data) != magic) return TD_E_FORMAT;
    if ((size_t)size != size) return TD_E_UNSUPPORTED; /* more than this machine can address */
    uint32_t numbers = td_word(data + 4), n_sections = numbers >> 16, file_size = td_word(data + 8);
    if ((numbers & 0xFFFFu) != TD_FILE_FORMAT) return TD_E_VERSION;
    if (n_sections > TD_FILE_MAX_SECTIONS || file_size > size || file_size < head_size(n_sections) || file_size & 3u)
        return TD_E_FORMAT;
    if (head_crc(data, n_sections) != td_word(data + 12)) return TD_E_CRC;
    uint32_t end = head_size(n_sections);
    for (uint32_t i = 0; i < n_sections; i++) {
        int status = check_section(data, file_size, data + head_size(i), &end);
        if (status != TD_OK) return status;
    }
    if (end != file_size) return TD_E_FORMAT;
    file->data = data;
    file->size = file_size;
    return TD_OK;
}

uint32_t td_file_damaged(uint32_t magic, const uint8_t *data, uint32_t size)
{
    if (size < TD_FILE_HEADER || td_word(data) != magic || td_get16(data + 4) != TD_FILE_FORMAT) return 0;
    uint32_t n_sections = n_sections_of(data);
    if (n_sections > TD_FILE_MAX_SECTIONS || size < head_size(n_sections) ||
        head_crc(data, n_sections) != td_word(data + 12))
        return 0;
    uint32_t end = head_size(n_sections), whole = size & ~(uint32_t)3u;
    for (uint32_t i = 0; i < n_sections; i++) {
        const uint8_t *entry = data + head_size(i);
        if (check_section(data, whole, entry, &end) != TD_OK) return td_word(entry);
    }
    return 0;
}

const uint8_t *td_file_find(const td_file *file, uint32_t kind, uint32_t *size)
{
    const uint8_t *data = file->data, *entry = data + TD_FILE_HEADER;
    for (uint32_t n = n_sections_of(data); n > 0; n--, entry += TD_FILE_ENTRY) {
        if (td_word(entry) != kind) continue;
        *size = td_word(entry + 8);
        return data + td_word(entry + 4);
    }
    *size = 0;
    return NULL;
}

int td_file_section(const td_file *file, uint32_t kind, td_section *out)
{
    out->kind = kind;
    out->data = td_file_find(file, kind, &out->size);
    return out->data ? TD_OK : TD_E_NOT_FOUND;
}
