/* Training of dense layers in integers, for cores without an FPU (docs/DESIGN.md, "Training in integers").
 *
 * A vector is int16 values with one exponent, a layer's weights are int32 values with one exponent: real = value *
 * 2^exponent. Products take a weight's upper half, updates reach the lower one, so that small steps add up. Weights are
 * stored with half a unit of the upper half added, which makes its truncation a rounding. */
#include "train.h"

#define TOP 11              /* bits of an activation, so that CHUNK products with upper halves fit an int32 */
#define CHUNK 32u
#define DELTA_TOP 15        /* bits of a gradient at a layer's output */
#define HALF 0x8000         /* what is added to each stored weight */
#define WEIGHT_MOST (INT32_MAX - HALF)
#define BIAS_MOST (INT32_MAX / 2)
#define BIAS_STEP_MOST (INT32_MAX / 4)
#define STEP_MOST ((int32_t)1 << 18) /* times an activation: an eighth of a weight's range */
#define MAX_EXPONENT 90     /* of weights, which are then finite in f32; further growth saturates */
#define MIN_EXPONENT (-100)  /* of a layer of zeros */

typedef struct scale {
    int16_t weight;             /* exponents */
    int16_t bias;
    int16_t input;
    int16_t peak;               /* largest |input| */
} scale;

struct td_fixed {
    scale *scales;              /* a layer each */
    uint32_t *bounds;           /* a row each, all layers: its stored weights are at most this in magnitude */
    int32_t *sums;              /* the widest vector */
    int16_t *delta;             /* the widest output */
    int16_t *inputs;            /* of each layer, one behind the other */
};

/* Bytes of td_fixed where pointers are widest: host and board plan the same. */
#define FIXED_SIZE 40u
typedef char fixed_fits[sizeof(td_fixed) <= FIXED_SIZE ? 1 : -1];

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

typedef struct sizes {
    uint32_t rows, inputs, widest, outputs; /* the widest but for the tail's input */
} sizes;

static sizes count(const td_model *model)
{
    sizes n = {0, 0, 0, 0};
    for (uint32_t l = 0; l < model->n_tail; l++) {
        const td_dense *layer = &model->tail[l];
        n.rows += layer->n_out;
        n.inputs += layer->n_in;
        n.widest = larger(n.widest, larger(layer->n_out, l == 0 ? 0u : layer->n_in));
        n.outputs = layer->n_out;
    }
    return n;
}

/* Pointers, scales, then 4-byte and 2-byte values; whole words. */
uint32_t td_fixed_size(const td_model *model)
{
    sizes n = count(model);
    uint32_t bytes = FIXED_SIZE + model->n_tail * (uint32_t)sizeof(scale);
    bytes += 4u * (3u * n.outputs + n.rows + n.widest) + 2u * (n.widest + n.inputs);
    return (bytes + 7u) & ~(uint32_t)7u;
}

/* ------------------------------------------------------------------ numbers */
/* value / 2^right to nearest */
static int32_t rounded(int32_t value, int32_t right)
{
    if (right > 31) return 0;
    return right == 0 ? value : (value >> (right - 1) >> 1) + (value >> (right - 1) & 1);
}

/* value * 2^left, at most `most` in magnitude. */
static int32_t shifted_within(int32_t value, int32_t left, int32_t most)
{
    int32_t limit = value > 0 ? most : -most;
    if (value == 0) return 0;
    if (left > 0) return left > 30 || value > most >> left || -value > most >> left ? limit : value * ((int32_t)1 << left);
    value = rounded(value, -left);
    return value > most || value < -most ? limit : value;
}

static uint32_t magnitude(int32_t value)
{
    return value < 0 ? 0u - (uint32_t)value : (uint32_t)value;
}

static uint32_t float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* value * 2^exponent */
static float to_float(int32_t value, int32_t exponent)
{
    if (exponent > 127) exponent = 127;
    if (exponent < -126) exponent = -126;
    uint32_t bits = (uint32_t)(exponent + 127) << 23;
    float unit;
    memcpy(&unit, &bits, sizeof unit);
    return (float)value * unit;
}

