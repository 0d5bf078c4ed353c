/* The trainable tail as layers: forwards, and backwards through each into its inputs and its parameters. Every order
 * is that of the records, so that host and board compute the same bits. */
#include "layers.h"
#include "td_internal.h"

enum { LAYER_F32 = 1 };

static const uint8_t *record_at(const td_model *model, uint32_t index)
{
    return model->layers + TD_LAYER_RECORD * index;
}

static td_map shape_at(const uint8_t *record)
{
    td_map map;
    map.data = NULL;
    map.h = (int32_t)td_get16(record);
    map.w = (int32_t)td_get16(record + 2);
    map.c = (int32_t)td_get16(record + 4);
    return map;
}

static uint32_t volume(const td_map *map)
{
    uint32_t area = (uint32_t)map->h * (uint32_t)map->w;
    return area > UINT32_MAX / (uint32_t)map->c ? UINT32_MAX : area * (uint32_t)map->c;
}

static bool has_filters(uint32_t kind)
{
    return kind == TD_OP_CONV || kind == TD_OP_DENSE || kind == TD_OP_DEPTHWISE;
}

/* All but the pointers, which may be formed only after the offsets are checked. */
static void read_geometry(const uint8_t *record, td_layer *layer)
{
    td_op_f32 *op = &layer->op;
    memset(layer, 0, sizeof *layer);
    op->kind = record[0];
    op->activation = record[1];
    layer->input = record[2];
    layer->input_b = record[3];
    layer->in = shape_at(record + 4);
    layer->out = shape_at(record + 10);
    op->y.taps = (int32_t)td_get16(record + 16);
    op->x.taps = (int32_t)td_get16(record + 18);
    op->y.stride = record[20];
    op->x.stride = record[21];
    op->y.dilation = record[22];
    op->x.dilation = record[23];
    op->y.pad = (int32_t)td_get16(record + 24);
    op->x.pad = (int32_t)td_get16(record + 26);
    layer->output_at = td_get32(record + 36);
    layer->gradient_at = td_get32(record + 40);
    if (!has_filters(op->kind)) op->parameter = td_get_f32(record + 44);
}

static void read_filters(const td_model *model, const uint8_t *record, td_layer *layer)
{
    const uint8_t *data = model->data.data;
    td_op_f32 *op = &layer->op;
    td_filters *filters = &op->filters;
    if (!has_filters(op->kind)) return;
    filters->size = op->y.taps * op->x.taps * (op->kind == TD_OP_DEPTHWISE ? 1 : layer->in.c);
    filters->first = (int32_t)td_get16(record + 28);
    filters->first_bias = (int32_t)td_get16(record + 30);
    filters->bias = data + td_get32(record + 52);
    if (record[32] == LAYER_F32) {
        filters->stored = (const float *)(const void *)(data + td_get32(record + 44));
    } else {
        filters->small = (const int8_t *)data + td_get32(record + 44);
        filters->scales = data + td_get32(record + 48);
    }
    layer->n_weights = (uint32_t)(layer->out.c - filters->first) * (uint32_t)filters->size;
    layer->n_biases = (uint32_t)(layer->out.c - filters->first_bias);
}

td_layer td_layer_read(const td_model *model, uint32_t index)
{
    td_layer layer;
    read_geometry(record_at(model, index), &layer);
    read_filters(model, record_at(model, index), &layer);
    return layer;
}

uint32_t td_layers_parameters(const td_model *model)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < model->n_tail; l++) {
        td_layer layer = td_layer_read(model, l);
        n += layer.n_weights + layer.n_biases;
    }
    return n;
}

uint32_t td_layers_outputs(const td_model *model)
{
    td_map map = shape_at(record_at(model, model->n_tail - 1) + 10);
    return volume(&map);
}

uint32_t td_layers_arena(const td_model *model)
{
    return td_get32(model->layers - 4);
}

/* Value i of the filter of a channel, as it was before training. */
static float stored_weight(const td_filters *filters, int32_t channel, uint32_t i)
{
    size_t at = (size_t)channel * (size_t)filters->size + (size_t)i;
    return filters->stored ? filters->stored[at]
                           : td_get_f32(filters->scales + 4 * channel) * (float)filters->small[at];
}

