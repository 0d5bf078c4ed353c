/* Opens a compiled model and runs its frozen part (docs/SPEC.md, ".tdm").
 *
 * Everything that a record can get wrong is refused in td_model_open, so that a run needs no checks:
 * a run touches only tensors that lie in the arena and data that lies in the file. */
#include "layers.h"
#include "td_internal.h"

enum { SECTION_META = 1, SECTION_TENSORS = 2, SECTION_OPS = 3, SECTION_TAIL = 4, SECTION_DATA = 5 };
enum { META_SIZE = 36, TENSOR_SIZE = 12, OP_SIZE = 28, TAIL_HEADER = 4 };
enum { FLAG_SOFTMAX = 1 };
enum { TENSOR_CONSTANT = 1, TENSOR_STATE = 2 };

/* a * b, or UINT32_MAX where the product does not fit: larger than any section or arena. */
static uint32_t product(uint32_t a, uint32_t b)
{
    return b != 0 && a > UINT32_MAX / b ? UINT32_MAX : a * b;
}

static const uint8_t *op_record(const td_model *model, uint32_t index)
{
    return model->ops + OP_SIZE * index;
}

static const uint8_t *tensor_record(const td_model *model, uint32_t index)
{
    return model->tensors + TENSOR_SIZE * index;
}

static uint32_t tensor_size(const uint8_t *record)
{
    return product(product(td_get16(record + 4), td_get16(record + 6)), td_get16(record + 8));
}

static uint32_t tensor_type(const uint8_t *record)
{
    return record[11];
}

static uint32_t tensor_bytes(const uint8_t *record)
{
    return product(tensor_size(record), td_type_size(tensor_type(record)));
}

static bool is_constant(const uint8_t *record)
{
    return record[10] == TENSOR_CONSTANT;
}

static td_tensor tensor_shape(const td_model *model, uint32_t index)
{
    const uint8_t *record = tensor_record(model, index);
    td_tensor tensor;
    tensor.data = NULL;
    tensor.h = (int32_t)td_get16(record + 4);
    tensor.w = (int32_t)td_get16(record + 6);
    tensor.c = (int32_t)td_get16(record + 8);
    tensor.type = tensor_type(record);
    return tensor;
}

static td_tensor tensor_at(const td_model *model, uint8_t *arena, uint32_t index)
{
    td_tensor tensor = tensor_shape(model, index);
    const uint8_t *record = tensor_record(model, index);
    uint8_t *base = is_constant(record) ? (uint8_t *)model->data.data : arena; /* no output is constant */
    tensor.data = (int8_t *)base + td_get32(record);
    return tensor;
}

/* All but the pointers, which may be formed only after the offsets are checked. `type`: of the output. */
static td_op read_op(const uint8_t *record, uint32_t type)
{
    td_op op;
    op.kind = record[0];
    op.y.taps = (int32_t)td_get16(record + 4);
    op.x.taps = (int32_t)td_get16(record + 6);
    op.y.stride = record[8];
    op.x.stride = record[9];
    op.y.dilation = record[10];
    op.x.dilation = record[11];
    op.y.pad = (int32_t)td_get16(record + 12);
    op.x.pad = (int32_t)td_get16(record + 14);
    op.input_zero_point = op.output_zero_point = op.min = op.max = 0;
    if (type == TD_INT8) {
        op.input_zero_point = (int8_t)record[16];
        op.output_zero_point = (int8_t)record[17];
        op.min = (int8_t)record[18];
        op.max = (int8_t)record[19];
    } else if (type == TD_INT16) {
        op.min = (int16_t)td_get16(record + 16);
        op.max = (int16_t)td_get16(record + 18);
    }
    op.weights = NULL;
    op.channels = NULL;
    return op;
}

/* ------------------------------------------------------------------- checks */

static bool in_data(const td_model *model, uint32_t offset, uint32_t size)
{
    return offset <= model->data.size && size <= model->data.size - offset;
}

/* Constants of more than a byte are read in place. */
static bool little_endian(void)
{
    const uint16_t one = 1;
    return *(const uint8_t *)&one == 1;
}

