/* Fine-tuning of the tail: one step from a sample to new parameters. */
#include "layers.h"
#include "train.h"

static const td_train_config defaults = {0};

/* Bytes of td_trainer_options where pointers are widest: host and board plan the same. */
#define OPTIONS_SIZE 88u
typedef char options_fit[sizeof(td_trainer_options) <= OPTIONS_SIZE ? 1 : -1];

static bool has_layers(const td_model *model)
{
    return TD_HAVE_LAYERS && model->has_layers;
}

static uint32_t widest(const td_model *model)
{
    uint32_t width = 0;
    for (uint32_t l = 0; l < model->n_tail; l++) {
        if (model->tail[l].n_out > width) width = model->tail[l].n_out;
    }
    return width;
}

static uint32_t count_parameters(const td_model *model)
{
    uint32_t n = 0;
    if (has_layers(model)) return td_layers_parameters(model);
    for (uint32_t l = 0; l < model->n_tail; l++) n += td_dense_parameters(&model->tail[l]);
    return n;
}

static uint32_t count_activations(const td_model *model)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < model->n_tail; l++) n += model->tail[l].n_out;
    return n;
}

static const td_dense *last_layer(const td_model *model)
{
    return &model->tail[model->n_tail - 1];
}

/* The loss overwrites the outputs, but whether a ReLU held one at 0 is needed later. */
static uint32_t count_kept(const td_model *model)
{
    return last_layer(model)->activation == TD_ACT_RELU ? last_layer(model)->n_out : 0;
}

/* ------------------------------------------------------------------- memory */
/* Clipping in place knows the gradient of a dense layer by its factors; what l2 adds is none of them. */
static bool needs_gradient(const td_model *model, const td_train_config *config)
{
    bool clips = config->clip_norm != 0.0f || config->clip_value != 0.0f;
    return config->batch > 1 || (has_layers(model) && clips) || config->optimizer != TD_OPTIMIZER_SGD ||
           (config->clip_norm != 0.0f && config->l2 != 0.0f);
}

static bool needs_options(const td_model *model, const td_train_config *config)
{
    return needs_gradient(model, config) || config->l2 != 0.0f || config->clip_norm != 0.0f || config->clip_value != 0.0f ||
           config->loss != TD_LOSS_CROSS_ENTROPY || config->precision != TD_PRECISION_F32 || config->keep_best;
}

static uint32_t count_moments(const td_train_config *config)
{
    return config->optimizer == TD_OPTIMIZER_ADAM ? 2u : config->optimizer == TD_OPTIMIZER_MOMENTUM ? 1u : 0u;
}

uint32_t td_trainer_size(const td_model *model, const td_train_config *config, td_trainer_parts *parts)
{
    if (!config || !TD_TRAIN_OPTIONS) config = &defaults;
    uint32_t n = count_parameters(model) * (uint32_t)sizeof(float), floats = 0;
    td_trainer_parts found;
    memset(&found, 0, sizeof found);
    if (parts) *parts = found;
    if (model->n_tail == 0) return 0;
    found.parameters = n;
    found.gradient = needs_gradient(model, config) ? n : 0;
    found.state = count_moments(config) * n;
    found.best = config->keep_best ? n : 0;
    found.activations = needs_options(model, config) ? OPTIONS_SIZE : 0;
    if (has_layers(model)) found.activations += td_layers_arena(model) + 4u * td_layers_outputs(model);
    else if (config->precision == TD_PRECISION_FIXED) found.activations += td_fixed_size(model);
    else floats += count_activations(model) + 2u * widest(model) + count_kept(model);
    found.activations += floats * (uint32_t)sizeof(float);
    if (parts) *parts = found;
    return found.parameters + found.gradient + found.state + found.best + found.activations;
}

static bool is_from_to(float value, float low, float high)
{
    return value >= low && value <= high;
}

