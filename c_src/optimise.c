/* From gradients to parameters: l2, clipping, SGD, momentum and Adam over the mean gradient of a batch. */
#include "layers.h"
#include "train.h"

#if defined(__ARM_FP) && (__ARM_FP & 4)
float td_sqrtf(float x)
{
    __asm("vsqrt.f32 %0, %0" : "+t"(x));
    return x;
}
#else
/* Digit by digit: the 24 leading bits of the root and one to round by, of a radicand with an even exponent. */
float td_sqrtf(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (bits == 0 || bits >= 0x7F800000u) return x; /* 0, infinity and NaN */
    int32_t exponent = (int32_t)(bits >> 23);
    uint32_t mantissa = bits & 0x007FFFFFu;
    if (exponent != 0) mantissa |= 0x00800000u;
    else exponent = 1;
    for (; mantissa < 0x00800000u; mantissa <<= 1) exponent--;
    exponent -= 127;
    if (exponent & 1) mantissa <<= 1;
    exponent = (exponent - (exponent & 1)) / 2;
    /* root^2 <= mantissa * 2^25: two bits of the radicand for each bit of the root. */
    uint32_t root = 0, rest = 0;
    for (int i = 24; i >= 0; i--) {
        int down = 2 * i - 25; /* of the radicand's next two bits, counted in the mantissa */
        uint32_t two = down >= 0 ? mantissa >> down & 3u : down == -1 ? (mantissa & 1u) << 1 : 0u;
        rest = rest << 2 | two;
        uint32_t trial = root << 2 | 1u;
        root <<= 1;
        if (rest >= trial) {
            rest -= trial;
            root |= 1u;
        }
    }
    root = (root >> 1) + (root & 1u); /* never a tie: the root of 25 bits has no exact half */
    uint32_t result = ((uint32_t)(exponent + 126) << 23) + root;
    memcpy(&x, &result, sizeof x);
    return x;
}
#endif

float td_clip_factor(float squares, float clip)
{
    float length = td_sqrtf(squares);
    return length > clip ? clip / length : 1.0f;
}

/* The sums of a batch take in what l2 pulls at: n times, as they are of n steps. */
static void add_l2(td_trainer *trainer, float factor)
{
    const td_model *model = trainer->model;
    const float *parameters = trainer->parameters;
    float *gradient = trainer->options->gradient;
    if (TD_HAVE_LAYERS && model->has_layers) {
        td_layers_pull(model, parameters, gradient, factor);
        return;
    }
    for (uint32_t l = 0; l < model->n_tail; l++) {
        uint32_t n = td_dense_parameters(&model->tail[l]);
        td_dense_pull(&model->tail[l], parameters, gradient, factor);
        parameters += n;
        gradient += n;
    }
}

static float squares(const float *values, uint32_t n)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < n; i++) sum += values[i] * values[i];
    return sum;
}

static void clip_values(float *values, uint32_t n, float most)
{
    for (uint32_t i = 0; i < n; i++) {
        if (values[i] > most) values[i] = most;
        if (values[i] < -most) values[i] = -most;
    }
}

static void momentum(td_trainer *trainer, float factor)
{
    float keep = trainer->options->config.momentum, *moment = trainer->options->moments, *w = trainer->parameters;
    const float *gradient = trainer->options->gradient;
    for (uint32_t i = 0; i < trainer->n_parameters; i++) {
        moment[i] = keep * moment[i] - factor * gradient[i];
        w[i] += moment[i];
    }
}

static void adam(td_trainer *trainer, float factor)
{
    td_trainer_options *options = trainer->options;
    float *mean = options->moments, *square = mean + trainer->n_parameters, *w = trainer->parameters;
    float new_1 = 1.0f - options->config.momentum, new_2 = 1.0f - options->config.beta_2;
    options->power_1 *= options->config.momentum;
    options->power_2 *= options->config.beta_2;
    float rate = trainer->learning_rate * td_sqrtf(1.0f - options->power_2) / (1.0f - options->power_1);
    float epsilon = options->config.epsilon;
    for (uint32_t i = 0; i < trainer->n_parameters; i++) {
        float gradient = factor * options->gradient[i];
        mean[i] += new_1 * (gradient - mean[i]);
        square[i] += new_2 * (gradient * gradient - square[i]);
        w[i] -= rate * mean[i] / (td_sqrtf(square[i]) + epsilon);
    }
}

void td_optimise(td_trainer *trainer)
{
    td_trainer_options *options = trainer->options;
    float *gradient = options->gradient, steps = (float)options->n_steps, factor = 1.0f / steps;
    uint32_t n = trainer->n_parameters;
    if (options->config.l2 != 0.0f) add_l2(trainer, options->config.l2 * steps);
    if (options->config.clip_value != 0.0f) clip_values(gradient, n, options->config.clip_value * steps);
    if (options->config.clip_norm != 0.0f) {
        factor *= td_clip_factor(squares(gradient, n) * factor * factor, options->config.clip_norm);
    }
    if (options->config.optimizer == TD_OPTIMIZER_ADAM) adam(trainer, factor);
    else if (options->config.optimizer == TD_OPTIMIZER_MOMENTUM) momentum(trainer, trainer->learning_rate * factor);
    else td_add_scaled(trainer->parameters, gradient, -trainer->learning_rate * factor, n);
    memset(gradient, 0, (size_t)n * sizeof *gradient);
    options->n_steps = 0;
}
