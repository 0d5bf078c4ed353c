/* int8 kernels that look at values one by one, bit for bit what LiteRT's reference kernels compute. */
#include "kernels.h"
#include "rounding.h"
#include "td_internal.h"

static int32_t volume(const td_tensor *tensor)
{
    return tensor->h * tensor->w * tensor->c;
}

/* Any operator of one input, as its 256 results. */
void td_table(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    int32_t n = volume(out);
    for (int32_t i = 0; i < n; i++) out->data[i] = op->weights[in->data[i] + 128];
}

/* ------------------------------------------------------------------ softmax
 * The weights are exp(-d * scale) in Q0.31 for d = 0 .. 255 below the largest input. */

static int32_t term(const td_op *op, int32_t difference)
{
    return td_get_i32((const uint8_t *)op->weights + 4 * difference);
}

/* 1 / (sum / 2^31) of 2^30 <= half < 2^31, half of that sum, in Q2.29: three Newton steps from the best line,
 * 48/17 - 32/17 half. */
static int32_t reciprocal(int32_t half)
{
    int32_t x = 1515870810 + doubled_high(-1010580540, half);
    for (int i = 0; i < 3; i++) x += doubled_high(((int32_t)1 << 29) - doubled_high(half, x), x) * 4;
    return x;
}

static void softmax_row(const td_op *op, const int8_t *in, int32_t n, int8_t *out)
{
    int32_t top = -128, lead = 0;
    uint32_t sum = 0;
    for (int32_t i = 0; i < n; i++) {
        if (in[i] > top) top = in[i];
    }
    for (int32_t i = 0; i < n; i++) sum += (uint32_t)halved(term(op, top - in[i]), 12);
    for (; sum < 0x80000000u; sum <<= 1) lead++;
    int32_t scale = reciprocal((int32_t)(sum >> 1));
    scale = scale >= (int32_t)1 << 30 ? INT32_MAX : scale * 2;
    int32_t shift = 35 - lead;
    for (int32_t i = 0; i < n; i++) {
        int32_t share = doubled_high(term(op, top - in[i]), scale);
        share = shift > 31 ? 0 : halved(share, shift);
        out[i] = (int8_t)((share > 255 ? 255 : share) - 128);
    }
}

void td_softmax(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    int32_t rows = in->h * in->w;
    for (int32_t row = 0; row < rows; row++) softmax_row(op, in->data + row * in->c, in->c, out->data + row * in->c);
}

/* ------------------------------------------------------------- two inputs
 * Three channel rows: a, b, result. The biases of a and b are their negated zero points. */

static int32_t rescaled(const td_op *op, uint32_t value, int32_t row)
{
    return round_twice((int32_t)value, td_get_i32(op->channels + 12 + 4 * row), (int8_t)op->channels[24 + row]);
}

static int8_t combined(const td_op *op, int8_t a, int8_t b)
{
    uint32_t x = (uint32_t)(int32_t)a + td_get32(op->channels), y = (uint32_t)(int32_t)b + td_get32(op->channels + 4);
    uint32_t result = x * y;
    if (op->kind != TD_OP_MUL) {
        x = (uint32_t)rescaled(op, x << 20, 0);
        y = (uint32_t)rescaled(op, y << 20, 1);
        result = op->kind == TD_OP_ADD ? x + y : x - y;
    }
    int32_t value = rescaled(op, result, 2), low = op->min - op->output_zero_point, high = op->max - op->output_zero_point;
    if (value < low) value = low;
    if (value > high) value = high;
    return (int8_t)(value + op->output_zero_point);
}

/* Value y, x, c, where a dimension of 1 stands for any size. */
static int8_t spread(const td_tensor *tensor, int32_t y, int32_t x, int32_t c)
{
    if (tensor->h == 1) y = 0;
    if (tensor->w == 1) x = 0;
    if (tensor->c == 1) c = 0;
    return tensor->data[(y * tensor->w + x) * tensor->c + c];
}

