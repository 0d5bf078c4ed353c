/* Requests and replies in CBOR, and the work between them. No hardware, no link, no globals. */
#include "commands.h"

#include <string.h>

#include "td_internal.h"
#include "zcbor_decode.h"
#include "zcbor_encode.h"

#define NO_OBJECT 0xFFu

/* A weights record: what a slot holds and what TD_SOURCE_WEIGHTS reads. Header: magic u32, format
 * u16, zero u16, model hash u32, n_parameters u32, logit_min f32, logit_max f32, zero u64; then the
 * parameters as f32. */
#define WEIGHTS_MAGIC 0x31574454u /* "TDW1" */
#define WEIGHTS_FORMAT 1u
#define WEIGHTS_HEADER 32u
#define WEIGHTS_STEP 16u /* parameters written to flash at once */

/* ------------------------------------------------------------------ weights */
static void put_f32(uint8_t *to, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    td_put32(to, bits);
}

static uint32_t weights_size(const td_commands *c)
{
    return WEIGHTS_HEADER + 4u * c->trainer.n_parameters;
}

static void weights_header(const td_commands *c, uint8_t out[WEIGHTS_HEADER])
{
    memset(out, 0, WEIGHTS_HEADER);
    td_put32(out, WEIGHTS_MAGIC);
    td_put16(out + 4, WEIGHTS_FORMAT);
    td_put32(out + 8, c->model.hash);
    td_put32(out + 12, c->trainer.n_parameters);
    put_f32(out + 16, c->logit_min);
    put_f32(out + 20, c->logit_max);
}

/* Bytes [offset, offset + size) of the weights record of the parameters in RAM; offset and size are
 * multiples of 4. */
static void weights_bytes(const td_commands *c, uint32_t offset, uint32_t size, uint8_t *out)
{
    uint8_t header[WEIGHTS_HEADER];
    weights_header(c, header);
    for (uint32_t at = offset; at < offset + size; at += 4, out += 4) {
        if (at < WEIGHTS_HEADER) {
            memcpy(out, header + at, 4);
        } else {
            float value;
            td_trainer_get(&c->trainer, (at - WEIGHTS_HEADER) / 4u, 1, &value);
            put_f32(out, value);
        }
    }
}

static bool is_finite(float value)
{
    return value - value == 0.0f;
}

static bool all_finite(const uint8_t *values, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!is_finite(td_get_f32(values + 4u * i))) return false;
    }
    return true;
}

static int check_weights(const td_commands *c, const td_section *record)
{
    const uint8_t *header = record->data;
    if (record->size < WEIGHTS_HEADER || td_get32(header) != WEIGHTS_MAGIC || td_get16(header + 6) != 0 ||
        td_get32(header + 24) != 0 || td_get32(header + 28) != 0) {
        return TD_E_FORMAT;
    }
    if (td_get16(header + 4) != WEIGHTS_FORMAT) return TD_E_VERSION;
    if (!c->has_model) return TD_E_STATE;
    if (record->size != weights_size(c) || td_get32(header + 8) != c->model.hash ||
        td_get32(header + 12) != c->trainer.n_parameters) {
        return TD_E_RANGE;
    }
    bool finite = all_finite(header + 16, 2) && all_finite(header + WEIGHTS_HEADER, c->trainer.n_parameters);
    return finite ? TD_OK : TD_E_RANGE;
}

static void load_weights(td_commands *c)
{
    td_section record;
    uint32_t sequence;
    c->logit_min = 0.0f;
    c->logit_max = 0.0f;
    c->training.sequence = 0;
    if (td_store_newest_slot(&c->store, &record, &sequence) < 0) return;
    c->training.sequence = sequence; /* also of a record for another model: the next one must be newer */
    if (check_weights(c, &record) != TD_OK) return;
    c->logit_min = td_get_f32(record.data + 16);
    c->logit_max = td_get_f32(record.data + 20);
    for (uint32_t i = 0; i < c->trainer.n_parameters; i++) {
        float value = td_get_f32(record.data + WEIGHTS_HEADER + 4u * i);
        td_trainer_set(&c->trainer, i, 1, &value);
    }
}