/* value / 2^exponent to nearest, of a finite value; at most `most` in magnitude. */
static int32_t from_float(float value, int32_t exponent, int32_t most)
{
    uint32_t bits = float_bits(value);
    int32_t mantissa = (int32_t)((bits & 0x007FFFFFu) | 0x00800000u), power = (int32_t)(bits >> 23 & 0xFFu) - 150;
    if ((bits & 0x7F800000u) == 0) return 0; /* 0, or below what f32 holds in full */
    int32_t result = shifted_within(mantissa, power - exponent, most);
    return bits >> 31 ? -result : result;
}

/* The exponent with which values up to this in magnitude (bits of an f32 without its sign) take `top` bits. */
static int32_t exponent_for(uint32_t bits, int32_t top)
{
    return (int32_t)(bits >> 23) - 126 - top;
}

/* values as int16 of `top` bits with one exponent, which is returned. */
static int32_t quantise(const float *values, uint32_t n, int32_t top, int16_t *out, int16_t *peak)
{
    uint32_t largest = 0;
    for (uint32_t i = 0; i < n; i++) largest = larger(largest, float_bits(values[i]) & 0x7FFFFFFFu);
    int32_t exponent = exponent_for(largest, top), most = ((int32_t)1 << top) - 1;
    int32_t at = (int32_t)(largest >> 23); /* of the largest; others are shifted further by what they are smaller */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits = float_bits(values[i]);
        int32_t right = at - (int32_t)(bits >> 23 & 0xFFu) + 24 - top;
        int32_t value = 0;
        if (right < 26 && (bits & 0x7F800000u) != 0) {
            value = ((int32_t)((bits & 0x007FFFFFu) | 0x00800000u) + ((int32_t)1 << (right - 1))) >> right;
            if (value > most) value = most;
        }
        out[i] = (int16_t)(bits >> 31 ? -value : value);
    }
    if (peak) *peak = (int16_t)(largest ? most : 0);
    return exponent;
}

/* The same for integers of the given exponent. */
static int32_t narrow(const int32_t *values, uint32_t n, int32_t exponent, int32_t top, int16_t *out, int16_t *peak)
{
    uint32_t largest = 0;
    for (uint32_t i = 0; i < n; i++) largest = larger(largest, magnitude(values[i]));
    int32_t right = 0, most = ((int32_t)1 << top) - 1;
    while (right < 31 && largest >> right > (uint32_t)most) right++;
    while (right <= 0 && right > -top && largest != 0 && largest << (1 - right) <= (uint32_t)most) right--;
    for (uint32_t i = 0; i < n; i++) {
        int32_t value = right > 0 ? rounded(values[i], right) : values[i] * ((int32_t)1 << -right);
        if (value > most) value = most;
        if (value < -most) value = -most;
        out[i] = (int16_t)value;
    }
    *peak = (int16_t)(largest ? most : 0);
    return exponent + right;
}

/* ------------------------------------------------------------------- layers */
static int32_t *weights_of(const td_trainer *trainer)
{
    return (int32_t *)(void *)trainer->parameters;
}

/* w . x / 2^drop, of the upper halves of w. */
static int32_t dot(const int32_t *w, const int16_t *x, uint32_t n, int32_t drop)
{
    int32_t total = 0;
    while (n != 0) {
        uint32_t now = n < CHUNK ? n : CHUNK;
        const int16_t *end = x + now, *whole = x + (now & ~(uint32_t)3);
        int32_t sum = 0;
        for (; x != whole; x += 4, w += 4) {
            sum += (w[0] >> 16) * x[0];
            sum += (w[1] >> 16) * x[1];
            sum += (w[2] >> 16) * x[2];
            sum += (w[3] >> 16) * x[3];
        }
        while (x != end) sum += (*w++ >> 16) * *x++;
        total += sum >> drop;
        n -= now;
    }
    return total;
}

static int32_t log2_chunks(uint32_t n)
{
    int32_t bits = 0;
    while ((CHUNK << bits) < n) bits++;
    return bits;
}

static int32_t saturated(int64_t value)
{
    return value > INT32_MAX ? INT32_MAX : value < -INT32_MAX ? -INT32_MAX : (int32_t)value;
}

