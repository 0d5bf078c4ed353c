/* Internal: the f32 kernels of float models and of the trainable tail, forwards and backwards. model.c checks every
 * geometry before a kernel runs. One order of summation, single rounding of each product and sum: host and board
 * agree to the bit. */
#ifndef TD_KERNELS_F32_H
#define TD_KERNELS_F32_H

#include "kernels.h"

/* An f32 activation, height x width x channels, channels innermost. */
typedef struct td_map {
    float *data;
    int32_t h, w, c;
} td_map;

/* The filters of a layer, one for each output channel: kernel_h x kernel_w x (input channels, or 1). Those of the
 * channels from `first` on lie in RAM, where they can be trained; those before it in the file, as f32, or as int8 with
 * one scale a channel. Biases likewise. */
typedef struct td_filters {
    int32_t size;               /* values of one filter */
    int32_t first, first_bias;  /* the number of channels: none in RAM */
    const float *trained;       /* filter `first` */
    const float *trained_bias;
    const float *stored;        /* filter 0 in the file; NULL: it is int8 */
    const int8_t *small;
    const uint8_t *scales;      /* f32 a channel, of int8 */
    const uint8_t *bias;        /* f32 a channel; NULL: zeros */
} td_filters;

typedef struct td_op_f32 {
    uint32_t kind;              /* enum td_op_kind; TD_OP_TABLE: `activation` of each value */
    uint32_t activation;        /* enum td_activation: fused, or of TD_OP_TABLE */
    td_axis y, x;
    float parameter;            /* slope of TD_ACT_LEAKY_RELU, beta of TD_OP_SOFTMAX */
    td_filters filters;
} td_op_f32;

/* out = op(a), or op(a, b) of TD_OP_ADD, TD_OP_SUB and TD_OP_MUL, where a dimension of 1 goes with any size of the
 * other input. b may be NULL elsewhere. */
void td_forward_f32(const td_op_f32 *op, const td_map *a, const td_map *b, const td_map *out);

/* Backwards, through one operator after another; not through TD_OP_SUB, TD_OP_MUL and TD_OP_SOFTMAX. `gradient` is
 * dL/d(out), out is what the forward pass left there. */

/* In place: the gradient before the fused activation. First of all. */
void td_mask_f32(const td_op_f32 *op, const td_map *out, const td_map *gradient);
/* Adds dL/da to `down`, which has the shape of a. Of TD_OP_ADD both inputs have the output's shape, and each takes the
 * gradient as it is. */
void td_down_f32(const td_op_f32 *op, const td_map *a, const td_map *out, const td_map *gradient, const td_map *down);
/* Adds factor * dL/dfilter of the channels from filters.first on to `filters`, and factor * dL/dbias of those from
 * filters.first_bias on to `bias`. TD_OP_CONV, TD_OP_DENSE and TD_OP_DEPTHWISE. */
void td_gradient_f32(const td_op_f32 *op, const td_map *a, const td_map *gradient, float factor, float *filters,
                     float *bias);

#endif /* TD_KERNELS_F32_H */