static int check_config(const td_model *model, const td_train_config *config)
{
    if (model->n_tail == 0) return TD_E_UNSUPPORTED;
    if (!is_from_to(config->learning_rate, 0.0f, 1e6f)) return TD_E_ARGUMENT;
    if (!TD_TRAIN_OPTIONS) return needs_options(model, config) ? TD_E_UNSUPPORTED : TD_OK;
    if (!is_from_to(config->l2, 0.0f, 1e6f) || !is_from_to(config->clip_norm, 0.0f, 1e6f) ||
        !is_from_to(config->clip_value, 0.0f, 1e6f) || !is_from_to(config->epsilon, 0.0f, 1.0f) ||
        !(config->momentum >= 0.0f && config->momentum < 1.0f) || !(config->beta_2 >= 0.0f && config->beta_2 < 1.0f) ||
        config->loss > TD_LOSS_MEAN_SQUARE || config->optimizer > TD_OPTIMIZER_ADAM ||
        config->precision > TD_PRECISION_FIXED || config->keep_best > 1 || config->batch > 0xFFFFu ||
        (config->clip_norm != 0.0f && config->clip_value != 0.0f))
        return TD_E_ARGUMENT;
    if (config->loss == TD_LOSS_MEAN_SQUARE && model->ends_in_softmax) return TD_E_UNSUPPORTED;
    if (config->precision == TD_PRECISION_FIXED &&
        (!TD_TRAIN_FIXED || has_layers(model) || needs_gradient(model, config) || config->l2 != 0.0f ||
         config->clip_norm != 0.0f || config->clip_value != 0.0f))
        return TD_E_UNSUPPORTED;
    return TD_OK;
}

/* At `memory`, and behind the parameters; returns the next float there. */
static float *place_options(td_trainer *trainer, const td_train_config *config, void *memory, float *next)
{
    td_trainer_options *options = (td_trainer_options *)memory;
    uint32_t n = trainer->n_parameters, n_moments = count_moments(config) * n;
    trainer->options = options;
    memset(options, 0, sizeof *options);
    options->config = *config;
    if (config->momentum == 0.0f) options->config.momentum = 0.9f;
    if (config->beta_2 == 0.0f) options->config.beta_2 = 0.999f;
    if (config->epsilon == 0.0f) options->config.epsilon = 1e-7f;
    if (config->batch == 0) options->config.batch = 1;
    options->power_1 = options->power_2 = 1.0f;
    if (needs_gradient(trainer->model, config)) {
        options->gradient = next;
        options->moments = next + n;
        memset(next, 0, (size_t)(n + n_moments) * sizeof *next);
        next += n + n_moments;
    }
    if (config->keep_best) {
        options->best = next;
        next += n;
    }
    return next;
}

static void load_parameters(td_trainer *trainer)
{
    float *parameters = trainer->parameters;
    if (has_layers(trainer->model)) {
        td_layers_load(trainer->model, parameters);
        return;
    }
    for (uint32_t l = 0; l < trainer->model->n_tail; l++) {
        const td_dense *layer = &trainer->model->tail[l];
        td_dense_load(layer, parameters);
        parameters += td_dense_parameters(layer);
    }
}

static uint8_t *arena_of(const td_trainer *trainer)
{
    return (uint8_t *)(trainer->activations + td_layers_outputs(trainer->model));
}

/* Memory: options, what fixed point needs, parameters, gradient, moments, best, activations, deltas, kept outputs. */
int td_trainer_init(td_trainer *trainer, const td_model *model, const td_train_config *config,
                    void *memory, uint32_t size)
{
    int status = check_config(model, config);
    if (status != TD_OK) return status;
    if (size < td_trainer_size(model, config, NULL)) return TD_E_MEMORY;
    memset(trainer, 0, sizeof *trainer);
    trainer->model = model;
    trainer->learning_rate = config->learning_rate == 0.0f ? 0.05f : config->learning_rate;
    trainer->n_parameters = count_parameters(model);
    bool is_optional = TD_TRAIN_OPTIONS && needs_options(model, config);
    bool is_fixed = config->precision == TD_PRECISION_FIXED;
    uint8_t *fixed = (uint8_t *)memory + (is_optional ? OPTIONS_SIZE : 0);
    trainer->parameters = (float *)(void *)(fixed + (is_fixed ? td_fixed_size(model) : 0));
    float *next = trainer->parameters + trainer->n_parameters;
    if (is_optional) next = place_options(trainer, config, memory, next);
    if (TD_TRAIN_FIXED && is_fixed) {
        td_fixed_init(trainer, fixed);
        return TD_OK;
    }
    trainer->activations = next;
    trainer->deltas = has_layers(model) ? td_layers_delta(model, arena_of(trainer))
                                        : trainer->activations + count_activations(model);
    load_parameters(trainer);
    return TD_OK;
}

static td_trainer_options *options_of(const td_trainer *trainer)
{
    return TD_TRAIN_OPTIONS ? trainer->options : NULL;
}

static bool is_fixed(const td_trainer *trainer)
{
    return TD_TRAIN_FIXED && trainer->options && trainer->options->fixed;
}

static uint8_t loss_of(const td_trainer *trainer)
{
    return options_of(trainer) ? options_of(trainer)->config.loss : TD_LOSS_CROSS_ENTROPY;
}