/* The layer's outputs to sums; returns their exponent, which has room for the biases. */
static int32_t forward_layer(const td_dense *layer, const scale *s, const int32_t *w, const int16_t *x, int32_t *sums)
{
    int32_t drop = log2_chunks(layer->n_in), exponent = s->weight + 16 + s->input + drop;
    if (exponent <= s->bias) {
        drop += s->bias + 1 - exponent;
        exponent = s->bias + 1;
    }
    if (drop > 31) drop = 31;
    const int32_t *bias = w + (size_t)layer->n_out * layer->n_in;
    for (uint32_t row = 0; row < layer->n_out; row++, w += layer->n_in) {
        int32_t add = shifted_within(bias[row], s->bias - exponent, INT32_MAX);
        int32_t sum = saturated((int64_t)dot(w, x, layer->n_in, drop) + add);
        sums[row] = sum < 0 && layer->activation == TD_ACT_RELU ? 0 : sum;
    }
    return exponent;
}

void td_fixed_forward(td_trainer *trainer, const float *x)
{
    const td_model *model = trainer->model;
    td_fixed *fixed = trainer->options->fixed;
    const int32_t *w = weights_of(trainer);
    int16_t *input = fixed->inputs;
    scale *s = fixed->scales;
    s->input = (int16_t)quantise(x, model->tail[0].n_in, TOP, input, &s->peak);
    for (uint32_t l = 0;; l++, s++) {
        const td_dense *layer = &model->tail[l];
        int32_t exponent = forward_layer(layer, s, w, input, fixed->sums);
        if (l + 1 == model->n_tail) {
            for (uint32_t i = 0; i < layer->n_out; i++) trainer->activations[i] = to_float(fixed->sums[i], exponent);
            return;
        }
        w += td_dense_parameters(layer);
        input += layer->n_in;
        s[1].input = (int16_t)narrow(fixed->sums, layer->n_out, exponent, TOP, input, &s[1].peak);
    }
}

/* dL/dx of a layer to sums, 0 where a ReLU held x at 0; returns its exponent. */
static int32_t backward_sums(const td_dense *layer, const scale *s, const int32_t *w, const int16_t *x, bool is_relu,
                             const int16_t *delta, int32_t exponent, int32_t *sums)
{
    int32_t right = DELTA_TOP - TOP;
    while ((uint32_t)layer->n_out > CHUNK << (right - (DELTA_TOP - TOP))) right++;
    int32_t most = (((int32_t)1 << DELTA_TOP) - 1) >> right;
    memset(sums, 0, layer->n_in * sizeof *sums);
    for (uint32_t row = 0; row < layer->n_out; row++, w += layer->n_in) {
        int32_t d = shifted_within(delta[row], -right, most);
        if (d == 0) continue;
        for (uint32_t i = 0; i < layer->n_in; i++) sums[i] += (w[i] >> 16) * d;
    }
    for (uint32_t i = 0; i < layer->n_in && is_relu; i++) {
        if (x[i] <= 0) sums[i] = 0;
    }
    return exponent + right + s->weight + 16;
}

static uint32_t largest_weight(const int32_t *w, uint32_t n)
{
    uint32_t largest = 0;
    for (uint32_t i = 0; i < n; i++) largest = larger(largest, magnitude(w[i]));
    return largest;
}

/* Makes room: the layer's weights count twice as much and are halved. */
static void halve_weights(const td_dense *layer, scale *s, int32_t *w, uint32_t *bounds)
{
    uint32_t n = (uint32_t)layer->n_in * layer->n_out;
    for (uint32_t i = 0; i < n; i++) w[i] = ((w[i] - HALF) >> 1) + HALF;
    for (uint32_t row = 0; row < layer->n_out; row++) bounds[row] = (bounds[row] >> 1) + HALF;
    s->weight++;
}

/* Whether `grow` more fits the row, with a bound that is made exact when it has to be. */
static bool has_room(const int32_t *w, uint32_t n, uint32_t grow, uint32_t *bound)
{
    if (*bound > (uint32_t)WEIGHT_MOST - grow) *bound = largest_weight(w, n);
    if (*bound > (uint32_t)WEIGHT_MOST - grow) return false;
    *bound += grow;
    return true;
}