void td_layers_load(const td_model *model, float *parameters)
{
    for (uint32_t l = 0; l < model->n_tail; l++) {
        td_layer layer = td_layer_read(model, l);
        const td_filters *filters = &layer.op.filters;
        if (!has_filters(layer.op.kind)) continue;
        for (int32_t c = filters->first; c < layer.out.c; c++) {
            for (uint32_t i = 0; i < (uint32_t)filters->size; i++) *parameters++ = stored_weight(filters, c, i);
        }
        for (int32_t c = filters->first_bias; c < layer.out.c; c++) *parameters++ = td_get_f32(filters->bias + 4 * c);
    }
}

/* to += factor * (weights - weights before training) */
static void pull_layer(const td_layer *layer, const float *w, float *to, float factor)
{
    const td_filters *filters = &layer->op.filters;
    for (int32_t c = filters->first; c < layer->out.c; c++) {
        for (uint32_t i = 0; i < (uint32_t)filters->size; i++, w++) {
            *to++ += factor * (*w - stored_weight(filters, c, i));
        }
    }
}

void td_layers_pull(const td_model *model, const float *parameters, float *into, float factor)
{
    for (uint32_t l = 0; l < model->n_tail; l++) {
        td_layer layer = td_layer_read(model, l);
        if (layer.n_weights) pull_layer(&layer, parameters, into, factor);
        parameters += layer.n_weights + layer.n_biases;
        into += layer.n_weights + layer.n_biases;
    }
}

static float *at_offset(uint8_t *arena, uint32_t offset)
{
    return (float *)(void *)(arena + offset);
}

/* What layer number `number` - 1 left, or the embedding. The kernels do not write to their inputs. */
static float *values_of(const td_model *model, uint8_t *arena, const float *x, uint32_t number)
{
    if (number == TD_LAYER_EMBEDDING) return (float *)(uintptr_t)x;
    return at_offset(arena, td_get32(record_at(model, number - 1) + 36));
}

/* The layer with its filters and activations in RAM; *b: its second input. */
static td_layer bind(const td_model *model, uint32_t index, const float *parameters, uint8_t *arena, const float *x,
                     td_map *b)
{
    td_layer layer = td_layer_read(model, index);
    layer.op.filters.trained = parameters;
    layer.op.filters.trained_bias = parameters + layer.n_weights;
    layer.in.data = values_of(model, arena, x, layer.input);
    layer.out.data = at_offset(arena, layer.output_at);
    *b = layer.out;
    b->data = layer.op.kind == TD_OP_ADD ? values_of(model, arena, x, layer.input_b) : NULL;
    return layer;
}

float *td_layers_forward(const td_model *model, const float *parameters, uint8_t *arena, const float *x)
{
    td_layer layer;
    memset(&layer, 0, sizeof layer);
    for (uint32_t l = 0; l < model->n_tail; l++) {
        td_map b;
        layer = bind(model, l, parameters, arena, x, &b);
        td_forward_f32(&layer.op, &layer.in, &b, &layer.out);
        parameters += layer.n_weights + layer.n_biases;
    }
    return layer.out.data;
}

float *td_layers_delta(const td_model *model, uint8_t *arena)
{
    return at_offset(arena, td_get32(record_at(model, model->n_tail - 1) + 40));
}

/* The layers run backwards: whether none before this one has written to the gradient of layer number `number` - 1. */
static bool is_last_reader(const td_model *model, uint32_t index, uint32_t number)
{
    while (++index < model->n_tail) {
        const uint8_t *record = record_at(model, index);
        if (record[2] == number || (record[0] == TD_OP_ADD && record[3] == number)) return false;
    }
    return true;
}