static uint32_t weights_crc(const td_commands *c)
{
    uint8_t bytes[WEIGHTS_STEP * 4];
    uint32_t crc = 0, total = weights_size(c), size;
    for (uint32_t at = 0; at < total; at += size) {
        size = total - at < sizeof bytes ? total - at : (uint32_t)sizeof bytes;
        weights_bytes(c, at, size, bytes);
        crc = td_crc32(crc, bytes, size);
    }
    return crc;
}

/* Into the slot that does not hold the newest weights: a power cut leaves those. */
static int save_weights(td_commands *c)
{
    uint32_t sequence = c->training.sequence, resume_at, total = weights_size(c), size;
    uint8_t bytes[WEIGHTS_STEP * 4];
    int slot = td_store_spare_slot(&c->store);
    c->failed_object = (uint8_t)slot;
    int status = td_store_erase(&c->store, slot);
    if (status == TD_OK) status = td_store_begin(&c->store, slot, total, weights_crc(c), sequence + 1, &resume_at);
    for (uint32_t at = 0; at < total && status == TD_OK; at += size) {
        size = total - at < sizeof bytes ? total - at : (uint32_t)sizeof bytes;
        weights_bytes(c, at, size, bytes);
        status = td_store_write(&c->store, at, bytes, size);
    }
    if (status == TD_OK) status = td_store_commit(&c->store);
    if (status == TD_OK) c->training.sequence = sequence + 1;
    return status;
}

/* -------------------------------------------------------------------- model */
static uint32_t aligned(uint32_t size)
{
    return (size + 15u) & ~(uint32_t)15u;
}

static void forget_model(td_commands *c)
{
    c->has_model = false;
    c->has_embedding = false;
    c->n_input = 0;
    c->training.state = TD_TRAIN_IDLE;
}

/* The arena holds, in this order: tensors, trainer, one embedding as f32, one row as int32; for a model without
 * a tail only the tensors. */
static int carve(td_commands *c, const td_train_config *config)
{
    const td_memory *memory = &c->board.memory;
    uint32_t floats = c->model.n_tail ? 4u * c->model.embedding_size : 0u;
    uint32_t parts[4] = {c->model.arena_size, td_trainer_size(&c->model, config, NULL), floats, floats}, left = memory->arena_size;
    for (int i = 0; i < 4; i++) {
        if (parts[i] > left || aligned(parts[i]) > left) return TD_E_MEMORY;
        left -= aligned(parts[i]);
    }
    uint8_t *trainer = memory->arena + aligned(parts[0]);
    int status = TD_OK; /* settings that are refused leave the trainer before, and where things are */
    if (c->model.n_tail == 0) memset(&c->trainer, 0, sizeof c->trainer);
    else status = td_trainer_init(&c->trainer, &c->model, config, trainer, parts[1]);
    if (status != TD_OK) return status;
    c->trainer_size = parts[1];
    c->tensors = memory->arena;
    c->x = (float *)(void *)(trainer + aligned(parts[1]));
    c->row = (int32_t *)(void *)((uint8_t *)c->x + aligned(parts[2]));
    return TD_OK;
}

static int load_model(td_commands *c)
{
    static const td_train_config defaults = {0};
    td_section object;
    uint32_t sequence;
    forget_model(c);
    int status = td_store_get(&c->store, TD_OBJECT_MODEL, &object, &sequence);
    if (status == TD_OK) status = td_model_open(&c->model, object.data, object.size);
    if (status == TD_OK) status = carve(c, &defaults);
    if (status == TD_OK) status = td_model_reset(&c->model, c->tensors, aligned(c->model.arena_size));
    if (status != TD_OK) return status;
    c->has_model = true;
    load_weights(c);
    return TD_OK;
}

