/* Each stage of the core through its C API, without Python: `make -C c_src test`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "td.h"

static const uint8_t golden[] = {
#include "golden_masks.inc"
};
static const uint8_t golden_replay[] = {
#include "golden_replay.inc"
};
/* 4x4x1 inputs, a convolution with ReLU, a depthwise one with stride 2, and a dense tail of 8 to 2. */
static const uint8_t golden_model[] = {
#include "golden_model.inc"
};

static unsigned n_failed;

#define CHECK(condition)                                                                    \
    do {                                                                                    \
        if (!(condition)) {                                                                 \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);                          \
            n_failed++;                                                                     \
        }                                                                                   \
    } while (0)

/* ------------------------------------------------------------------ common */

static void test_crc(void)
{
    const uint8_t digits[] = "123456789";
    CHECK(td_crc32(0, digits, 9) == 0xCBF43926u);
    CHECK(td_crc32(td_crc32(0, digits, 4), digits + 4, 5) == 0xCBF43926u);
    CHECK(td_crc32(0, NULL, 0) == 0);
}

static void test_names(void)
{
    for (int status = -130; status <= 2; status++) CHECK(td_status_name(status)[0] != '\0');
    CHECK(strcmp(td_status_name(TD_E_CRC), "crc") == 0 && strcmp(td_status_name(-128), "callback") == 0);
}

/* The very bits: every machine must agree on them. */
static void test_math(void)
{
    static const struct { float x; uint32_t exponential; } cases[] = {
        {0.0f, 0x3F800000u}, {1.0f, 0x402DF854u}, {-1.0f, 0x3EBC5AB2u}, {87.0f, 0x7E36D808u}, {-87.0f, 0x00B33687u}, {1e9f, 0x7E36D808u}};
    uint32_t bits;
    float value;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        value = td_expf(cases[i].x);
        memcpy(&bits, &value, sizeof bits);
        CHECK(bits == cases[i].exponential);
    }
    value = td_logf(10.0f);
    memcpy(&bits, &value, sizeof bits);
    CHECK(bits == 0x40135D8Eu && td_logf(1.0f) == 0.0f);
    CHECK(td_random(1) == 270369u);
}

/* -------------------------------------------------------------------- file */

static void test_file(void)
{
    const uint8_t first[] = {1, 2, 3, 4, 5};
    td_section sections[2] = {{7, first, sizeof first}, {9, NULL, 0}}, found;
    uint8_t out[64];
    td_file file;
    CHECK(td_file_size(sections, 2) == 56);
    CHECK(td_file_write(TD_MAGIC_PACK, sections, 2, out, 55) == TD_E_FULL);
    CHECK(td_file_write(TD_MAGIC_PACK, sections, 2, out, sizeof out) == TD_OK);
    CHECK(td_file_open(&file, TD_MAGIC_MODEL, out, 56) == TD_E_FORMAT);
    CHECK(td_file_open(&file, TD_MAGIC_PACK, out, 55) == TD_E_FORMAT);
    CHECK(td_file_open(&file, TD_MAGIC_PACK, out, 64) == TD_OK && file.size == 56);
    CHECK(td_file_section(&file, 7, &found) == TD_OK && found.size == 5 && memcmp(found.data, first, 5) == 0);
    CHECK(td_file_section(&file, 9, &found) == TD_OK && found.size == 0);
    CHECK(td_file_section(&file, 8, &found) == TD_E_NOT_FOUND);
    for (uint32_t bit = 0; bit < 56 * 8; bit++) {
        out[bit >> 3] ^= (uint8_t)(1u << (bit & 7u));
        CHECK(td_file_open(&file, TD_MAGIC_PACK, out, 56) < 0);
        out[bit >> 3] ^= (uint8_t)(1u << (bit & 7u));
    }
}

/* -------------------------------------------------------------------- pack */

