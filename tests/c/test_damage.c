/* Golden packs and models with every byte changed to every other value, cut at every length, and changed with their checksums
 * made right again: `make -C c_src test`, under the sanitizers. The first two are refused; what opens of the third reads
 * without a fault, and both readers give the same rows. Files are arguments. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../fuzz/repair.h"

enum { MAX_BYTES = 4096, MAX_FEATURES = 256, MAX_VALUES = 1 << 16, MAX_ARENA = 1 << 14 };

static void fail(const char *name, const char *what, uint32_t at)
{
    printf("%s: %s at byte %u\n", name, what, (unsigned)at);
    exit(EXIT_FAILURE);
}

/* Every row, by both readers, and every sample; what the checks at opening promised must hold. */
static bool read_all(td_pack *pack)
{
    static int32_t row[MAX_FEATURES], values[MAX_VALUES];
    static float sample[MAX_FEATURES];
    static uint64_t tables[1u << 18];
    uint32_t d = pack->n_features, label;
    float weight;
    td_unpacker u;
    static uint64_t block[1u << 21];
    if (td_pack_archive_size(pack) > sizeof block) return true;
    if (pack->archive && td_pack_attach(pack, block, sizeof block) != TD_OK) return false;
    if (d > MAX_FEATURES || (uint64_t)pack->n_rows * d > MAX_VALUES) return true; /* absurd, but sound */
    int status = td_unpacker_init(&u, pack, 32, 1, tables, sizeof tables);
    bool unpacks = status == TD_OK && td_unpacker_rows(&u, 0, pack->n_rows, values) == TD_OK;
    if (!unpacks && status != TD_E_MEMORY) return false;
    for (uint32_t i = 0; i < pack->n_rows; i++) {
        if (td_pack_row(pack, i, row, &label) != TD_OK || label >= pack->n_classes) return false;
        if (unpacks && memcmp(row, values + i * d, d * sizeof *row) != 0) return false;
    }
    for (uint32_t i = 0; i < pack->n_samples; i++) {
        if (td_pack_sample(pack, i, row, sample, &label, &weight) != TD_OK || !(weight >= 0.0f)) return false;
    }
    return true;
}

/* Opened without its samples: rows read all the same. */
static bool reads_rows(const uint8_t *bytes, uint32_t size, bool opened)
{
    static int32_t row[MAX_FEATURES];
    td_pack pack;
    if (td_pack_open_rows(&pack, bytes, size) != TD_OK) return !opened;
    if (pack.archive || pack.n_features > MAX_FEATURES || (uint64_t)pack.n_rows * pack.n_features > MAX_VALUES) return true;
    for (uint32_t i = 0; i < pack.n_rows; i++) {
        if (td_pack_row(&pack, i, row, NULL) != TD_OK) return false;
    }
    return true;
}

static bool runs(const td_model *model)
{
    static uint8_t arena[MAX_ARENA] __attribute__((aligned(16)));
    return model->arena_size > sizeof arena || td_model_run(model, arena, model->arena_size) == TD_OK;
}

/* The bytes where a read past their end is noticed. */
static bool opens(uint32_t magic, const uint8_t *bytes, uint32_t size, bool *sound)
{
    td_pack pack;
    td_model model;
    uint8_t *exact = malloc(size ? size : 1u);
    if (!exact) abort();
    memcpy(exact, bytes, size);
    bool is_pack = magic == TD_MAGIC_PACK;
    bool opened = (is_pack ? td_pack_open(&pack, exact, size) : td_model_open(&model, exact, size)) == TD_OK;
    *sound = !opened || (is_pack ? read_all(&pack) : runs(&model));
    if (is_pack && !reads_rows(exact, size, opened)) *sound = false;
    free(exact);
    return opened;
}

static uint32_t damage(const char *name, const uint8_t *golden, uint32_t size)
{
    static uint8_t changed[MAX_BYTES];
    bool sound;
    uint32_t n_opened = 0, magic = td_get32(golden);
    if (!opens(magic, golden, size, &sound) || !sound) fail(name, "refused as it is", 0);
    for (uint32_t n = 0; n < size; n++) {
        if (opens(magic, golden, n, &sound)) fail(name, "taken when cut", n);
    }
    for (uint32_t at = 0; at < size; at++) {
        for (uint32_t by = 1; by < 256; by++) {
            memcpy(changed, golden, size);
            changed[at] ^= (uint8_t)by;
            if (opens(magic, changed, size, &sound)) fail(name, "damage not noticed", at);
            if ((by & (by - 1u)) && by != 255u) continue; /* of right checksums each bit and all of them: for the time */
            repair(magic, changed, size);
            n_opened += opens(magic, changed, size, &sound);
            if (!sound) fail(name, "opened, but does not read", at);
        }
    }
    return n_opened;
}

int main(int n, char **names)
{
    static uint8_t bytes[MAX_BYTES];
    uint32_t n_opened = 0;
    for (int i = 1; i < n; i++) {
        FILE *file = fopen(names[i], "rb");
        if (!file) fail(names[i], "cannot be read", 0);
        size_t size = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        if (size == sizeof bytes || size < TD_FILE_HEADER) fail(names[i], "not of a size for this test", (uint32_t)size);
        n_opened += damage(names[i], bytes, (uint32_t)size);
    }
    printf("%d files damaged, %u other files among what has right checksums\n", n - 1, (unsigned)n_opened);
    return n_opened > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
