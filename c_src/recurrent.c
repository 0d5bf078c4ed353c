/* SVDF and LSTM on int8 activations, bit for bit what LiteRT's reference kernels compute. What they remember from one
 * run to the next is int16 (and the LSTM's last output) and lies in tensors of its own in the arena.
 *
 * The curves of the gates are gemmlowp's on 16 bits: a polynomial for exp near 0, factors for the powers of two of what
 * is left, and three Newton steps for the quotients. */
#include "kernels.h"
#include "rounding.h"
#include "td_internal.h"

static int32_t within(int32_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : value;
}

static int32_t saturated(int32_t value)
{
    return within(value, INT16_MIN, INT16_MAX);
}

static uint32_t dot(const int8_t *x, int32_t zero_point, const int8_t *w, int32_t n, uint32_t sum)
{
    for (int32_t i = 0; i < n; i++) sum += (uint32_t)((x[i] - zero_point) * w[i]);
    return sum;
}

static int16_t *state16(const td_tensor *tensor)
{
    return (int16_t *)(void *)tensor->data;
}

/* --------------------------------------------------------------------- SVDF
 * Each filter has a row of the state, oldest value first. Weights: i8 of the inputs for each filter, then, at an even
 * offset, i16 of the row. Channel rows: one for the inputs' sums, then one for each output. */

static void remember(const td_op *op, const td_tensor *in, const td_tensor *state, int32_t n_rows)
{
    int32_t multiplier = td_get_i32(op->channels + 4 * n_rows), shift = (int8_t)op->channels[8 * n_rows];
    const int8_t *w = op->weights;
    int16_t *row = state16(state);
    for (int32_t f = 0; f < state->w; f++) {
        uint32_t sum = dot(in->data, op->input_zero_point, w, in->c, 0);
        for (int32_t i = 1; i < state->c; i++) row[i - 1] = row[i];
        row[state->c - 1] = (int16_t)saturated(round_twice((int32_t)sum, multiplier, shift));
        row += state->c;
        w += in->c;
    }
}

void td_svdf(const td_op *op, const td_tensor *in, const td_tensor *state, const td_tensor *out)
{
    int32_t n_rows = out->c + 1, rank = state->w / out->c, features = state->w * in->c;
    const uint8_t *time = (const uint8_t *)op->weights + features + (features & 1);
    const int16_t *row = state16(state);
    remember(op, in, state, n_rows);
    for (int32_t u = 0; u < out->c; u++) {
        uint32_t sum = td_get32(op->channels + 4 * (u + 1));
        for (int32_t n = rank * state->c; n > 0; n--) {
            sum += (uint32_t)((int32_t)*row++ * (int16_t)td_get16(time));
            time += 2;
        }
        const uint8_t *multiplier = op->channels + 4 * (n_rows + u + 1);
        int32_t value = round_twice((int32_t)sum, td_get_i32(multiplier), (int8_t)op->channels[8 * n_rows + u + 1]);
        value = within(value, op->min - op->output_zero_point, op->max - op->output_zero_point);
        out->data[u] = (int8_t)(value + op->output_zero_point);
    }
}

/* ------------------------------------------------------------------- curves */

/* a * b / 2^15, to nearest. */
static int32_t high16(int32_t a, int32_t b)
{
    return saturated((a * b + (1 << 14)) >> 15);
}

/* exp(a) in Q0.15 of a <= 0 with this many integer bits. */
static int32_t exponential(int32_t a, int32_t bits)
{
    /* exp(-2^k) in Q0.15, for k from -2 on. */
    static const int16_t powers[] = {25520, 19875, 12055, 4435, 600, 11, 0};
    int32_t fraction = 15 - bits, quarter = (int32_t)1 << (fraction - 2);
    int32_t inside = (a & (quarter - 1)) - quarter, rest = inside - a;
    int32_t x = inside * ((int32_t)1 << bits) + (1 << 12), x2 = high16(x, x);
    int32_t x4 = halved(high16(x2, x2), 2);
    int32_t series = halved(high16(x4 + high16(x2, x), 10923) + x2, 1); /* 1/3 */
    int32_t result = saturated(28918 + high16(28918, x + series));      /* exp(-1/8) */
    if (a == 0) return INT16_MAX;
    if (bits > 5 && a < -((int32_t)1 << (20 - bits))) return 0;
    for (int32_t k = -2; k < bits && k <= 4; k++) {
        if (rest >> (fraction + k) & 1) result = high16(result, powers[k + 2]);
    }
    return result;
}