/* Room for the last layer's outputs, where a ReLU makes them. */
static float *kept(const td_trainer *trainer)
{
    return trainer->deltas + (is_fixed(trainer) ? last_layer(trainer->model)->n_out : 2u * widest(trainer->model));
}

void td_trainer_reset_range(td_trainer *trainer)
{
    trainer->logit_min = 0.0f;
    trainer->logit_max = 0.0f;
}

/* ------------------------------------------------------------------ forward */
static uint32_t n_outputs(const td_trainer *trainer)
{
    return has_layers(trainer->model) ? td_layers_outputs(trainer->model) : last_layer(trainer->model)->n_out;
}

static uint32_t largest(const float *values, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        if (values[i] > values[best]) best = i;
    }
    return best;
}

/* Leaves the layers' outputs in activations, the last as logits; returns the last layer's outputs. */
static float *forward_layers(td_trainer *trainer, const float *x)
{
    const td_model *model = trainer->model;
    const float *parameters = trainer->parameters;
    float *y = trainer->activations;
    for (uint32_t l = 0;; l++) {
        const td_dense *layer = &model->tail[l];
        td_dense_forward(layer, parameters, x, y);
        if (l + 1 == model->n_tail) return y;
        parameters += td_dense_parameters(layer);
        x = y;
        y += layer->n_out;
    }
}

static float *outputs(const td_trainer *trainer)
{
    uint32_t skipped = is_fixed(trainer) || has_layers(trainer->model) ? 0 : count_activations(trainer->model) - n_outputs(trainer);
    return trainer->activations + skipped;
}

const float *td_trainer_outputs(const td_trainer *trainer)
{
    return outputs(trainer);
}

static float *forward(td_trainer *trainer, const float *x)
{
    float *y;
    if (is_fixed(trainer)) {
        td_fixed_forward(trainer, x);
        y = trainer->activations;
    } else if (has_layers(trainer->model)) {
        y = trainer->activations; /* a copy: the loss overwrites it */
        memcpy(y, td_layers_forward(trainer->model, trainer->parameters, arena_of(trainer), x),
               (size_t)n_outputs(trainer) * sizeof *y);
    } else {
        y = forward_layers(trainer, x);
    }
    for (uint32_t i = 0, n = n_outputs(trainer); i < n; i++) {
        if (y[i] < trainer->logit_min) trainer->logit_min = y[i];
        if (y[i] > trainer->logit_max) trainer->logit_max = y[i];
    }
    return y;
}

static int predict(td_trainer *trainer, const float *x, const td_target *target, float *loss)
{
    float *y = forward(trainer, x);
    int predicted = (int)largest(y, n_outputs(trainer));
    if (loss) *loss = td_loss_value(loss_of(trainer), y, n_outputs(trainer), target);
    return predicted;
}

int td_trainer_predict(td_trainer *trainer, const float *x, uint32_t label, float *loss)
{
    td_target target = {NULL, label};
    if (loss && label >= n_outputs(trainer)) return TD_E_RANGE;
    return predict(trainer, x, &target, loss);
}

int td_trainer_predict_to(td_trainer *trainer, const float *x, const float *targets, float *loss)
{
    td_target target = {targets, 0};
    return predict(trainer, x, &target, loss);
}

/* ----------------------------------------------------------------- backward */
/* A ReLU that holds an output at 0 passes nothing on. */
static void through_activation(const td_dense *layer, const float *y, float *delta)
{
    if (layer->activation != TD_ACT_RELU) return;
    for (uint32_t i = 0; i < layer->n_out; i++) {
        if (!(y[i] > 0.0f)) delta[i] = 0.0f;
    }
}

/* Without where the gradient goes (into: NULL) only its squared length is wanted. y: the last layer's outputs. */
static float backward(td_trainer *trainer, const float *x, const float *y, float *into)
{
    const td_model *model = trainer->model;
    const td_trainer_options *options = options_of(trainer);
    bool in_place = into == trainer->parameters;
    float clip = in_place && options ? options->config.clip_value : 0.0f, l2 = options ? options->config.l2 : 0.0f;
    float factor = in_place ? -trainer->learning_rate : 1.0f;
    float decay = in_place ? l2 * trainer->learning_rate : 0.0f;
    uint32_t at = trainer->n_parameters;
    if (has_layers(model)) {
        td_layers_backward(model, trainer->parameters, arena_of(trainer), x, into, factor, decay);
        return 0.0f;
    }
    float *delta = trainer->deltas, *spare = trainer->deltas + widest(model), squares = 0.0f;
    for (uint32_t l = model->n_tail; l-- > 0;) {
        const td_dense *layer = &model->tail[l];
        at -= td_dense_parameters(layer);
        float *parameters = trainer->parameters + at, *down = l == 0 ? NULL : spare;
        const float *input = l == 0 ? x : y - model->tail[l - 1].n_out;
        float *target = into && clip == 0.0f ? into + at : NULL;
        if (!into) squares += td_dense_norm(layer, input, delta);
        td_dense_backward(layer, parameters, input, delta, down, target, factor, decay);
        if (clip != 0.0f) {
            td_dense_step_clipped(layer, parameters, input, delta, trainer->learning_rate, l2, clip);
        }
        if (l == 0) break;
        y = input;
        through_activation(&model->tail[l - 1], y, spare);
        spare = delta;
        delta = down;
    }
    return squares;
}