static int open_pack(td_commands *c, int object, td_pack *pack)
{
    td_section found;
    uint32_t sequence;
    c->failed_object = (uint8_t)object;
    int status = td_store_get(&c->store, object, &found, &sequence);
    return status == TD_OK ? td_pack_open(pack, found.data, found.size) : status;
}

int td_commands_init(td_commands *c, const td_board *board, const td_flash *flash)
{
    memset(c, 0, sizeof *c);
    c->board = *board;
    int status = td_store_init(&c->store, flash, board->capacity);
    if (status != TD_OK) return status;
    /* No model yet, or one that this firmware refuses: hello and push must work all the same. */
    if (load_model(c) != TD_OK) forget_model(c);
    return TD_OK;
}

/* ----------------------------------------------------------------- training */
static int train_sample(td_commands *c)
{
    td_training *t = &c->training;
    uint32_t label;
    float weight, loss;
    int status = t->state == TD_TRAIN_CHECK
                     ? td_sampler_held(&t->sampler, t->done, c->row, c->x, &label, &weight)
                     : td_sampler_get(&t->sampler, t->epoch, t->done, c->row, c->x, &label, &weight);
    if (status != TD_OK) return status;
    int predicted = t->state == TD_TRAIN_EPOCH ? td_trainer_step(&c->trainer, c->x, label, weight, &loss)
                                               : td_trainer_predict(&c->trainer, c->x, label, &loss);
    if (predicted < 0) return predicted;
    t->n_correct += (uint32_t)predicted == label;
    t->loss_sum += loss;
    return TD_OK;
}

static void fail_training(td_commands *c, int status)
{
    c->training.state = TD_TRAIN_FAILED;
    c->training.error = (int8_t)status;
}

static void end_of_pass(td_commands *c)
{
    td_training *t = &c->training;
    if (t->state == TD_TRAIN_EPOCH) td_trainer_flush(&c->trainer);
    if (!td_trainer_is_finite(&c->trainer)) { /* a step was too large for f32: such weights must not be saved */
        fail_training(c, TD_E_RANGE);
        return;
    }
    if (t->state != TD_TRAIN_RANGE) {
        t->state = TD_TRAIN_READY;
        return;
    }
    c->logit_min = c->trainer.logit_min;
    c->logit_max = c->trainer.logit_max;
    int status = save_weights(c);
    if (status == TD_OK) {
        t->state = TD_TRAIN_SAVED;
    } else {
        fail_training(c, status);
    }
}

bool td_commands_work(td_commands *c)
{
    td_training *t = &c->training;
    if (t->state != TD_TRAIN_EPOCH && t->state != TD_TRAIN_RANGE && t->state != TD_TRAIN_CHECK) return false;
    if (t->done == t->total) {
        end_of_pass(c);
        return true;
    }
    uint64_t start = c->board.ticks();
    int status = train_sample(c);
    t->ticks += c->board.ticks() - start;
    if (status != TD_OK) {
        fail_training(c, status);
        return true;
    }
    t->done++;
    return true;
}

static void start_pass(td_training *t, uint8_t state, uint32_t epoch)
{
    t->state = state;
    t->epoch = epoch;
    t->done = 0;
    t->total = state == TD_TRAIN_CHECK ? t->sampler.n_held : td_sampler_size(&t->sampler);
    t->n_correct = 0;
    t->loss_sum = 0.0f;
    t->ticks = 0;
}

/* ----------------------------------------------------------------- requests
 * A handler reads its arguments, acts, and appends its results. Arguments that do not parse are
 * TD_E_FORMAT; a result that does not fit makes td_commands_answer say TD_E_FULL. */
typedef int (*request_handler)(td_commands *c, zcbor_state_t *in, zcbor_state_t *out);

static int no_arguments(zcbor_state_t *in)
{
    return zcbor_list_end_decode(in) ? TD_OK : TD_E_FORMAT;
}

