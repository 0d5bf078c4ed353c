/* The sampler: which sample or row an epoch shows next, of the training set and the replay set. */
#include "td_internal.h"

int td_sampler_init(td_sampler *sampler, td_pack *train, td_pack *replay, const td_sampler_config *config)
{
    if (config->mode > TD_MODE_STRATIFIED || !(config->replay >= 0.0f) || config->replay > 1e6f) return TD_E_ARGUMENT;
    if (config->replay == 0.0f) replay = NULL;
    if (replay && (replay->n_features != train->n_features || replay->scale != train->scale ||
                   replay->zero_point != train->zero_point))
        return TD_E_RANGE;
    bool full = config->mode == TD_MODE_FULL;
    sampler->train = train;
    sampler->replay = replay;
    sampler->config = *config;
    sampler->n_train = full ? train->n_rows : train->n_samples;
    sampler->n_replay = replay ? replay->n_samples : 0;
    float share = (float)td_sampler_size(sampler) / (1.0f + (replay ? config->replay : 0.0f));
    sampler->train_scale = share / (full ? (float)train->n_rows : train->total_weight);
    sampler->replay_scale = replay ? share * config->replay / replay->total_weight : 0.0f;
    return TD_OK;
}

uint32_t td_sampler_size(const td_sampler *sampler)
{
    return sampler->n_train + sampler->n_replay;
}

static uint32_t mix(uint32_t value)
{
    value ^= value >> 16;
    value *= 0x7FEB352Du;
    value ^= value >> 15;
    value *= 0x846CA68Bu;
    return value ^ value >> 16;
}

/* A permutation of 0..n-1 without memory: rounds of odd multiply, add and shift are a bijection of
 * 2^k >= n numbers; numbers from n on are sent round again until one below n comes out. */
static uint32_t permute(uint32_t i, uint32_t n, uint32_t key)
{
    uint32_t bits = 1;
    while (bits < 31 && ((uint32_t)1 << bits) < n) bits++;
    uint32_t all = ((uint32_t)1 << bits) - 1u, shift = bits / 2u + 1u;
    do {
        for (uint32_t round = 0; round < 4; round++) {
            uint32_t k = mix(key + round);
            i = (i * (k | 1u) + (k >> 8)) & all;
            i ^= i >> shift;
        }
    } while (i >= n);
    return i;
}

/* Real values of one row of the training set. */
static int get_row(td_pack *pack, uint32_t index, int32_t *row, float *x, uint32_t *label)
{
    int status = td_pack_row(pack, index, row, label);
    if (status != TD_OK) return status;
    for (uint32_t f = 0; f < pack->n_features; f++) x[f] = pack->scale * ((float)row[f] - (float)pack->zero_point);
    return TD_OK;
}

static int draw_row(td_pack *pack, uint32_t sample, uint32_t key, int32_t *row, float *x, uint32_t *label, float *weight)
{
    uint32_t first, count;
    int status = td_pack_sample_rows(pack, sample, &first, &count);
    if (status != TD_OK) return status;
    *weight = pack->weights ? td_get_f32(pack->weights + 4u * (size_t)sample) : (float)count;
    return get_row(pack, first + mix(key + sample) % count, row, x, label);
}

int td_sampler_get(td_sampler *sampler, uint32_t epoch, uint32_t i, int32_t *row, float *x,
                   uint32_t *label, float *weight)
{
    uint32_t n = td_sampler_size(sampler), key = mix(sampler->config.seed ^ mix(epoch + 1u));
    if (i >= n) return TD_E_RANGE;
    int status;
    i = permute(i, n, key);
    if (i >= sampler->n_train) {
        status = td_pack_sample(sampler->replay, i - sampler->n_train, row, x, label, weight);
        *weight *= sampler->replay_scale;
        return status;
    }
    *weight = 1.0f;
    if (sampler->config.mode == TD_MODE_FULL) status = get_row(sampler->train, i, row, x, label);
    else if (sampler->config.mode == TD_MODE_STRATIFIED) status = draw_row(sampler->train, i, key, row, x, label, weight);
    else status = td_pack_sample(sampler->train, i, row, x, label, weight);
    *weight *= sampler->train_scale;
    return status;
}