static int check_tensors(const td_model *model)
{
    for (uint32_t i = 0; i < model->n_tensors; i++) {
        const uint8_t *record = tensor_record(model, i);
        uint32_t offset = td_get32(record), size = tensor_bytes(record), step = td_type_size(tensor_type(record));
        uint32_t limit = is_constant(record) ? model->data.size : model->arena_size;
        if (size == 0 || size > TD_MAX_ARENA || record[10] > TENSOR_STATE) return TD_E_FORMAT;
        if (offset > limit || size > limit - offset || offset % step != 0) return TD_E_FORMAT;
        if (step > 1 && !little_endian()) return TD_E_UNSUPPORTED;
        if (is_constant(record) && (uintptr_t)model->data.data % step != 0) return TD_E_ARGUMENT;
    }
    return TD_OK;
}

/* n rows of bias, multiplier and shift; kernels shift by -31..30 and need multipliers >= 0. */
static bool good_channels(const td_model *model, uint32_t offset, uint32_t n)
{
    if (!in_data(model, offset, product(9, n))) return false;
    const uint8_t *channels = model->data.data + offset;
    for (uint32_t i = 0; i < n; i++) {
        if (td_get_i32(channels + 4u * (n + i)) < 0) return false;
        int32_t shift = (int8_t)channels[8u * n + i];
        if (shift < -31 || shift > 30) return false;
    }
    return true;
}

/* The same for layers of int16: n rows of a 64-bit bias, a multiplier and a shift, which leaves one bit to drop. */
static bool good_wide_channels(const td_model *model, uint32_t offset, uint32_t n, int32_t multiplier_bits)
{
    if (!in_data(model, offset, product(13, n))) return false;
    const uint8_t *channels = model->data.data + offset;
    for (uint32_t i = 0; i < n; i++) {
        int32_t shift = (int8_t)channels[12u * n + i];
        if (td_get32(channels + 8u * n + 4u * i) >> multiplier_bits != 0 || shift < -31 || shift >= multiplier_bits) return false;
    }
    return true;
}

/* Positions stay inside int32: sizes, taps and pads are 16-bit, strides and dilations 8-bit; and so does
 * a dilation times a row of a tensor, which is at most TD_MAX_ARENA. */
static bool good_axis(const td_axis *axis)
{
    return axis->taps > 0 && axis->stride > 0 && axis->dilation > 0;
}

static bool good_window(const td_model *model, const td_op *op, const uint8_t *record, const td_tensor *in,
                        const td_tensor *out)
{
    uint32_t weights = product((uint32_t)op->y.taps, (uint32_t)op->x.taps);
    if (!good_axis(&op->y) || !good_axis(&op->x)) return false;
    switch (op->kind) {
    case TD_OP_CONV:
    case TD_OP_DENSE:
        weights = product(product(weights, (uint32_t)in->c), (uint32_t)out->c);
        break;
    case TD_OP_DEPTHWISE:
        if (out->c % in->c != 0) return false;
        weights = product(weights, (uint32_t)out->c);
        break;
    default:
        return in->c == out->c && op->y.dilation == 1 && op->x.dilation == 1;
    }
    if (!in_data(model, td_get32(record + 20), weights)) return false;
    uint32_t n = (uint32_t)out->c, channels = td_get32(record + 24);
    return out->type == TD_INT16 ? good_wide_channels(model, channels, n, op->kind == TD_OP_DENSE ? 31 : 15)
                                 : good_channels(model, channels, n);
}

static bool same_shape(const td_tensor *a, const td_tensor *b)
{
    return a->h == b->h && a->w == b->w && a->c == b->c;
}

/* Over height and width, or over the width alone. */
static bool reduces_to(const td_tensor *in, const td_tensor *out)
{
    return (out->h == 1 || out->h == in->h) && out->w == 1 && out->c == in->c;
}

static bool spreads(int32_t size, int32_t to)
{
    return size == 1 || size == to;
}

static bool spreads_to(const td_tensor *tensor, const td_tensor *out)
{
    return spreads(tensor->h, out->h) && spreads(tensor->w, out->w) && spreads(tensor->c, out->c);
}

/* Every step of a box stays inside a tensor of `size` values. */
static bool inside(const uint8_t *counts, const uint8_t *path, uint32_t size)
{
    int64_t low = td_get_i32(path), high = low;
    for (uint32_t i = 0; i < 4; i++) {
        int64_t reach = ((int64_t)td_get32(counts + 4 * i) - 1) * td_get_i32(path + 4 + 4 * i);
        if (reach < 0) low += reach;
        if (reach > 0) high += reach;
    }
    return low >= 0 && high < (int64_t)size;
}