static bool read_object(td_commands *c, zcbor_state_t *in, uint32_t *object)
{
    if (!zcbor_uint32_decode(in, object)) return false;
    if (*object < TD_N_OBJECTS) c->failed_object = (uint8_t)*object;
    return true;
}

static int hello(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    const td_board *board = &c->board;
    const td_memory *memory = &board->memory;
    if (no_arguments(in) != TD_OK) return TD_E_FORMAT;
    /* The first three stay where they are in every version: they tell what else to expect. */
    zcbor_uint32_put(out, TD_COMMAND_VERSION);
    zcbor_tstr_put_term(out, board->id, 64);
    zcbor_uint32_put(out, TD_VERSION);
    zcbor_tstr_put_term(out, board->build, 64);
    zcbor_uint32_put(out, TD_FILE_FORMAT);
    zcbor_uint32_put(out, TD_STORE_FORMAT);
    zcbor_uint32_put(out, TD_CHUNK);
    zcbor_uint32_put(out, memory->ram_total);
    zcbor_uint32_put(out, memory->ram_static);
    zcbor_uint32_put(out, memory->stack_reserve);
    zcbor_uint32_put(out, memory->arena_size);
    zcbor_uint32_put(out, memory->flash_used);
    zcbor_uint32_put(out, c->store.flash.size);
    zcbor_list_start_encode(out, TD_N_OBJECTS);
    for (int i = 0; i < TD_N_OBJECTS; i++) zcbor_uint32_put(out, board->capacity[i]);
    zcbor_list_end_encode(out, TD_N_OBJECTS);
    return TD_OK;
}

static int begin(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    uint32_t object, size, crc, sequence, resume_at;
    if (!read_object(c, in, &object) || !zcbor_uint32_decode(in, &size) || !zcbor_uint32_decode(in, &crc) ||
        !zcbor_uint32_decode(in, &sequence) || no_arguments(in) != TD_OK) {
        return TD_E_FORMAT;
    }
    if (object >= TD_N_OBJECTS) return TD_E_RANGE;
    if (object == TD_OBJECT_MODEL) forget_model(c);
    c->training.state = TD_TRAIN_IDLE;
    int status = td_store_begin(&c->store, (int)object, size, crc, sequence, &resume_at);
    if (status != TD_OK) return status;
    zcbor_uint32_put(out, resume_at);
    return TD_OK;
}

static int data(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    uint32_t offset;
    struct zcbor_string bytes;
    if (!zcbor_uint32_decode(in, &offset) || !zcbor_bstr_decode(in, &bytes) || no_arguments(in) != TD_OK) {
        return TD_E_FORMAT;
    }
    if (c->store.writing >= 0) c->failed_object = (uint8_t)c->store.writing;
    int status = td_store_write(&c->store, offset, bytes.value, (uint32_t)bytes.len);
    if (status != TD_OK) return status;
    zcbor_uint32_put(out, c->store.written);
    return TD_OK;
}

/* What is whole must also be what it claims: otherwise it goes again. */
static int open_object(td_commands *c, int object)
{
    td_section record;
    uint32_t sequence;
    td_pack pack;
    if (object == TD_OBJECT_MODEL) return load_model(c);
    if (object == TD_OBJECT_TRAIN || object == TD_OBJECT_REPLAY) return open_pack(c, object, &pack);
    int status = td_store_get(&c->store, object, &record, &sequence);
    if (status == TD_OK) status = check_weights(c, &record);
    if (status == TD_OK) load_weights(c);
    return status;
}

static int commit(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    (void)out;
    if (no_arguments(in) != TD_OK) return TD_E_FORMAT;
    int object = (int)c->store.writing;
    if (object < 0) return TD_E_STATE;
    c->failed_object = (uint8_t)object;
    int status = td_store_commit(&c->store);
    if (status != TD_OK) return status;
    status = open_object(c, object);
    if (status == TD_OK) return TD_OK;
    if (object == TD_OBJECT_MODEL) forget_model(c);
    int erased = td_store_erase(&c->store, object);
    return erased == TD_OK ? status : erased;
}