static void test_pack(void)
{
    td_pack pack;
    int32_t row[6];
    float values[6], weight, total = 0.0f;
    uint32_t label, sum = 0;
    CHECK(td_pack_open(&pack, golden, sizeof golden) == TD_OK);
    CHECK(pack.n_rows == 40 && pack.n_samples == 8 && pack.n_features == 6 && pack.n_classes == 2);
    for (uint32_t i = 0; i < pack.n_rows; i++) {
        CHECK(td_pack_row(&pack, i, row, &label) == TD_OK && label == i / 20);
        for (uint32_t f = 0; f < 6; f++) sum = sum * 31u + (uint32_t)row[f];
    }
    CHECK(sum == 0xD4FA5DC2u);
    for (uint32_t i = 0; i < pack.n_samples; i++) {
        CHECK(td_pack_sample(&pack, i, row, values, &label, &weight) == TD_OK);
        total += weight;
    }
    CHECK(total == 40.0f && td_pack_total_weight(&pack) == 40.0f);
    CHECK(td_pack_open_rows(&pack, golden, sizeof golden) == TD_OK && pack.n_rows == 40 && pack.n_samples == 0);
    CHECK(td_pack_row(&pack, 39, row, &label) == TD_OK && label == 1);
    CHECK(td_pack_sample(&pack, 0, row, values, &label, &weight) == TD_E_RANGE);
    for (uint32_t size = 0; size < sizeof golden; size++) {
        uint8_t *cut = malloc(size + 1u); /* so that a read past the end is noticed */
        if (!cut) abort();
        memcpy(cut, golden, size);
        CHECK(td_pack_open(&pack, cut, size) < 0);
        free(cut);
    }
}

static void test_plan_and_encode(void)
{
    const uint32_t rows[] = {0, 3, 0, 4, 5, 4, 5, 4}, offsets[] = {1, 1};
    const uint16_t label[] = {0, 0, 1, 1};
    uint32_t group[4], mask[2], order[12];
    uint64_t work[64];
    uint8_t part[32], record[TD_PART_RECORD];
    td_plan_result plan;
    td_part_header header = {0};
    CHECK(td_plan_condense(rows, 4, 2, 3, 2, group, work, sizeof work) == 2);
    CHECK(group[0] == group[1] && group[2] == group[3] && group[0] != group[2]);
    CHECK(td_condense_variance(rows, label, 4, 2, 3, 2, group, work, sizeof work) == 3);
    CHECK(td_condense_variance(rows, label, 4, 2, 1, 2, group, work, sizeof work) == TD_E_RANGE);
    CHECK(td_plan_compress(rows, 4, 2, 3, 0, mask, order, &plan, work, sizeof work) == TD_OK);
    int n_bases = td_plan_group(rows, 4, 2, 3, mask, group, work, sizeof work);
    CHECK(n_bases > 0 && (uint32_t)n_bases == plan.n_bases);
    int size = td_encode_part(rows, 4, 2, 3, mask, offsets, group, plan.n_bases, part, sizeof part, &header);
    CHECK(size > 0 && header.n_rows == 4 && header.flags & TD_PART_OFFSETS);
    CHECK(td_encode_part(rows, 4, 2, 3, mask, offsets, group, plan.n_bases, part, (uint32_t)size - 1u, &header) == TD_E_FULL);
    td_encode_part_record(&header, record);
    CHECK(record[0] == 4 && record[15] == header.flags);
}

static void test_sampler(void)
{
    td_pack train, replay;
    td_sampler sampler;
    int32_t row[6];
    float x[6], weight, total, of_replay;
    uint32_t label;
    CHECK(td_pack_open(&train, golden, sizeof golden) == TD_OK);
    CHECK(td_pack_open(&replay, golden_replay, sizeof golden_replay) == TD_OK);
    for (uint32_t mode = 0; mode <= TD_MODE_STRATIFIED; mode++) {
        td_sampler_config config = {mode, 42, 0.5f, 0.0f};
        CHECK(td_sampler_init(&sampler, &train, &replay, &config) == TD_OK);
        uint32_t n = td_sampler_size(&sampler);
        CHECK(n == (mode == TD_MODE_FULL ? 46u : 14u));
        total = 0.0f;
        for (uint32_t i = 0; i < n; i++) {
            CHECK(td_sampler_get(&sampler, 1, i, row, x, &label, &weight) == TD_OK && label < 2);
            total += weight;
        }
        of_replay = sampler.replay_scale * td_pack_total_weight(&replay);
        CHECK(total > (float)n * 0.9999f && total < (float)n * 1.0001f);
        CHECK(of_replay * 3.0f > (float)n * 0.9999f && of_replay * 3.0f < (float)n * 1.0001f);
        CHECK(td_sampler_get(&sampler, 1, n, row, x, &label, &weight) == TD_E_RANGE);
    }
    td_sampler_config wrong = {3, 42, 0.5f, 0.0f};
    CHECK(td_sampler_init(&sampler, &train, &replay, &wrong) == TD_E_ARGUMENT);
}

