/* Internal: archives (archive.c), as open.c checks and decode.c and unpack.c read them. */
#ifndef ARCHIVE_H
#define ARCHIVE_H

#include "td_internal.h"

#if TD_ARCHIVE
/* Of a pack whose parts are an archive, once its schema is read: TD_E_FORMAT unless every row can be read. */
int td_archive_check(td_pack *pack, const td_section *data);
/* A stored row below n_rows, less the minimum; valid until the next call. NULL when no memory is attached. */
const uint32_t *td_archive_row(const td_pack *pack, uint32_t row);
#endif

#endif /* ARCHIVE_H */