static int info(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    uint32_t object, sequence;
    td_section found;
    if (!read_object(c, in, &object) || no_arguments(in) != TD_OK) return TD_E_FORMAT;
    if (object >= TD_N_OBJECTS) return TD_E_RANGE;
    int status = td_store_get(&c->store, (int)object, &found, &sequence);
    if (status != TD_OK) return status;
    zcbor_uint32_put(out, found.size);
    zcbor_uint32_put(out, td_crc32(0, found.data, found.size));
    zcbor_uint32_put(out, sequence);
    return TD_OK;
}

static int find_source(const td_commands *c, uint32_t source, td_section *found)
{
    uint32_t sequence;
    if (source < TD_N_OBJECTS) return td_store_get(&c->store, (int)source, found, &sequence);
    if (source != TD_SOURCE_WEIGHTS && source != TD_SOURCE_EMBEDDING) return TD_E_RANGE;
    if (!c->has_model || (source == TD_SOURCE_EMBEDDING && !c->has_embedding)) return TD_E_STATE;
    found->data = source == TD_SOURCE_WEIGHTS ? NULL : c->tensors + c->model.embedding_offset;
    found->size = source == TD_SOURCE_WEIGHTS ? weights_size(c) : c->model.embedding_bytes;
    return TD_OK;
}

static int read(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    uint32_t source, offset, size;
    td_section found;
    uint8_t bytes[TD_CHUNK];
    if (!read_object(c, in, &source) || !zcbor_uint32_decode(in, &offset) || !zcbor_uint32_decode(in, &size) ||
        no_arguments(in) != TD_OK) {
        return TD_E_FORMAT;
    }
    int status = find_source(c, source, &found);
    if (status != TD_OK) return status;
    if (offset > found.size || size > TD_CHUNK) return TD_E_RANGE;
    if (size > found.size - offset) size = found.size - offset;
    if (!found.data) {
        if ((offset | size) % 4u != 0) return TD_E_ARGUMENT;
        weights_bytes(c, offset, size, bytes);
        found.data = bytes;
        offset = 0;
    }
    zcbor_bstr_encode_ptr(out, (const char *)found.data + offset, size);
    zcbor_uint32_put(out, found.size);
    return TD_OK;
}

/* The index of the largest of n values, the lowest one on a tie. */
static uint32_t largest(const void *values, uint8_t type, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        bool larger = type == TD_INT8 ? ((const int8_t *)values)[i] > ((const int8_t *)values)[best]
            : type == TD_INT16        ? ((const int16_t *)values)[i] > ((const int16_t *)values)[best]
                                      : ((const float *)values)[i] > ((const float *)values)[best];
        if (larger) best = i;
    }
    return best;
}

/* The class of an embedding: by the tail with the weights as they are now, or by the model's output itself. */
static int classify(td_commands *c, const void *values)
{
    const td_model *model = &c->model;
    const int8_t *embedding = values;
    if (model->n_tail == 0) return (int)largest(values, model->embedding_type, model->embedding_size);
    if (model->embedding_type == TD_FLOAT32) return td_trainer_predict(&c->trainer, values, 0, NULL);
    for (uint32_t i = 0; i < model->embedding_size; i++) {
        c->x[i] = model->embedding_scale * (float)(embedding[i] - model->embedding_zero_point);
    }
    return td_trainer_predict(&c->trainer, c->x, 0, NULL);
}

/* Frozen part, then the tail. Returns the class. */
static int infer(td_commands *c)
{
    const td_model *model = &c->model;
    uint64_t start = c->board.ticks();
    int status = td_model_run(model, c->tensors, aligned(model->arena_size));
    if (status != TD_OK) return status;
    int predicted = classify(c, c->tensors + model->embedding_offset);
    c->infer_ticks = c->board.ticks() - start;
    c->has_embedding = true;
    return predicted;
}