void td_combine(const td_op *op, const td_tensor *a, const td_tensor *b, const td_tensor *out)
{
    int8_t *to = out->data;
    for (int32_t y = 0; y < out->h; y++) {
        for (int32_t x = 0; x < out->w; x++) {
            for (int32_t c = 0; c < out->c; c++) *to++ = combined(op, spread(a, y, x, c), spread(b, y, x, c));
        }
    }
}

/* ------------------------------------------------- integers and real numbers */

/* To nearest, halves away from zero, between low and high (which are far below 2^24); NaN is low. */
static int32_t rounded(float value, int32_t low, int32_t high)
{
    if (!(value > (float)low)) return low;
    if (value >= (float)high) return high;
    int32_t whole = (int32_t)value;
    float rest = value - (float)whole;
    return whole + (rest >= 0.5f ? 1 : 0) - (rest <= -0.5f ? 1 : 0);
}

void td_convert(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    float scale = td_get_f32((const uint8_t *)op->weights);
    int32_t n = volume(out), zero_point = td_get_i32((const uint8_t *)op->weights + 4);
    const int16_t *in16 = (const int16_t *)(const void *)in->data;
    const float *real = (const float *)(const void *)in->data;
    for (int32_t i = 0; i < n; i++) {
        if (out->type == TD_FLOAT32) {
            int32_t value = in->type == TD_INT8 ? in->data[i] : in16[i];
            ((float *)(void *)out->data)[i] = scale * (float)(value - zero_point);
            continue;
        }
        int32_t value = rounded(real[i] / scale, op->min - zero_point, op->max - zero_point) + zero_point;
        if (out->type == TD_INT8) {
            out->data[i] = (int8_t)value;
        } else {
            ((int16_t *)(void *)out->data)[i] = (int16_t)value;
        }
    }
}

/* ------------------------------------------------------------------ copies */

static int32_t box(const td_op *op, int32_t field)
{
    return td_get_i32((const uint8_t *)op->weights + 4 * field);
}

/* The innermost dimension of a box. */
static void copy_line(uint32_t type, const int8_t *from, int8_t *to, int32_t n, int32_t step_in, int32_t step_out)
{
    for (int32_t at_in = 0, at_out = 0; n > 0; n--, at_in += step_in, at_out += step_out) {
        if (type == TD_INT8) {
            to[at_out] = from[at_in];
        } else if (type == TD_INT16) {
            ((int16_t *)(void *)to)[at_out] = ((const int16_t *)(const void *)from)[at_in];
        } else {
            ((float *)(void *)to)[at_out] = ((const float *)(const void *)from)[at_in];
        }
    }
}

static void copy_box(const td_op *op, uint32_t type, int32_t dimension, const int8_t *from, int8_t *to)
{
    int32_t step_in = box(op, TD_BOX_INPUT + 1 + dimension), step_out = box(op, TD_BOX_OUTPUT + 1 + dimension);
    int32_t n = box(op, TD_BOX_COUNTS + dimension), size = (int32_t)td_type_size(type);
    if (dimension == 3) {
        copy_line(type, from, to, n, step_in, step_out);
        return;
    }
    for (; n > 0; n--) {
        copy_box(op, type, dimension + 1, from, to);
        from += n > 1 ? step_in * size : 0; /* no pointer is formed outside the tensors */
        to += n > 1 ? step_out * size : 0;
    }
}

void td_copy(const td_op *op, const td_tensor *in, const td_tensor *out)
{
    int32_t size = (int32_t)td_type_size(out->type);
    copy_box(op, out->type, 0, in->data + size * box(op, TD_BOX_INPUT), out->data + size * box(op, TD_BOX_OUTPUT));
}

void td_fill(const td_op *op, const td_tensor *out)
{
    memset(out->data, out->type == TD_INT8 ? (int)op->output_zero_point : 0,
           (size_t)volume(out) * (size_t)td_type_size(out->type));
}