/* -------------------------------------------------------------------- link */

static td_frame deliver(td_receiver *rx, const uint8_t *wire, int size)
{
    td_frame frame = {0};
    int status = TD_NEED_INPUT;
    for (int i = 0; i < size && status == TD_NEED_INPUT; i++) status = td_receiver_byte(rx, wire[i], &frame);
    CHECK(status == TD_OK);
    return frame;
}

static void test_link(void)
{
    td_client client;
    td_server server;
    td_receiver to_board, to_host;
    uint8_t wire[TD_LINK_WIRE], payload[TD_LINK_MTU];
    td_client_init(&client, 77);
    td_server_init(&server);
    td_receiver_init(&to_board);
    td_receiver_init(&to_host);
    for (unsigned size = 0; size <= TD_LINK_MTU; size += 64) {
        for (unsigned i = 0; i < size; i++) payload[i] = (uint8_t)(i * 37u);
        int n = td_client_request(&client, payload, size, wire, sizeof wire);
        CHECK(n > 0);
        td_frame frame = deliver(&to_board, wire, n);
        CHECK(frame.size == size && td_server_receive(&server, &frame) == TD_SERVE_APPLY);
        CHECK(memcmp(frame.payload, payload, size) == 0);
        CHECK(td_server_reply(&server, frame.payload, frame.size) == TD_OK);
        CHECK(td_server_receive(&server, &frame) == TD_SERVE_SEND); /* a repeat is not applied again */
        frame = deliver(&to_host, server.reply, server.n_reply);
        CHECK(td_client_receive(&client, &frame) == TD_CLIENT_REPLY && frame.size == size);
        CHECK(td_client_receive(&client, &frame) == TD_CLIENT_IGNORE);
    }
}

/* ------------------------------------------------------------------- store */

enum { BLOCK = 64, REGION = 40 * BLOCK };

static int ram_erase(void *context, uint32_t offset)
{
    memset((uint8_t *)context + offset, 0xFF, BLOCK);
    return TD_OK;
}

static int ram_program(void *context, uint32_t offset, const uint8_t *bytes, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) ((uint8_t *)context)[offset + i] &= bytes[i];
    return TD_OK;
}

static void test_store(void)
{
    static uint8_t region[REGION];
    static const uint32_t capacity[TD_N_OBJECTS] = {0, sizeof golden, 0, 64, 64};
    memset(region, 0x5A, sizeof region);
    td_flash flash = {region, REGION, BLOCK, 4, 0xFF, ram_erase, ram_program, region};
    td_store store;
    td_section found;
    td_pack pack;
    uint32_t at, sequence, crc = td_crc32(0, golden, sizeof golden);
    CHECK(td_store_init(&store, &flash, capacity) == TD_OK);
    CHECK(td_store_get(&store, TD_OBJECT_TRAIN, &found, &sequence) == TD_E_NOT_FOUND);
    CHECK(td_store_begin(&store, TD_OBJECT_TRAIN, sizeof golden, crc, 5, &at) == TD_OK && at == 0);
    CHECK(td_store_write(&store, 0, golden, 128) == TD_OK && td_store_commit(&store) == TD_E_STATE);
    CHECK(td_store_init(&store, &flash, capacity) == TD_OK); /* a reset */
    CHECK(td_store_begin(&store, TD_OBJECT_TRAIN, sizeof golden, crc, 5, &at) == TD_OK && at == 128);
    CHECK(td_store_write(&store, at, golden + at, sizeof golden - at) == TD_OK && td_store_commit(&store) == TD_OK);
    CHECK(td_store_get(&store, TD_OBJECT_TRAIN, &found, &sequence) == TD_OK && sequence == 5);
    CHECK(found.size == sizeof golden && td_pack_open(&pack, found.data, found.size) == TD_OK);
    CHECK(td_store_spare_slot(&store) == TD_OBJECT_SLOT_A);
}