static int input(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    uint32_t offset;
    struct zcbor_string bytes;
    if (!zcbor_uint32_decode(in, &offset) || !zcbor_bstr_decode(in, &bytes) || no_arguments(in) != TD_OK) {
        return TD_E_FORMAT;
    }
    c->failed_object = TD_OBJECT_MODEL;
    if (!c->has_model) return TD_E_STATE;
    if (offset == 0) c->n_input = 0;
    if (offset != c->n_input) return TD_E_STATE;
    if (bytes.len > c->model.input_bytes - offset) return TD_E_RANGE;
    c->has_embedding = false;
    memcpy(c->tensors + c->model.input_offset + offset, bytes.value, bytes.len);
    c->n_input += (uint32_t)bytes.len;
    zcbor_uint32_put(out, c->n_input);
    if (c->n_input < c->model.input_bytes) return TD_OK;
    c->n_input = 0;
    int predicted = infer(c);
    if (predicted < 0) return predicted;
    zcbor_uint32_put(out, (uint32_t)predicted);
    zcbor_uint64_put(out, c->infer_ticks);
    return TD_OK;
}

/* Embeddings of another model would train without a complaint, and wrongly. */
static int check_pack(const td_commands *c, const td_pack *pack)
{
    const td_model *model = &c->model;
    if (pack->n_features != model->embedding_size || pack->n_classes > td_model_outputs(model)) {
        return TD_E_RANGE;
    }
    return pack->model_hash == 0 || pack->model_hash == model->embedding_hash ? TD_OK : TD_E_STATE;
}

static int open_packs(td_commands *c, const td_sampler_config *config)
{
    td_training *t = &c->training;
    td_pack *replay = config->replay > 0.0f ? &t->replay : NULL;
    int status = open_pack(c, TD_OBJECT_TRAIN, &t->train);
    if (status == TD_OK) status = check_pack(c, &t->train);
    if (status == TD_OK && replay) status = open_pack(c, TD_OBJECT_REPLAY, replay);
    if (status == TD_OK && replay) status = check_pack(c, replay);
    return status == TD_OK ? td_sampler_init(&t->sampler, &t->train, replay, config) : status;
}

static bool read_floats(zcbor_state_t *in, float *const *values, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!zcbor_float16_32_decode(in, values[i])) return false;
    }
    return true;
}

/* Numbers of an enum, which the trainer checks. */
static bool read_bytes(zcbor_state_t *in, uint8_t *const *values, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t value;
        if (!zcbor_uint32_decode(in, &value) || value > 255u) return false;
        *values[i] = (uint8_t)value;
    }
    return true;
}

static int train_begin(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    td_train_config config = {0};
    td_sampler_config sampler = {0};
    float *const rates[] = {&config.learning_rate, &config.l2, &sampler.replay};
    float *const floats[] = {&config.momentum,  &config.beta_2,     &config.epsilon,
                             &config.clip_norm, &config.clip_value, &sampler.held_back};
    uint8_t *const bytes[] = {&config.loss, &config.optimizer, &config.precision, &config.keep_best};
    bool fresh;
    if (!read_floats(in, rates, 3) || !zcbor_uint32_decode(in, &sampler.seed) ||
        !zcbor_uint32_decode(in, &sampler.mode) || !zcbor_bool_decode(in, &fresh) || !read_bytes(in, bytes, 4) ||
        !zcbor_uint32_decode(in, &config.batch) || !read_floats(in, floats, 6) || no_arguments(in) != TD_OK) {
        return TD_E_FORMAT;
    }
    c->failed_object = TD_OBJECT_MODEL;
    c->training.state = TD_TRAIN_IDLE;
    if (!c->has_model) return TD_E_STATE;
    if (c->model.n_tail == 0) return TD_E_UNSUPPORTED;
    int status = open_packs(c, &sampler);
    if (status != TD_OK) return status;
    c->failed_object = TD_OBJECT_MODEL;
    status = carve(c, &config);
    if (status != TD_OK) return status;
    if (!fresh) load_weights(c);
    c->training.state = TD_TRAIN_READY;
    c->training.error = TD_OK;
    zcbor_uint32_put(out, td_sampler_size(&c->training.sampler));
    zcbor_uint32_put(out, c->training.sampler.n_held);
    return TD_OK;
}

