/* Internal: the trainable tail as layers (docs/SPEC.md, "Tail"), in f32. */
#ifndef TD_LAYERS_H
#define TD_LAYERS_H

#include "kernels_f32.h"

enum { TD_LAYER_RECORD = 56, TD_LAYER_EMBEDDING = 0 /* as the number of an input; layer n has the number n + 1 */ };
#define TD_NO_GRADIENT 0xFFFFFFFFu

/* One record, read. Maps are without data; model->layers[-4..] holds the size of the training arena. */
typedef struct td_layer {
    td_op_f32 op;               /* without filters in RAM */
    td_map in, out;             /* shapes; the second input of TD_OP_ADD has the output's */
    uint32_t input, input_b;    /* numbers */
    uint32_t n_weights;         /* trained ones */
    uint32_t n_biases;
    uint32_t output_at;         /* bytes in the training arena */
    uint32_t gradient_at;       /* the same, or TD_NO_GRADIENT: nothing in front of it trains */
} td_layer;

/* Layer `index` of a model that was opened. */
td_layer td_layer_read(const td_model *model, uint32_t index);
/* TD_OK, TD_E_FORMAT, or TD_E_UNSUPPORTED for a kind of layer that is not here: nothing that the functions below do
 * with the layer leaves the file or the training arena. The layers before it were checked. */
int td_layer_check(const td_model *model, uint32_t index, uint32_t arena_size);

uint32_t td_layers_parameters(const td_model *model);
uint32_t td_layers_outputs(const td_model *model);
/* Bytes of the training arena: outputs of the layers, and gradients at them. */
uint32_t td_layers_arena(const td_model *model);
/* The trained filters and biases as the file has them. */
void td_layers_load(const td_model *model, float *parameters);
/* arena: td_layers_arena bytes. Returns the last layer's outputs. */
float *td_layers_forward(const td_model *model, const float *parameters, uint8_t *arena, const float *x);
/* Where dL/d(last outputs) belongs. */
float *td_layers_delta(const td_model *model, uint8_t *arena);
/* After td_layers_forward, with td_layers_delta filled: adds factor * dL/dparameters to `into`, which may be the
 * parameters themselves; weights are also pulled back by `decay`. */
void td_layers_backward(const td_model *model, const float *parameters, uint8_t *arena, const float *x, float *into,
                        float factor, float decay);
/* into += factor * (weights - weights before training), the biases left out. */
void td_layers_pull(const td_model *model, const float *parameters, float *into, float factor);

#endif /* TD_LAYERS_H */