/* ------------------------------------------------------------------- model */

static void test_model(void)
{
    static uint64_t arena[64] __attribute__((aligned(16)));
    td_model model;
    CHECK(td_model_open(&model, golden_model, sizeof golden_model) == TD_OK);
    CHECK(model.arena_size <= sizeof arena && model.n_tail == 1);
    for (uint32_t i = 0; i < model.input_size; i++) ((uint8_t *)arena)[model.input_offset + i] = (uint8_t)(i * 11u);
    CHECK(td_model_run(&model, (uint8_t *)arena, model.arena_size - 1u) == TD_E_MEMORY);
    CHECK(td_model_run(&model, (uint8_t *)arena, sizeof arena) == TD_OK);
    CHECK(td_crc32(0, (uint8_t *)arena + model.embedding_offset, model.embedding_size) == 0x49032A0Du);
}

static void test_train(void)
{
    /* y = W x + b with W = 0.5 * {{1, -2}, {3, 0}}, b = {0, 0.25}; little-endian f32. */
    static const uint8_t weights[] = {1, 0xFE, 3, 0}, scales[] = {0, 0, 0, 0x3F, 0, 0, 0, 0x3F};
    static const uint8_t bias[] = {0, 0, 0, 0, 0, 0, 0x80, 0x3E};
    td_model model = {.embedding_size = 2, .n_tail = 1, .tail = {{2, 2, TD_ACT_NONE, weights, scales, bias}}};
    td_train_config config = {.learning_rate = 0.5f};
    td_trainer trainer;
    uint64_t memory[16];
    float x[] = {1.0f, 2.0f}, before, after;
    CHECK(td_trainer_size(&model, &config, NULL) <= sizeof memory);
    CHECK(td_trainer_init(&trainer, &model, &config, memory, td_trainer_size(&model, &config, NULL) - 1u) == TD_E_MEMORY);
    CHECK(td_trainer_init(&trainer, &model, &config, memory, sizeof memory) == TD_OK);
    CHECK(trainer.n_parameters == 6 && trainer.parameters[1] == -1.0f && trainer.parameters[5] == 0.25f);
    CHECK(td_trainer_predict(&trainer, x, 0, &before) == 1);
    CHECK(trainer.logit_min == -1.5f && trainer.logit_max == 1.75f);
    CHECK(td_trainer_step(&trainer, x, 0, 1.0f, &after) == 1 && after == before);
    for (int i = 0; i < 20; i++) CHECK(td_trainer_step(&trainer, x, 0, 1.0f, &after) >= 0);
    CHECK(td_trainer_predict(&trainer, x, 0, &after) == 0 && after < before);
    CHECK(td_trainer_step(&trainer, x, 2, 1.0f, &after) == TD_E_RANGE);
    td_model empty = {.n_tail = 0};
    CHECK(td_trainer_init(&trainer, &empty, &config, memory, sizeof memory) == TD_E_UNSUPPORTED);
}

int main(void)
{
    static void (*const tests[])(void) = {test_crc, test_names, test_math, test_file, test_pack, test_plan_and_encode,
                                          test_sampler, test_link, test_store, test_model, test_train};
    unsigned n_passed = 0, n = sizeof tests / sizeof *tests;
    for (unsigned i = 0; i < n; i++) {
        unsigned before = n_failed;
        tests[i]();
        n_passed += n_failed == before;
    }
    printf("%u passed, %u failed\n", n_passed, n - n_passed);
    return n_passed == n ? EXIT_SUCCESS : EXIT_FAILURE;
}