static int train_epoch(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    uint32_t epoch;
    float rate;
    (void)out;
    if (!zcbor_uint32_decode(in, &epoch) || !zcbor_float16_32_decode(in, &rate) || no_arguments(in) != TD_OK) {
        return TD_E_FORMAT;
    }
    if (c->training.state != TD_TRAIN_READY && c->training.state != TD_TRAIN_SAVED) return TD_E_STATE;
    if (!(rate >= 0.0f)) return TD_E_ARGUMENT;
    c->trainer.learning_rate = rate;
    start_pass(&c->training, TD_TRAIN_EPOCH, epoch);
    return TD_OK;
}

static int train_status(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    const td_training *t = &c->training;
    if (no_arguments(in) != TD_OK) return TD_E_FORMAT;
    zcbor_uint32_put(out, t->state);
    zcbor_int32_put(out, t->error);
    zcbor_uint32_put(out, t->epoch);
    zcbor_uint32_put(out, t->done);
    zcbor_uint32_put(out, t->total);
    zcbor_uint32_put(out, t->n_correct);
    zcbor_float32_put(out, t->loss_sum);
    zcbor_uint64_put(out, t->ticks);
    zcbor_uint32_put(out, t->sequence);
    return TD_OK;
}

static int train_finish(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    (void)out;
    if (no_arguments(in) != TD_OK) return TD_E_FORMAT;
    if (c->training.state != TD_TRAIN_READY) return TD_E_STATE;
    td_trainer_reset_range(&c->trainer);
    start_pass(&c->training, TD_TRAIN_RANGE, c->training.epoch);
    return TD_OK;
}

static int train_check(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    (void)out;
    if (no_arguments(in) != TD_OK) return TD_E_FORMAT;
    if (c->training.state != TD_TRAIN_READY || c->training.sampler.n_held == 0) return TD_E_STATE;
    start_pass(&c->training, TD_TRAIN_CHECK, c->training.epoch);
    return TD_OK;
}

static int train_keep(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    bool restore;
    (void)out;
    if (!zcbor_bool_decode(in, &restore) || no_arguments(in) != TD_OK) return TD_E_FORMAT;
    if (c->training.state != TD_TRAIN_READY) return TD_E_STATE;
    return restore ? td_trainer_restore(&c->trainer) : td_trainer_keep(&c->trainer);
}

static int reset_weights(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    (void)out;
    if (no_arguments(in) != TD_OK) return TD_E_FORMAT;
    int status = TD_OK;
    for (int slot = TD_OBJECT_SLOT_A; slot <= TD_OBJECT_SLOT_B && status == TD_OK; slot++) {
        c->failed_object = (uint8_t)slot;
        status = td_store_erase(&c->store, slot);
    }
    if (status != TD_OK || !c->has_model) return status;
    c->failed_object = TD_OBJECT_MODEL;
    return load_model(c);
}

/* A model with state starts again without a past. */
static int forget(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    (void)out;
    if (no_arguments(in) != TD_OK) return TD_E_FORMAT;
    c->failed_object = TD_OBJECT_MODEL;
    if (!c->has_model) return TD_E_STATE;
    return td_model_reset(&c->model, c->tensors, aligned(c->model.arena_size));
}

