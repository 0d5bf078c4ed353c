/* Reads golden packs and encodes their rows again; prints one line a pack, which must be that of tests/golden/rows.txt on
 * every machine: `make -C c_src test`. Files are arguments, but on an AVR: there GOLDEN is the one that is built in, and
 * lines leave through the first UART. */
#include <string.h>

#include "td.h"

enum { MAX_BYTES = 8192, MAX_FEATURES = 256, MAX_VALUES = 512, MAX_ORDER = 768, MAX_ROWS = 160, MAX_PART = 2048 };

static int32_t row[MAX_FEATURES];
static float sample[MAX_FEATURES];
static uint32_t rows[MAX_VALUES], group[MAX_ROWS], order[MAX_ORDER], mask[MAX_FEATURES];
static uint64_t work[2 * MAX_ROWS];
static uint8_t part[MAX_PART];

static void put(char letter);

static void say(const char *text)
{
    while (*text) put(*text++);
}

static void say_hex(uint32_t value)
{
    for (uint32_t shift = 32; shift > 0; shift -= 4) put("0123456789abcdef"[value >> (shift - 4u) & 15u]);
}

static uint32_t crc_of(uint32_t crc, uint32_t word)
{
    uint8_t bytes[4];
    for (uint32_t i = 0; i < 4; i++) bytes[i] = (uint8_t)(word >> (8u * i) & 0xFFu);
    return td_crc32(crc, bytes, 4);
}

/* Pixels through the transform, where rows are images; else the bytes of both published plans' parts. */
static uint32_t encode(td_pack *pack)
{
    uint32_t crc = 0, n = pack->n_rows, d = pack->n_features, label;
    if (pack->image) {
        for (uint32_t i = 0; i < n; i++) {
            if (td_pack_stored_row(pack, i, row, &label) != TD_OK) return 0;
            td_image_forward(pack->image, row);
            for (uint32_t f = 0; f < d; f++) crc = crc_of(crc, (uint32_t)row[f]);
        }
        return crc;
    }
    if (n > MAX_ROWS || n * d > MAX_VALUES || 2u * d * pack->width > MAX_ORDER) return 0;
    for (uint32_t i = 0; i < n; i++) {
        if (td_pack_stored_row(pack, i, row, NULL) != TD_OK) return 0;
        for (uint32_t f = 0; f < d; f++) rows[i * d + f] = (uint32_t)row[f] - (uint32_t)pack->minimum;
    }
    for (uint32_t method = 0; method < 2; method++) {
        td_plan_result plan;
        td_part_header header = {0};
        int status = (method ? td_plan_greedy : td_plan_compress)(rows, n, d, pack->width, 0, mask, order, &plan, work,
                                                                  sizeof work);
        if (status != TD_OK) return 0;
        int n_bases = td_plan_group(rows, n, d, pack->width, mask, group, work, sizeof work);
        if (n_bases < 0 || (uint32_t)n_bases != plan.n_bases) return 0;
        int size = td_encode_part(rows, n, d, pack->width, mask, NULL, group, plan.n_bases, part, sizeof part, &header);
        if (size <= 0) return 0;
        crc = td_crc32(crc, part, (size_t)size);
    }
    return crc;
}

#ifdef __AVR__ /* has not the memory for the unpacker's tables */
static bool unpacks(td_pack *pack)
{
    return pack->n_rows > 0;
}
#else
static bool unpacks(td_pack *pack)
{
    static uint64_t tables[1u << 18];
    static int32_t values[MAX_BYTES];
    td_unpacker u;
    uint32_t d = pack->n_features;
    if (td_unpacker_init(&u, pack, 32, 2, tables, sizeof tables) != TD_OK || pack->n_rows * d > MAX_BYTES) return false;
    if (td_unpacker_rows(&u, 0, pack->n_rows, values) != TD_OK) return false;
    for (uint32_t i = 0; i < pack->n_rows; i++) {
        if (td_pack_row(pack, i, row, NULL) != TD_OK || memcmp(row, values + i * d, d * sizeof *row) != 0) return false;
    }
    return true;
}
#endif

static void tell(const uint8_t *bytes, uint32_t size)
{
    static td_pack pack;
    uint32_t crc = 0, label, bits;
    float weight;
    if (td_pack_open(&pack, bytes, size) != TD_OK || pack.n_features > MAX_FEATURES) {
        say("refused");
        return;
    }
    if (!unpacks(&pack)) say("unpacked otherwise");
    for (uint32_t i = 0; i < pack.n_rows; i++) {
        if (td_pack_row(&pack, i, row, &label) != TD_OK) say("unreadable");
        for (uint32_t f = 0; f < pack.n_features; f++) crc = crc_of(crc, (uint32_t)row[f]);
        crc = crc_of(crc, label);
    }
    say("rows ");
    say_hex(crc);
    crc = 0;
    for (uint32_t i = 0; i < pack.n_samples; i++) {
        if (td_pack_sample(&pack, i, row, sample, &label, &weight) != TD_OK) say("unreadable");
        for (uint32_t f = 0; f < pack.n_features; f++) {
            memcpy(&bits, &sample[f], sizeof bits);
            crc = crc_of(crc, bits);
        }
        memcpy(&bits, &weight, sizeof bits);
        crc = crc_of(crc, bits);
    }
    say(" samples ");
    say_hex(crc);
    say(" encoded ");
    say_hex(encode(&pack));
}

#ifdef __AVR__

#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>

static const uint8_t golden[] = {
#include GOLDEN
};

static void put(char letter)
{
    while (!(UCSR0A & _BV(UDRE0))) continue;
    UDR0 = (uint8_t)letter;
}

int main(void)
{
    UCSR0B = _BV(TXEN0);
    tell(golden, sizeof golden);
    put('\n');
    cli();
    sleep_cpu(); /* ends the emulator */
    return 0;
}

#else

#include <stdio.h>

static void put(char letter)
{
    putchar(letter);
}

int main(int n, char **names)
{
    static uint8_t bytes[MAX_BYTES];
    for (int i = 1; i < n; i++) {
        FILE *file = fopen(names[i], "rb");
        if (!file) return 1;
        size_t size = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        const char *slash = strrchr(names[i], '/');
        say(slash ? slash + 1 : names[i]);
        put(' ');
        tell(bytes, (uint32_t)size);
        put('\n');
    }
    return 0;
}

#endif