/* A copy writes at most as many values as its output has: bounds its time, and steps fit int32. */
static bool good_box(const td_model *model, uint32_t offset, uint32_t in_size, uint32_t out_size)
{
    if (!in_data(model, offset, TD_BOX_SIZE)) return false;
    const uint8_t *box = model->data.data + offset;
    uint32_t n = 1;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t count = td_get32(box + 4 * i);
        n = product(n, count);
        if (count == 0 || n > out_size) return false;
        /* A step that is taken once too often, after the last value, must not overflow either. */
        for (uint32_t path = TD_BOX_INPUT; path <= TD_BOX_OUTPUT; path += TD_BOX_OUTPUT - TD_BOX_INPUT) {
            int32_t step = td_get_i32(box + 4 * (path + 1 + i));
            if (step > (int32_t)TD_MAX_ARENA || step < -(int32_t)TD_MAX_ARENA) return false;
        }
    }
    return inside(box, box + 4 * TD_BOX_INPUT, in_size) && inside(box, box + 4 * TD_BOX_OUTPUT, out_size);
}

/* A softmax divides by the sum of its terms: the first, which the largest input contributes, must be 1. */
static bool good_terms(const td_model *model, uint32_t offset)
{
    if (!in_data(model, offset, 1024)) return false;
    const uint8_t *terms = model->data.data + offset;
    for (uint32_t i = 0; i < 256; i++) {
        if (td_get_i32(terms + 4 * i) < 0) return false;
    }
    return td_get_i32(terms) == INT32_MAX;
}

/* COPY and FILL, which take every type. */
static bool good_move(const td_model *model, const uint8_t *record)
{
    const uint8_t *in = tensor_record(model, record[1]), *out = tensor_record(model, record[3]);
    if (td_get32(record + 24) != 0) return false;
    if (record[0] == TD_OP_FILL) return td_get32(record + 20) == 0;
    return tensor_type(in) == tensor_type(out)
        && good_box(model, td_get32(record + 20), tensor_size(in), tensor_size(out));
}

static int check_int8(const td_model *model, const uint8_t *record)
{
    td_tensor in = tensor_shape(model, record[1]), in_b = tensor_shape(model, record[2]);
    td_tensor out = tensor_shape(model, record[3]);
    td_op op = read_op(record, TD_INT8);
    uint32_t channels = td_get32(record + 24);
    bool good, weightless = td_get32(record + 20) == 0;
    if (in.type != TD_INT8) return TD_E_FORMAT;
    switch (op.kind) {
    case TD_OP_CONV:
    case TD_OP_DENSE:
    case TD_OP_DEPTHWISE:
        good = good_window(model, &op, record, &in, &out);
        break;
    case TD_OP_AVERAGE_POOL:
    case TD_OP_MAX_POOL:
        good = weightless && channels == 0 && good_window(model, &op, record, &in, &out);
        break;
    case TD_OP_ADD:
    case TD_OP_SUB:
    case TD_OP_MUL:
        good = weightless && in_b.type == TD_INT8 && spreads_to(&in, &out) && spreads_to(&in_b, &out)
            && good_channels(model, channels, 3);
        break;
    case TD_OP_MEAN:
        good = weightless && reduces_to(&in, &out) && good_channels(model, channels, 1);
        break;
    case TD_OP_TABLE:
        good = same_shape(&in, &out) && in_data(model, td_get32(record + 20), 256) && channels == 0;
        break;
    case TD_OP_SOFTMAX:
        good = same_shape(&in, &out) && in.c <= TD_SOFTMAX_CHANNELS && good_terms(model, td_get32(record + 20))
            && channels == 0;
        break;
    default:
        return TD_E_UNSUPPORTED;
    }
    return good && op.min <= op.max ? TD_OK : TD_E_FORMAT;
}

/* --------------------------------------------------------------------- int16 */

/* 513 points of a curve that is nowhere negative; a softmax divides by a sum whose first term is its last point. */
static bool good_curves(const td_model *model, uint32_t offset)
{
    if (!in_data(model, offset, 2 * TD_CURVE_SIZE)) return false;
    const uint8_t *points = model->data.data + offset;
    for (uint32_t i = 0; i < TD_CURVE_SIZE; i += 2) {
        if (td_get16(points + i) > INT16_MAX) return false;
    }
    return td_get16(points + TD_CURVE_SIZE - 4) > 1 && td_get16(points + TD_CURVE_SIZE - 2) > 1;
}

