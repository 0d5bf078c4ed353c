/* For fuzz targets of section files: gives mutated bytes the magic and the checksums that they need to get past them. */
#ifndef REPAIR_H
#define REPAIR_H

#include "td_internal.h"

static void repair(uint32_t magic, uint8_t *bytes, uint32_t size)
{
    if (size < TD_FILE_HEADER) return;
    td_put32(bytes, magic);
    uint32_t n = td_get16(bytes + 6);
    if (n > TD_FILE_MAX_SECTIONS || TD_FILE_HEADER + TD_FILE_ENTRY * n > size) return;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *entry = bytes + TD_FILE_HEADER + TD_FILE_ENTRY * i;
        uint32_t offset = td_get32(entry + 4), length = td_get32(entry + 8);
        if (offset <= size && length <= size - offset) td_put32(entry + 12, td_crc32(0, bytes + offset, length));
    }
    uint32_t crc = td_crc32(0, bytes, 12);
    td_put32(bytes + 12, td_crc32(crc, bytes + TD_FILE_HEADER, TD_FILE_ENTRY * (size_t)n));
}

#endif /* REPAIR_H */