static void to_input(const td_model *model, uint8_t *arena, const td_layer *layer, const td_map *gradient,
                     uint32_t number, bool fresh)
{
    if (number == TD_LAYER_EMBEDDING) return;
    td_map down = layer->in;
    uint32_t offset = td_get32(record_at(model, number - 1) + 40);
    if (offset == TD_NO_GRADIENT) return;
    down.data = at_offset(arena, offset);
    if (fresh) memset(down.data, 0, (size_t)volume(&down) * sizeof(float));
    td_down_f32(&layer->op, &layer->in, &layer->out, gradient, &down);
}

void td_layers_backward(const td_model *model, const float *parameters, uint8_t *arena, const float *x, float *into,
                        float factor, float decay)
{
    uint32_t at = td_layers_parameters(model);
    for (uint32_t l = model->n_tail; l-- > 0;) {
        td_layer layer = td_layer_read(model, l);
        td_map b, gradient = layer.out;
        at -= layer.n_weights + layer.n_biases;
        if (layer.gradient_at == TD_NO_GRADIENT) continue;
        layer = bind(model, l, parameters + at, arena, x, &b);
        gradient.data = at_offset(arena, layer.gradient_at);
        td_mask_f32(&layer.op, &layer.out, &gradient);
        to_input(model, arena, &layer, &gradient, layer.input, is_last_reader(model, l, layer.input));
        if (layer.op.kind == TD_OP_ADD) {
            bool fresh = layer.input_b != layer.input && is_last_reader(model, l, layer.input_b);
            to_input(model, arena, &layer, &gradient, layer.input_b, fresh);
        }
        if (layer.n_weights + layer.n_biases == 0) continue;
        if (decay != 0.0f) pull_layer(&layer, parameters + at, into + at, -decay);
        td_gradient_f32(&layer.op, &layer.in, &gradient, factor, into + at, into + at + layer.n_weights);
    }
}

/* ------------------------------------------------------------------- checks */

static bool same_shape(const td_map *a, const td_map *b)
{
    return a->h == b->h && a->w == b->w && a->c == b->c;
}

static bool in_data(const td_model *model, uint32_t offset, uint32_t values, uint32_t size)
{
    return values <= UINT32_MAX / size && offset <= model->data.size && values * size <= model->data.size - offset;
}

/* Positions stay inside int32, as those of the frozen part's windows do. */
static bool good_axis(const td_axis *axis)
{
    return axis->taps > 0 && axis->stride > 0 && axis->dilation > 0;
}

static bool little_endian(void)
{
    const uint16_t one = 1;
    return *(const uint8_t *)&one == 1;
}

static int check_filters(const td_model *model, const uint8_t *record, const td_layer *layer)
{
    uint32_t taps = td_get16(record + 16) * td_get16(record + 18), channels = (uint32_t)layer->out.c;
    uint32_t depth = layer->op.kind == TD_OP_DEPTHWISE ? 1u : (uint32_t)layer->in.c;
    uint32_t weights = td_get32(record + 44), scales = td_get32(record + 48), bias = td_get32(record + 52);
    if (layer->op.kind == TD_OP_DEPTHWISE && layer->out.c % layer->in.c != 0) return TD_E_FORMAT;
    if (taps > TD_MAX_ARENA / depth || taps * depth > TD_MAX_ARENA / channels) return TD_E_FORMAT;
    if (td_get16(record + 28) > channels || td_get16(record + 30) > channels) return TD_E_FORMAT;
    if (!in_data(model, bias, channels, 4)) return TD_E_FORMAT;
    if (record[32] == LAYER_F32) {
        if (scales != 0 || weights % 4u != 0 || !in_data(model, weights, taps * depth * channels, 4)) return TD_E_FORMAT;
        if (!little_endian()) return TD_E_UNSUPPORTED; /* filters are read in place */
        return (uintptr_t)model->data.data % 4u == 0 ? TD_OK : TD_E_ARGUMENT;
    }
    bool good = in_data(model, weights, taps * depth * channels, 1) && in_data(model, scales, channels, 4);
    return good ? TD_OK : TD_E_FORMAT;
}