/* The input of LOGISTIC and TANH is scaled in 32 bits. */
static bool good_scaling(const td_model *model, uint32_t offset)
{
    if (!good_channels(model, offset, 1)) return false;
    return td_get32(model->data.data + offset + 4) <= UINT16_MAX && (int8_t)model->data.data[offset + 8] <= 0;
}

static bool good_rescale(const td_model *model, const uint8_t *record)
{
    td_tensor in = tensor_shape(model, record[1]), out = tensor_shape(model, record[3]);
    return in.type <= TD_INT16 && out.type <= TD_INT16 && same_shape(&in, &out) && td_get32(record + 20) == 0
        && good_channels(model, td_get32(record + 24), 2);
}

static int check_int16(const td_model *model, const uint8_t *record)
{
    td_tensor in = tensor_shape(model, record[1]), in_b = tensor_shape(model, record[2]);
    td_tensor out = tensor_shape(model, record[3]);
    td_op op = read_op(record, TD_INT16);
    uint32_t weights = td_get32(record + 20), channels = td_get32(record + 24);
    bool good;
    if (in.type != TD_INT16) return TD_E_FORMAT;
    switch (op.kind) {
    case TD_OP_CONV:
    case TD_OP_DENSE:
    case TD_OP_DEPTHWISE:
        good = good_window(model, &op, record, &in, &out);
        break;
    case TD_OP_AVERAGE_POOL:
    case TD_OP_MAX_POOL:
        good = weights == 0 && channels == 0 && good_window(model, &op, record, &in, &out);
        break;
    case TD_OP_ADD:
    case TD_OP_SUB:
    case TD_OP_MUL:
        good = weights == 0 && in_b.type == TD_INT16 && spreads_to(&in, &out) && spreads_to(&in_b, &out)
            && good_channels(model, channels, 3);
        break;
    case TD_OP_MEAN:
        good = weights == 0 && reduces_to(&in, &out) && good_channels(model, channels, 1);
        break;
    case TD_OP_LOGISTIC:
    case TD_OP_TANH:
        good = same_shape(&in, &out) && in_data(model, weights, 512) && good_scaling(model, channels);
        break;
    case TD_OP_SOFTMAX:
        good = same_shape(&in, &out) && good_curves(model, weights) && good_channels(model, channels, 1);
        break;
    default:
        return TD_E_UNSUPPORTED;
    }
    return good && op.min <= op.max ? TD_OK : TD_E_FORMAT;
}

/* ---------------------------------------------------------------- recurrent */

static bool is_recurrent(const uint8_t *record)
{
    return record[0] == TD_OP_SVDF || record[0] == TD_OP_LSTM;
}

static bool is_state(const td_model *model, uint32_t index, uint32_t type)
{
    return index < model->n_tensors && tensor_record(model, index)[10] == TENSOR_STATE
        && tensor_type(tensor_record(model, index)) == type;
}

static bool good_svdf(const td_model *model, const uint8_t *record, const td_tensor *in, const td_tensor *out)
{
    td_tensor state = tensor_shape(model, record[2]);
    uint32_t features = product((uint32_t)state.w, (uint32_t)in->c), time = product((uint32_t)state.w, (uint32_t)state.c);
    return in->h == 1 && in->w == 1 && out->h == 1 && out->w == 1 && state.h == 1 && state.w % out->c == 0
        && features <= INT32_MAX && in_data(model, td_get32(record + 20), features + (features & 1u) + 2 * time)
        && good_channels(model, td_get32(record + 24), (uint32_t)out->c + 1u);
}

