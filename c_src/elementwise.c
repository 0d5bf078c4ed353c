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