static void add_row(int32_t *w, const int16_t *x, uint32_t n, int32_t step)
{
    const int16_t *end = x + n, *whole = x + (n & ~(uint32_t)3);
    for (; x != whole; x += 4, w += 4) {
        w[0] -= step * x[0];
        w[1] -= step * x[1];
        w[2] -= step * x[2];
        w[3] -= step * x[3];
    }
    while (x != end) *w++ -= step * *x++;
}

static void step_weights(const td_dense *layer, scale *s, int32_t *w, const int16_t *x, const int16_t *delta,
                         int32_t rate, int32_t exponent, uint32_t *bounds)
{
    uint32_t largest = 0, n_in = layer->n_in, peak = (uint32_t)s->peak;
    for (uint32_t row = 0; row < layer->n_out; row++) largest = larger(largest, magnitude(rate * delta[row]));
    int32_t *start = w;
    while (largest != 0 && s->weight < MAX_EXPONENT &&
           magnitude(shifted_within((int32_t)largest, exponent + s->input - s->weight, STEP_MOST)) == STEP_MOST) {
        halve_weights(layer, s, start, bounds);
    }
    for (uint32_t row = 0; row < layer->n_out; row++, w += n_in) {
        int32_t step = shifted_within(rate * delta[row], exponent + s->input - s->weight, STEP_MOST);
        while (step != 0 && !has_room(w, n_in, magnitude(step) * peak, &bounds[row])) {
            if (s->weight >= MAX_EXPONENT) {
                step = 0;
            } else {
                halve_weights(layer, s, start, bounds);
                step = shifted_within(rate * delta[row], exponent + s->input - s->weight, STEP_MOST);
            }
        }
        if (step != 0) add_row(w, x, n_in, step);
    }
}

static void halve_biases(scale *s, int32_t *bias, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) bias[i] >>= 1;
    s->bias++;
}

static void step_bias(scale *s, int32_t *bias, const int16_t *delta, uint32_t n, int32_t rate, int32_t exponent)
{
    for (uint32_t row = 0; row < n; row++) {
        int32_t moved, step = rate * delta[row];
        for (;;) {
            moved = shifted_within(step, exponent - s->bias, BIAS_STEP_MOST);
            bool is_whole = magnitude(moved) < BIAS_STEP_MOST;
            moved = bias[row] - moved;
            if ((is_whole && magnitude(moved) <= BIAS_MOST) || s->bias >= MAX_EXPONENT) break;
            halve_biases(s, bias, n);
        }
        bias[row] = shifted_within(moved, 0, BIAS_MOST);
    }
}

void td_fixed_backward(td_trainer *trainer, const float *delta)
{
    const td_model *model = trainer->model;
    td_fixed *fixed = trainer->options->fixed;
    sizes n = count(model);
    int16_t rate, peak;
    int32_t rate_exponent = quantise(&trainer->learning_rate, 1, DELTA_TOP, &rate, NULL);
    int32_t exponent = quantise(delta, n.outputs, DELTA_TOP, fixed->delta, NULL);
    int32_t *w = weights_of(trainer) + trainer->n_parameters;
    int16_t *x = fixed->inputs + n.inputs;
    uint32_t *bounds = fixed->bounds + n.rows;
    for (uint32_t l = model->n_tail; l-- > 0;) {
        const td_dense *layer = &model->tail[l];
        scale *s = &fixed->scales[l];
        int32_t down = 0;
        w -= td_dense_parameters(layer);
        x -= layer->n_in;
        bounds -= layer->n_out;
        if (l > 0) {
            bool is_relu = model->tail[l - 1].activation == TD_ACT_RELU;
            down = backward_sums(layer, s, w, x, is_relu, fixed->delta, exponent, fixed->sums);
        }
        step_weights(layer, s, w, x, fixed->delta, rate, exponent + rate_exponent, bounds);
        step_bias(s, w + (size_t)layer->n_out * layer->n_in, fixed->delta, layer->n_out, rate, exponent + rate_exponent);
        if (l > 0) exponent = narrow(fixed->sums, layer->n_in, down, DELTA_TOP, fixed->delta, &peak);
    }
}