/* 9 multipliers with their shifts, behind the biases, as good_channels; then the cells' scale and clip. */
static bool good_lstm(const td_model *model, const uint8_t *record, const td_tensor *in, const td_tensor *out)
{
    uint32_t last = td_get16(record + 4), n = (uint32_t)out->c, channels = td_get32(record + 24);
    uint32_t weights = product(4 * n, n + (uint32_t)in->c);
    if (!is_state(model, last, TD_INT8) || in->h != 1 || out->h != 1 || in->w != out->w
        || tensor_size(tensor_record(model, record[2])) != n || tensor_size(tensor_record(model, last)) != n
        || !in_data(model, td_get32(record + 20), weights) || !in_data(model, channels, 32 * n + 48)) {
        return false;
    }
    const uint8_t *multipliers = model->data.data + channels + 32 * n;
    for (uint32_t i = 0; i < 9; i++) {
        int32_t shift = (int8_t)multipliers[36 + i];
        if (td_get_i32(multipliers + 4 * i) < 0 || shift < -31 || shift > 30) return false;
    }
    return multipliers[45] >= 9 && multipliers[45] <= 15 && td_get16(multipliers + 46) <= INT16_MAX;
}

static int check_recurrent(const td_model *model, const uint8_t *record)
{
    td_tensor in = tensor_shape(model, record[1]), out = tensor_shape(model, record[3]);
    td_op op = read_op(record, TD_INT8);
    if (in.type != TD_INT8 || out.type != TD_INT8 || !is_state(model, record[2], TD_INT16) || op.min > op.max) {
        return TD_E_FORMAT;
    }
    bool good = op.kind == TD_OP_SVDF ? good_svdf(model, record, &in, &out) : good_lstm(model, record, &in, &out);
    return good ? TD_OK : TD_E_FORMAT;
}

/* ---------------------------------------------------------------------- f32 */

static td_op_f32 read_f32(const td_model *model, const uint8_t *record, const td_tensor *in)
{
    td_op shared = read_op(record, TD_FLOAT32);
    td_op_f32 op;
    memset(&op, 0, sizeof op);
    op.kind = shared.kind;
    op.activation = td_get32(record + 16);
    op.y = shared.y;
    op.x = shared.x;
    const uint8_t *weights = model->data.data + td_get32(record + 20);
    if (op.kind == TD_OP_TABLE || op.kind == TD_OP_SOFTMAX) op.parameter = td_get_f32(weights);
    if (op.kind == TD_OP_CONV || op.kind == TD_OP_DENSE || op.kind == TD_OP_DEPTHWISE) {
        op.filters.size = op.y.taps * op.x.taps * (op.kind == TD_OP_DEPTHWISE ? 1 : in->c);
        op.filters.first = op.filters.first_bias = INT32_MAX;
        op.filters.stored = (const float *)(const void *)weights;
        op.filters.bias = model->data.data + td_get32(record + 24);
    }
    return op;
}

/* Filters are read in place, which check_tensors has allowed: 4-byte aligned. Biases are f32 one by one. */
static bool good_filters(const td_model *model, const uint8_t *record, const td_tensor *in, const td_tensor *out)
{
    uint32_t values = product(td_get16(record + 4), td_get16(record + 6)), weights = td_get32(record + 20);
    if (record[0] != TD_OP_DEPTHWISE) values = product(values, (uint32_t)in->c);
    else if (out->c % in->c != 0) return false;
    values = product(values, (uint32_t)out->c);
    return weights % 4u == 0 && (uintptr_t)model->data.data % 4u == 0 && in_data(model, weights, product(4, values))
        && in_data(model, td_get32(record + 24), 4u * (uint32_t)out->c);
}

static int check_f32(const td_model *model, const uint8_t *record)
{
    td_tensor in = tensor_shape(model, record[1]), in_b = tensor_shape(model, record[2]);
    td_tensor out = tensor_shape(model, record[3]);
    td_op op = read_op(record, TD_FLOAT32);
    bool good, bare = td_get32(record + 20) == 0 && td_get32(record + 24) == 0;
    uint32_t last = op.kind == TD_OP_TABLE ? (uint32_t)TD_ACT_TANH : (uint32_t)TD_ACT_RELU_N1_TO_1;
    if (in.type != TD_FLOAT32 || td_get32(record + 16) > last) return TD_E_FORMAT;
    bool windows = good_axis(&op.y) && good_axis(&op.x);
    switch (op.kind) {
    case TD_OP_CONV:
    case TD_OP_DENSE:
    case TD_OP_DEPTHWISE: good = windows && good_filters(model, record, &in, &out); break;
    case TD_OP_AVERAGE_POOL:
    case TD_OP_MAX_POOL:
        good = windows && bare && in.c == out.c && op.y.dilation == 1 && op.x.dilation == 1;
        break;
    case TD_OP_ADD:
    case TD_OP_SUB:
    case TD_OP_MUL:
        good = bare && in_b.type == TD_FLOAT32 && spreads_to(&in, &out) && spreads_to(&in_b, &out);
        break;
    case TD_OP_MEAN: good = bare && reduces_to(&in, &out); break;
    case TD_OP_TABLE:
    case TD_OP_SOFTMAX:
        good = same_shape(&in, &out) && in_data(model, td_get32(record + 20), 4) && td_get32(record + 24) == 0;
        break;
    default: return TD_E_UNSUPPORTED;
    }
    return good ? TD_OK : TD_E_FORMAT;
}