static int check_kind(const td_model *model, const uint8_t *record, const td_layer *layer)
{
    const td_op_f32 *op = &layer->op;
    const td_map *in = &layer->in, *out = &layer->out;
    bool windows = good_axis(&op->y) && good_axis(&op->x), good = false;
    if (has_filters(op->kind)) return windows ? check_filters(model, record, layer) : TD_E_FORMAT;
    for (uint32_t i = 28; i < 34; i++) {
        if (record[i] != 0) return TD_E_FORMAT; /* nothing to train */
    }
    if (td_get32(record + 48) != 0 || td_get32(record + 52) != 0) return TD_E_FORMAT;
    switch (op->kind) {
    case TD_OP_AVERAGE_POOL:
    case TD_OP_MAX_POOL: good = windows && in->c == out->c && op->y.dilation == 1 && op->x.dilation == 1; break;
    case TD_OP_MEAN: good = out->w == 1 && in->c == out->c && (out->h == 1 || out->h == in->h); break;
    case TD_OP_ADD:
    case TD_OP_TABLE: good = same_shape(in, out); break;
    default: return TD_E_UNSUPPORTED;
    }
    return good ? TD_OK : TD_E_FORMAT;
}

/* Layers with nothing to train have no gradient unless one in front of them does; that is the writer's business. */
static bool good_places(const td_layer *layer, uint32_t limit)
{
    uint32_t size = volume(&layer->out);
    if (size > TD_MAX_ARENA / sizeof(float)) return false;
    size *= (uint32_t)sizeof(float);
    if (layer->output_at % 4u != 0 || layer->output_at > limit || size > limit - layer->output_at) return false;
    if (layer->gradient_at == TD_NO_GRADIENT) return layer->n_weights + layer->n_biases == 0;
    return layer->gradient_at % 4u == 0 && layer->gradient_at <= limit && size <= limit - layer->gradient_at;
}

static uint32_t input_volume(const td_model *model, uint32_t number)
{
    td_map map;
    if (number == TD_LAYER_EMBEDDING) return model->embedding_size;
    map = shape_at(record_at(model, number - 1) + 10);
    return volume(&map);
}

int td_layer_check(const td_model *model, uint32_t index, uint32_t arena_size)
{
    const uint8_t *record = record_at(model, index);
    for (uint32_t i = 4; i < 16; i += 2) {
        if (td_get16(record + i) == 0) return TD_E_FORMAT;
    }
    if (record[2] > index || record[3] > index || record[32] > LAYER_F32 || record[33] != 0 || record[34] != 0 ||
        record[35] != 0) {
        return TD_E_FORMAT;
    }
    uint32_t last_act = record[0] == TD_OP_TABLE ? (uint32_t)TD_ACT_TANH : (uint32_t)TD_ACT_RELU_N1_TO_1;
    if (record[1] > last_act || (record[0] != TD_OP_ADD && record[3] != 0)) return TD_E_FORMAT;
    td_layer layer;
    read_geometry(record, &layer);
    uint32_t size = volume(&layer.in);
    if (size != input_volume(model, record[2])) return TD_E_FORMAT;
    if (record[0] == TD_OP_ADD && size != input_volume(model, record[3])) return TD_E_FORMAT;
    int status = check_kind(model, record, &layer);
    if (status != TD_OK) return status;
    read_filters(model, record, &layer);
    if (!good_places(&layer, arena_size)) return TD_E_FORMAT;
    bool is_last = index + 1 == model->n_tail;
    return is_last && layer.gradient_at == TD_NO_GRADIENT ? TD_E_FORMAT : TD_OK;
}

bool td_layer_is_dense(const td_model *model, uint32_t index)
{
    const uint8_t *record = record_at(model, index);
    return record[0] == TD_OP_DENSE && record[2] == index && record[1] <= TD_ACT_RELU && record[32] == 0
        && td_get16(record + 4) == 1 && td_get16(record + 6) == 1 && td_get16(record + 10) == 1
        && td_get16(record + 12) == 1 && td_get16(record + 16) == 1 && td_get16(record + 18) == 1
        && td_get16(record + 24) == 0 && td_get16(record + 26) == 0 && td_get32(record + 28) == 0;
}