/* Gradient at the last layer's outputs. */
static void start_backward(td_trainer *trainer, const float *y, const td_target *target, float weight)
{
    td_loss_delta(loss_of(trainer), y, n_outputs(trainer), target, weight, trainer->deltas);
    if (!has_layers(trainer->model)) through_activation(last_layer(trainer->model), kept(trainer), trainer->deltas);
}

static void add_step(td_trainer *trainer, const float *x, const float *y, const td_target *target, float weight)
{
    td_trainer_options *options = options_of(trainer);
    start_backward(trainer, y, target, weight);
    if (is_fixed(trainer)) {
        td_fixed_backward(trainer, trainer->deltas);
    } else if (!options || !options->gradient) {
        if (options && options->config.clip_norm != 0.0f) {
            /* The gradient is linear in what the loss hands down: clipping that clips all of it. */
            weight *= td_clip_factor(backward(trainer, x, y, NULL), options->config.clip_norm);
            start_backward(trainer, y, target, weight);
        }
        backward(trainer, x, y, trainer->parameters);
    } else {
        backward(trainer, x, y, options->gradient);
        if (++options->n_steps == options->config.batch) td_optimise(trainer);
    }
}

static int step(td_trainer *trainer, const float *x, const td_target *target, float weight, float *loss)
{
    float *y = forward(trainer, x);
    int predicted = (int)largest(y, n_outputs(trainer));
    if (!has_layers(trainer->model) && last_layer(trainer->model)->activation == TD_ACT_RELU) {
        memcpy(kept(trainer), y, (size_t)n_outputs(trainer) * sizeof *y);
    }
    *loss = td_loss_value(loss_of(trainer), y, n_outputs(trainer), target);
    add_step(trainer, x, y, target, weight);
    return predicted;
}

int td_trainer_step(td_trainer *trainer, const float *x, uint32_t label, float weight, float *loss)
{
    td_target target = {NULL, label};
    if (label >= n_outputs(trainer)) return TD_E_RANGE;
    return step(trainer, x, &target, weight, loss);
}

int td_trainer_step_to(td_trainer *trainer, const float *x, const float *targets, float weight, float *loss)
{
    td_target target = {targets, 0};
    return step(trainer, x, &target, weight, loss);
}

void td_trainer_flush(td_trainer *trainer)
{
    if (options_of(trainer) && trainer->options->n_steps) td_optimise(trainer);
}

/* --------------------------------------------------------------- parameters */
void td_trainer_get(const td_trainer *trainer, uint32_t first, uint32_t n, float *values)
{
    for (uint32_t i = 0; i < n; i++) {
        values[i] = is_fixed(trainer) ? td_fixed_get(trainer, first + i) : trainer->parameters[first + i];
    }
}

void td_trainer_set(td_trainer *trainer, uint32_t first, uint32_t n, const float *values)
{
    for (uint32_t i = 0; i < n; i++) {
        if (is_fixed(trainer)) td_fixed_set(trainer, first + i, values[i]);
        else trainer->parameters[first + i] = values[i];
    }
}

bool td_trainer_is_finite(const td_trainer *trainer)
{
    for (uint32_t i = 0; i < trainer->n_parameters && !is_fixed(trainer); i++) {
        if (!(trainer->parameters[i] - trainer->parameters[i] == 0.0f)) return false;
    }
    return true;
}

int td_trainer_keep(td_trainer *trainer)
{
    if (!options_of(trainer) || !trainer->options->best) return TD_E_STATE;
    td_trainer_get(trainer, 0, trainer->n_parameters, trainer->options->best);
    return TD_OK;
}

int td_trainer_restore(td_trainer *trainer)
{
    if (!options_of(trainer) || !trainer->options->best) return TD_E_STATE;
    td_trainer_set(trainer, 0, trainer->n_parameters, trainer->options->best);
    return TD_OK;
}
