/* Undoes what rows went through before they were packed: differences to other features, Gray code (docs/SPEC.md,
 * "Transforms"). */
#include "transform.h"

#include "parts.h"

#if TD_TRANSFORMS
/* Gray code has nothing but the feature. */
static bool sound(const uint8_t *record, uint32_t n_features)
{
    uint32_t features = td_word(record), feature = features & 0xFFFFu, other = features >> 16;
    if (feature >= n_features || other >= n_features) return false;
    return td_transform_factor(record) ? other != feature && record[6] < 32 : (other | td_word(record + 4)) == 0;
}

int td_transforms_open(td_pack *pack)
{
    uint32_t size, n;
    const uint8_t *record = td_file_find(&pack->file, TD_PACK_TRANSFORMS, &size);
    pack->transforms = record;
    pack->n_transforms = n = size / TD_TRANSFORM_RECORD;
    if (!record) return TD_OK;
    if (n - 1u >= TD_MAX_TRANSFORMS || size % TD_TRANSFORM_RECORD || td_is_image(pack) || td_is_archive(pack))
        return TD_E_FORMAT;
    for (; n > 0; n--, record += TD_TRANSFORM_RECORD) {
        if (!sound(record, pack->n_features)) return TD_E_FORMAT;
    }
    return TD_OK;
}

void td_transforms_undo(const td_pack *pack, uint32_t *values)
{
    const uint8_t *record = pack->transforms;
    uint32_t spare = 32u - pack->width, low = (uint32_t)pack->minimum;
    for (uint32_t n = pack->n_transforms; n > 0; n--, record += TD_TRANSFORM_RECORD) {
        uint32_t *at = values + td_transform_feature(record), value = *at - low, other = values[td_transform_other(record)];
        if (td_transform_factor(record)) {
            value += td_transform_predict(record, other - low, spare);
            value = value << spare >> spare;
        } else {
            value = td_transform_gray(value << spare >> spare);
        }
        *at = value + low;
    }
}
#else
int td_transforms_open(td_pack *pack)
{
    uint32_t size;
    return td_file_find(&pack->file, TD_PACK_TRANSFORMS, &size) ? TD_E_UNSUPPORTED : TD_OK;
}
#endif