/* 2 / (1 + e) in Q2.13, for e from 0 to 1. */
static int32_t quotient(int32_t e)
{
    int32_t half = (e + INT16_MAX + 1) / 2;
    int32_t x = 23130 + high16(half, -15420); /* 48/17 and -32/17 */
    for (int i = 0; i < 3; i++) x += saturated(high16(x, (1 << 13) - high16(half, x)) * 4);
    return x;
}

/* Of Q3.12, in Q0.15. */
static int32_t logistic(int32_t a)
{
    int32_t positive = saturated(quotient(exponential(a < 0 ? a : -a, 3)) * 2);
    return a == 0 ? 1 << 14 : a > 0 ? positive : INT16_MAX - positive;
}

/* In Q0.15: (1 - e) / (1 + e) with e = exp(-2 |a|), which has the same bits in twice the range. */
static int32_t hyperbolic_tangent(int32_t a, int32_t bits)
{
    int32_t positive = saturated((quotient(exponential(a < 0 ? a : -a, bits + 1)) - (1 << 13)) * 4);
    return a == 0 ? 0 : a > 0 ? positive : -positive;
}

/* --------------------------------------------------------------------- LSTM
 * Gates: input, forget, cell, output. Weights: for each gate i8 of the inputs for each cell, then of the last outputs.
 * Channels: for each gate i32 biases of the two sums, a cell each; i32 multipliers of the 8 sums and of the output;
 * their i8 shifts; i8 fractional bits of the cell state; i16 clip of the cell state, 0: none. */

typedef struct lstm {
    const td_op *op;
    int32_t n, n_in;
    const uint8_t *multipliers, *shifts;
} lstm;

static int32_t scaled(const lstm *l, int32_t value, int32_t index)
{
    return round_twice(value, td_get_i32(l->multipliers + 4 * index), (int8_t)l->shifts[index]);
}

/* What gate `gate` of cell `cell` gets, in Q3.12. */
static int32_t gate_input(const lstm *l, int32_t gate, int32_t cell, const int8_t *x, const int8_t *h)
{
    const int8_t *w = l->op->weights + gate * l->n * (l->n_in + l->n);
    const uint8_t *biases = l->op->channels + 8 * gate * l->n + 4 * cell;
    uint32_t from_x = dot(x, 0, w + cell * l->n_in, l->n_in, td_get32(biases));
    uint32_t from_h = dot(h, 0, w + l->n * l->n_in + cell * l->n, l->n, td_get32(biases + 4 * l->n));
    int32_t sum = saturated(scaled(l, (int32_t)from_x, 2 * gate));
    int32_t more = within(scaled(l, (int32_t)from_h, 2 * gate + 1), -((int32_t)1 << 17), (int32_t)1 << 17); /* so that the sum fits */
    return saturated(sum + more);
}

static int8_t step(const lstm *l, int32_t j, const int8_t *x, const int8_t *h, int16_t *state)
{
    int32_t fraction = l->shifts[9], clip = (int16_t)td_get16(l->shifts + 10);
    int32_t input = logistic(gate_input(l, 0, j, x, h)), forget = logistic(gate_input(l, 1, j, x, h));
    int32_t fresh = hyperbolic_tangent(gate_input(l, 2, j, x, h), 3), open = logistic(gate_input(l, 3, j, x, h));
    int32_t cell = saturated(halved(forget * *state, 15) + (int16_t)halved(input * fresh, 30 - fraction));
    if (clip > 0) cell = within(cell, -clip, clip);
    *state = (int16_t)cell;
    int32_t value = scaled(l, open * hyperbolic_tangent(cell, 15 - fraction), 8);
    value = within(value, INT8_MIN - l->op->output_zero_point, INT8_MAX - l->op->output_zero_point);
    return (int8_t)(value + l->op->output_zero_point);
}

void td_lstm(const td_op *op, const td_tensor *in, const td_tensor *cells, const td_tensor *last, const td_tensor *out)
{
    lstm l = {op, out->c, in->c, op->channels + 32 * out->c, op->channels + 32 * out->c + 36};
    for (int32_t t = 0; t < out->w; t++) {
        int8_t *to = out->data + t * out->c;
        for (int32_t j = 0; j < out->c; j++) to[j] = step(&l, j, in->data + t * in->c, last->data, state16(cells) + j);
        for (int32_t j = 0; j < out->c; j++) last->data[j] = to[j];
    }
}