static int stats(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    const td_memory *memory = &c->board.memory;
    uint32_t row = c->has_model && c->model.n_tail ? 8u * c->model.embedding_size : 0u;
    if (no_arguments(in) != TD_OK) return TD_E_FORMAT;
    zcbor_uint32_put(out, memory->ram_total);
    zcbor_uint32_put(out, memory->ram_static);
    zcbor_uint32_put(out, memory->stack_reserve);
    zcbor_uint32_put(out, c->board.stack_used());
    zcbor_uint32_put(out, memory->arena_size);
    zcbor_uint32_put(out, c->has_model ? c->model.arena_size : 0u);
    zcbor_uint32_put(out, c->has_model ? c->trainer_size : 0u);
    zcbor_uint32_put(out, row);
    zcbor_uint32_put(out, memory->flash_used);
    zcbor_uint64_put(out, c->infer_ticks);
    zcbor_uint32_put(out, c->board.fault);
    return TD_OK;
}

static int reset(td_commands *c, zcbor_state_t *in, zcbor_state_t *out)
{
    (void)out;
    if (no_arguments(in) != TD_OK) return TD_E_FORMAT;
    c->reset_wanted = true;
    return TD_OK;
}

static const request_handler handlers[TD_N_COMMANDS] = {
    [TD_CMD_HELLO] = hello,
    [TD_CMD_BEGIN] = begin,
    [TD_CMD_DATA] = data,
    [TD_CMD_COMMIT] = commit,
    [TD_CMD_INFO] = info,
    [TD_CMD_READ] = read,
    [TD_CMD_INPUT] = input,
    [TD_CMD_TRAIN_BEGIN] = train_begin,
    [TD_CMD_TRAIN_EPOCH] = train_epoch,
    [TD_CMD_TRAIN_STATUS] = train_status,
    [TD_CMD_TRAIN_FINISH] = train_finish,
    [TD_CMD_RESET_WEIGHTS] = reset_weights,
    [TD_CMD_STATS] = stats,
    [TD_CMD_RESET] = reset,
    [TD_CMD_TRAIN_CHECK] = train_check,
    [TD_CMD_TRAIN_KEEP] = train_keep,
    [TD_CMD_FORGET] = forget,
};

static int run_command(td_commands *c, const uint8_t *request, uint32_t size, zcbor_state_t *out)
{
    uint32_t command;
    ZCBOR_STATE_D(in, 1, request, size, 1, 0);
    if (!zcbor_list_start_decode(in) || !zcbor_uint32_decode(in, &command)) return TD_E_FORMAT;
    if (command >= TD_N_COMMANDS) return TD_E_UNSUPPORTED;
    return handlers[command](c, in, out);
}

static uint32_t error_reply(const td_commands *c, int status, uint8_t *reply, uint32_t capacity)
{
    ZCBOR_STATE_E(out, 0, reply, capacity, 1);
    zcbor_list_start_encode(out, 2);
    zcbor_int32_put(out, status);
    if (c->failed_object == NO_OBJECT) {
        zcbor_nil_put(out, NULL);
    } else {
        zcbor_uint32_put(out, c->failed_object);
    }
    zcbor_list_end_encode(out, 2);
    return (uint32_t)(out->payload - reply);
}

uint32_t td_commands_answer(td_commands *c, const uint8_t *request, uint32_t size, uint8_t *reply, uint32_t capacity)
{
    ZCBOR_STATE_E(out, 0, reply, capacity, 1);
    c->failed_object = NO_OBJECT;
    zcbor_list_start_encode(out, 32);
    zcbor_int32_put(out, TD_OK);
    int status = run_command(c, request, size, out);
    if (status == TD_OK && !zcbor_list_end_encode(out, 32)) status = TD_E_FULL;
    if (status == TD_OK && zcbor_peek_error(out) != ZCBOR_SUCCESS) status = TD_E_FULL;
    return status == TD_OK ? (uint32_t)(out->payload - reply) : error_reply(c, status, reply, capacity);
}