/* --------------------------------------------------------------- parameters */
typedef struct place {
    uint32_t layer, index;      /* index in the layer */
    bool is_bias;
} place;

static place find(const td_model *model, uint32_t index)
{
    place found = {0, index, false};
    while (found.index >= td_dense_parameters(&model->tail[found.layer])) {
        found.index -= td_dense_parameters(&model->tail[found.layer]);
        found.layer++;
    }
    const td_dense *layer = &model->tail[found.layer];
    found.is_bias = found.index >= (uint32_t)layer->n_in * layer->n_out;
    return found;
}

float td_fixed_get(const td_trainer *trainer, uint32_t index)
{
    place at = find(trainer->model, index);
    const scale *s = &trainer->options->fixed->scales[at.layer];
    int32_t value = weights_of(trainer)[index];
    return at.is_bias ? to_float(value, s->bias) : to_float(value - HALF, s->weight);
}

/* Exponents grow with what is set: two bits stay free for training. */
void td_fixed_set(td_trainer *trainer, uint32_t index, float value)
{
    place at = find(trainer->model, index);
    const td_dense *layer = &trainer->model->tail[at.layer];
    scale *s = &trainer->options->fixed->scales[at.layer];
    uint32_t n_weights = (uint32_t)layer->n_in * layer->n_out, *bounds = trainer->options->fixed->bounds;
    int32_t *w = weights_of(trainer) + index - at.index, wanted = exponent_for(float_bits(value) & 0x7FFFFFFFu, 29);
    for (uint32_t l = 0; l < at.layer; l++) bounds += trainer->model->tail[l].n_out;
    if (wanted > MAX_EXPONENT) wanted = MAX_EXPONENT;
    if (at.index == 0) {
        s->weight = s->bias = MIN_EXPONENT;
        for (uint32_t i = 0; i < n_weights + layer->n_out; i++) w[i] = i < n_weights ? HALF : 0;
        for (uint32_t row = 0; row < layer->n_out; row++) bounds[row] = WEIGHT_MOST;
    }
    if (at.is_bias) {
        while (s->bias < wanted) halve_biases(s, w + n_weights, layer->n_out);
        w[at.index] = from_float(value, s->bias, (int32_t)1 << 29);
        return;
    }
    while (s->weight < wanted) halve_weights(layer, s, w, bounds);
    w[at.index] = from_float(value, s->weight, (int32_t)1 << 29) + HALF;
    bounds[at.index / layer->n_in] = WEIGHT_MOST;
}

static void load(td_trainer *trainer)
{
    uint32_t at = 0;
    for (uint32_t l = 0; l < trainer->model->n_tail; l++) {
        const td_dense *layer = &trainer->model->tail[l];
        const int8_t *stored = (const int8_t *)layer->weights;
        for (uint32_t row = 0; row < layer->n_out; row++) {
            float unit = td_get_f32(layer->scales + 4u * row);
            for (uint32_t i = 0; i < layer->n_in; i++) td_fixed_set(trainer, at++, unit * (float)*stored++);
        }
        for (uint32_t row = 0; row < layer->n_out; row++) td_fixed_set(trainer, at++, td_get_f32(layer->bias + 4u * row));
    }
}

void td_fixed_init(td_trainer *trainer, void *memory)
{
    sizes n = count(trainer->model);
    td_fixed *fixed = (td_fixed *)memory;
    trainer->options->fixed = fixed;
    fixed->scales = (scale *)(void *)((uint8_t *)memory + FIXED_SIZE);
    trainer->activations = (float *)(void *)(fixed->scales + trainer->model->n_tail);
    trainer->deltas = trainer->activations + n.outputs;
    fixed->bounds = (uint32_t *)(void *)(trainer->deltas + 2u * n.outputs); /* the outputs once more behind a ReLU */
    fixed->sums = (int32_t *)(void *)(fixed->bounds + n.rows);
    fixed->delta = (int16_t *)(void *)(fixed->sums + n.widest);
    fixed->inputs = fixed->delta + n.widest;
    load(trainer);
}
