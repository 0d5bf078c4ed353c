/* Any sample: what is promised for a feature is what a transform leaves of it, and undone by the transform's own rule. */
#include <stdlib.h>
#include <string.h>

#include "td_bits.h"

enum { MAX_ROWS = 64, MAX_FEATURES = 70 /* of more than 64, not all pairs are looked at */ };

static void require(int condition)
{
    if (!condition) abort();
}

/* Rows of a table, for td_transforms_apply, which must leave the same. */
static void check_left(const td_relation *r, const uint8_t *record, uint32_t feature)
{
    static uint32_t rows[MAX_ROWS * MAX_FEATURES];
    uint32_t n = r->n_rows, d = r->n_features;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t f = 0; f < d; f++) rows[i * d + f] = r->columns[f * n + i];
    }
    require(td_transforms_apply(record, 1, rows, n, d, r->width, rows) == TD_OK);
    for (uint32_t i = 0; i < n; i++) require(rows[i * d + feature] == r->left[feature * n + i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint32_t columns[MAX_ROWS * MAX_FEATURES], left[MAX_ROWS * MAX_FEATURES], work[2 * MAX_ROWS];
    static int16_t clipped[MAX_ROWS * (MAX_FEATURES + 1)];
    td_column column[MAX_FEATURES];
    uint8_t barred[MAX_FEATURES];
    if (size < 6) return 0;
    td_relation r = {1u + data[0] % MAX_ROWS, 1u + data[1] % MAX_FEATURES, 1u + data[2] % TD_MAX_WIDTH,
                     columns, left, clipped, column, work};
    uint32_t n = r.n_rows * r.n_features, bar = data[3];
    double least = data[4] / 255.0;
    for (uint32_t i = 0, at = 0; i < n; i++) {
        uint32_t value = 0;
        for (uint32_t byte = 0; byte < (r.width + 7u) / 8u; byte++, at++) value = value << 8 | data[5 + at % (size - 5)];
        columns[i] = value & td_low_mask(r.width);
    }
    memcpy(left, columns, sizeof left);
    require(td_relate_survey(&r) == TD_OK);
    double closest = td_relate_closest(&r);
    require(closest >= 0.0 && closest <= 1.0000001);
    for (uint32_t f = 0; f < r.n_features; f++) {
        td_promise promise;
        uint32_t bits, place, other;
        for (uint32_t g = 0; g < r.n_features; g++) barred[g] = bar && (f ^ g) % (bar + 1u) == bar;
        require(column[f].bits <= (r.width + 7u) << 16);
        int found = td_relate_promise(&r, f, barred, least, &promise);
        require(found == 0 || found == 1);
        if (!found) continue;
        place = td_get16(promise.record);
        other = td_get16(promise.record + 2);
        require(place == f && other != f && other < r.n_features && !barred[other] && td_get16(promise.record + 4) != 0);
        require(td_relate_take(&r, promise.record, &bits) == TD_OK);
        require(bits <= promise.bits + 1u && promise.bits <= bits + 1u);
        check_left(&r, promise.record, f);
        require(td_relate_promise(&r, f, barred, least, &promise) >= 0); /* also of what is left */
    }
    return 0;
}