/* Exactly one side is f32. The scale is not checked: no value of it can do harm. */
static bool good_convert(const td_model *model, const uint8_t *record)
{
    td_tensor in = tensor_shape(model, record[1]), out = tensor_shape(model, record[3]);
    td_op op = read_op(record, out.type);
    uint32_t weights = td_get32(record + 20);
    if ((in.type == TD_FLOAT32) == (out.type == TD_FLOAT32) || !same_shape(&in, &out) || op.min > op.max
        || !in_data(model, weights, 8) || td_get32(record + 24) != 0) {
        return false;
    }
    int32_t zero_point = td_get_i32(model->data.data + weights + 4);
    return zero_point >= -128 && zero_point <= 127;
}

/* The type of the output says which kernels compute it. */
static int check_op(const td_model *model, const uint8_t *record)
{
    if (record[1] >= model->n_tensors || record[2] >= model->n_tensors || record[3] >= model->n_tensors
        || is_constant(tensor_record(model, record[3]))) {
        return TD_E_FORMAT;
    }
    if (record[0] == TD_OP_COPY || record[0] == TD_OP_FILL) return good_move(model, record) ? TD_OK : TD_E_FORMAT;
    if (record[0] == TD_OP_CONVERT) return good_convert(model, record) ? TD_OK : TD_E_FORMAT;
    if (is_recurrent(record)) return TD_HAVE_RECURRENT ? check_recurrent(model, record) : TD_E_UNSUPPORTED;
    if (record[0] == TD_OP_RESCALE && TD_HAVE_INT16) {
        td_op op = read_op(record, tensor_type(tensor_record(model, record[3])));
        return good_rescale(model, record) && op.min <= op.max ? TD_OK : TD_E_FORMAT;
    }
    switch (tensor_type(tensor_record(model, record[3]))) {
    case TD_INT16: return TD_HAVE_INT16 ? check_int16(model, record) : TD_E_UNSUPPORTED;
    case TD_INT8: return check_int8(model, record);
    case TD_FLOAT32: return TD_HAVE_F32 ? check_f32(model, record) : TD_E_UNSUPPORTED;
    default: return TD_E_UNSUPPORTED;
    }
}

/* Layers that dense.c and fixed.c compute, as they take them. */
static void open_dense(td_model *model)
{
    for (uint32_t i = 0; i < model->n_tail; i++) {
        td_layer layer = td_layer_read(model, i);
        td_dense *dense = &model->tail[i];
        dense->n_in = (uint16_t)layer.in.c;
        dense->n_out = (uint16_t)layer.out.c;
        dense->activation = (uint8_t)layer.op.activation;
        dense->weights = (const uint8_t *)layer.op.filters.small;
        dense->scales = layer.op.filters.scales;
        dense->bias = layer.op.filters.bias;
    }
}

static int open_tail(td_model *model, const td_section *tail)
{
    if (tail->size < TAIL_HEADER || (tail->size - TAIL_HEADER) % TD_LAYER_RECORD != 0) return TD_E_FORMAT;
    model->n_tail = (tail->size - TAIL_HEADER) / TD_LAYER_RECORD;
    model->layers = tail->data + TAIL_HEADER;
    uint32_t arena = td_get32(tail->data);
    if (model->n_tail > TD_MAX_LAYERS || arena % 16u != 0 || arena > TD_MAX_ARENA) return TD_E_FORMAT;
    model->has_layers = model->n_tail > TD_MAX_TAIL;
    for (uint32_t i = 0; i < model->n_tail; i++) {
        int status = td_layer_check(model, i, arena);
        if (status != TD_OK) return status;
        if (!td_layer_is_dense(model, i)) model->has_layers = true;
    }
    if (model->n_tail == 0) return arena == 0 ? TD_OK : TD_E_FORMAT;
    if (model->embedding_type == TD_INT16) return TD_E_UNSUPPORTED;
    if (td_layers_parameters(model) == 0) return TD_E_FORMAT;
    if (model->has_layers) return TD_HAVE_LAYERS ? TD_OK : TD_E_UNSUPPORTED;
    open_dense(model);
    return TD_OK;
}

uint32_t td_model_outputs(const td_model *model)
{
    if (model->n_tail == 0) return model->embedding_size;
    return model->has_layers ? td_layers_outputs(model) : model->tail[model->n_tail - 1].n_out;
}

static int open_meta(td_model *model, const td_section *meta)
{
    const uint8_t *bytes = meta->data;
    if (meta->size != META_SIZE) return TD_E_FORMAT;
    uint32_t input = td_get16(bytes + 8), embedding = td_get16(bytes + 10);
    uint32_t flags = td_get16(bytes + 12);
    if (input >= model->n_tensors || embedding >= model->n_tensors) return TD_E_FORMAT;
    if (is_constant(tensor_record(model, input)) || is_constant(tensor_record(model, embedding))) return TD_E_FORMAT;
    if ((flags & ~(uint32_t)FLAG_SOFTMAX) != 0 || td_get16(bytes + 14) != 0) return TD_E_FORMAT;
    model->hash = td_get32(bytes);
    model->embedding_hash = td_get32(bytes + 32);
    if (model->embedding_hash == 0) return TD_E_FORMAT;
    model->arena_size = td_get32(bytes + 4);
    if (model->arena_size % 16u != 0 || model->arena_size > TD_MAX_ARENA) return TD_E_FORMAT;
    if (model->data.size > INT32_MAX) return TD_E_FORMAT;
    model->ends_in_softmax = (flags & FLAG_SOFTMAX) != 0;
    model->embedding_scale = td_get_f32(bytes + 16);
    model->embedding_zero_point = td_get_i32(bytes + 20);
    const uint8_t *from = tensor_record(model, input), *to = tensor_record(model, embedding);
    model->input_offset = td_get32(from);
    model->input_size = tensor_size(from);
    model->input_bytes = tensor_bytes(from);
    model->input_type = (uint8_t)tensor_type(from);
    model->embedding_offset = td_get32(to);
    model->embedding_size = tensor_size(to);
    model->embedding_bytes = tensor_bytes(to);
    model->embedding_type = (uint8_t)tensor_type(to);
    int32_t zero_point = model->embedding_zero_point;
    bool good = model->embedding_type == TD_INT8 ? zero_point >= -128 && zero_point <= 127 : zero_point == 0;
    if (!(model->embedding_scale > 0.0f) || !good) return TD_E_FORMAT;
    return TD_OK;
}

/* A table of records of one size: their number, or TD_E_FORMAT. */
static int count(const td_section *section, uint32_t record_size, uint32_t limit, uint32_t *n)
{
    *n = section->size / record_size;
    return section->size % record_size == 0 && *n <= limit ? TD_OK : TD_E_FORMAT;
}

static int open_sections(td_model *model)
{
    td_section meta, tensors, ops, tail;
    const td_file *file = &model->file;
    if (td_file_section(file, SECTION_META, &meta) != TD_OK || td_file_section(file, SECTION_TENSORS, &tensors) != TD_OK
        || td_file_section(file, SECTION_OPS, &ops) != TD_OK || td_file_section(file, SECTION_TAIL, &tail) != TD_OK
        || td_file_section(file, SECTION_DATA, &model->data) != TD_OK || td_get16(file->data + 6) != 5) {
        return TD_E_FORMAT;
    }
    if (count(&tensors, TENSOR_SIZE, TD_MAX_TENSORS, &model->n_tensors) != TD_OK
        || count(&ops, OP_SIZE, TD_MAX_OPS, &model->n_ops) != TD_OK) {
        return TD_E_FORMAT;
    }
    model->tensors = tensors.data;
    model->ops = ops.data;
    int status = open_meta(model, &meta);
    if (status == TD_OK) status = check_tensors(model);
    model->has_state = false;
    for (uint32_t i = 0; status == TD_OK && i < model->n_ops; i++) {
        status = check_op(model, op_record(model, i));
        if (is_recurrent(op_record(model, i))) model->has_state = true;
    }
    return status == TD_OK ? open_tail(model, &tail) : status;
}

int td_model_open(td_model *model, const uint8_t *data, uint32_t size)
{
    int status = td_file_open(&model->file, TD_MAGIC_MODEL, data, size);
    return status == TD_OK ? open_sections(model) : status;
}

/* ---------------------------------------------------------------------- run */

static void run_int8(const td_op *op, const td_tensor *in, const td_tensor *in_b, const td_tensor *out)
{
    switch (op->kind) {
    case TD_OP_CONV:
    case TD_OP_DENSE: td_conv(op, in, out); break;
    case TD_OP_DEPTHWISE: td_depthwise(op, in, out); break;
    case TD_OP_ADD:
        if (same_shape(in, out) && same_shape(in_b, out)) {
            td_add(op, in, in_b, out);
            break;
        } /* fall through */
    case TD_OP_SUB:
    case TD_OP_MUL: td_combine(op, in, in_b, out); break;
    case TD_OP_MEAN: td_mean(op, in, out); break;
    case TD_OP_TABLE: td_table(op, in, out); break;
    case TD_OP_SOFTMAX: td_softmax(op, in, out); break;
    default: td_pool(op, in, out); break;
    }
}

static td_map map_of(const td_tensor *tensor)
{
    td_map map = {(float *)(void *)tensor->data, tensor->h, tensor->w, tensor->c};
    return map;
}

static void run_f32(const td_model *model, const uint8_t *record, const td_tensor *in, const td_tensor *in_b,
                    const td_tensor *out)
{
    td_op_f32 op = read_f32(model, record, in);
    td_map a = map_of(in), b = map_of(in_b), result = map_of(out);
    td_forward_f32(&op, &a, &b, &result);
}

static void run_op(const td_model *model, uint8_t *arena, const uint8_t *record)
{
    td_tensor in = tensor_at(model, arena, record[1]), in_b = tensor_at(model, arena, record[2]);
    td_tensor out = tensor_at(model, arena, record[3]);
    td_op op = read_op(record, out.type);
    op.weights = (const int8_t *)model->data.data + td_get32(record + 20);
    op.channels = model->data.data + td_get32(record + 24);
    if (op.kind == TD_OP_COPY) {
        td_copy(&op, &in, &out);
    } else if (op.kind == TD_OP_FILL) {
        td_fill(&op, &out);
    } else if (op.kind == TD_OP_CONVERT) {
        td_convert(&op, &in, &out);
#if TD_HAVE_RECURRENT
    } else if (op.kind == TD_OP_SVDF) {
        td_svdf(&op, &in, &in_b, &out);
    } else if (op.kind == TD_OP_LSTM) {
        td_tensor last = tensor_at(model, arena, td_get16(record + 4));
        td_lstm(&op, &in, &in_b, &last, &out);
#endif
#if TD_HAVE_INT16
    } else if (op.kind == TD_OP_RESCALE) {
        td_rescale(&op, &in, &out);
    } else if (out.type == TD_INT16) {
        td_run_int16(&op, &in, &in_b, &out);
#endif
    } else if (TD_HAVE_F32 && out.type == TD_FLOAT32) {
        run_f32(model, record, &in, &in_b, &out);
    } else {
        run_int8(&op, &in, &in_b, &out);
    }
}

static void fill_state(const td_model *model, uint8_t *arena, uint32_t index, int value)
{
    const uint8_t *record = tensor_record(model, index);
    memset(arena + td_get32(record), value, (size_t)tensor_bytes(record));
}

int td_model_reset(const td_model *model, uint8_t *arena, uint32_t arena_size)
{
    if (arena_size < model->arena_size) return TD_E_MEMORY;
    for (uint32_t i = 0; i < model->n_ops; i++) {
        const uint8_t *record = op_record(model, i);
        if (is_recurrent(record)) fill_state(model, arena, record[2], 0);
        if (record[0] == TD_OP_LSTM) fill_state(model, arena, td_get16(record + 4), (int8_t)record[17]);
    }
    return TD_OK;
}

int td_model_run(const td_model *model, uint8_t *arena, uint32_t arena_size)
{
    if (arena_size < model->arena_size) return TD_E_MEMORY;
    for (uint32_t i = 0; i < model->n_ops; i++) run_op(model, arena, op_record(model, i));
    return TD_OK;
}
