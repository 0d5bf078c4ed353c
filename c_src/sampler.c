/* The sampler: which sample or row an epoch shows next, of the training set and the replay set. */
#include "parts.h"

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

static int sample_weight(td_pack *pack, uint32_t sample, float *weight)
{
    uint32_t first, count;
    int status = td_pack_sample_rows(pack, sample, &first, &count);
    if (status != TD_OK) return status;
    *weight = td_sample_weight(pack, sample, count);
    return TD_OK;
}

/* Which row or sample stands at place i of all; those from n_train on are held back. */
static uint32_t place(const td_sampler *sampler, uint32_t i)
{
    if (sampler->n_held == 0) return i;
    return permute(i, sampler->n_train + sampler->n_held, mix(sampler->config.seed));
}

static int weigh(td_sampler *sampler, float *total)
{
    float weight = 0.0f;
    *total = 0.0f;
    for (uint32_t i = 0; i < sampler->n_train; i++) {
        int status = sample_weight(sampler->train, place(sampler, i), &weight);
        if (status != TD_OK) return status;
        *total += weight;
    }
    return TD_OK;
}

int td_sampler_init(td_sampler *sampler, td_pack *train, td_pack *replay, const td_sampler_config *config)
{
    if (config->mode > TD_MODE_STRATIFIED || !(config->replay >= 0.0f) || config->replay > 1e6f ||
        !(config->held_back >= 0.0f && config->held_back < 1.0f))
        return TD_E_ARGUMENT;
    if (config->replay == 0.0f) replay = NULL;
    if (replay && (replay->n_features != train->n_features || replay->scale != train->scale ||
                   replay->zero_point != train->zero_point))
        return TD_E_RANGE;
    bool full = config->mode == TD_MODE_FULL;
    uint32_t n = full ? train->n_rows : train->n_samples;
    sampler->train = train;
    sampler->replay = replay;
    sampler->config = *config;
    sampler->n_held = (uint32_t)(config->held_back * (float)n);
    if (sampler->n_held >= n) return TD_E_RANGE;
    sampler->n_train = n - sampler->n_held;
    sampler->n_replay = replay ? replay->n_samples : 0;
    float share = (float)td_sampler_size(sampler) / (1.0f + (replay ? config->replay : 0.0f));
    float total = full ? (float)sampler->n_train : td_pack_total_weight(train);
    if (!full && sampler->n_held) {
        int status = weigh(sampler, &total);
        if (status != TD_OK) return status;
        if (!(total >= 1e-6f)) return TD_E_RANGE; /* open has seen to it for all samples, not for those that are left */
    }
    sampler->train_scale = share / total;
    sampler->replay_scale = replay ? share * config->replay / td_pack_total_weight(replay) : 0.0f;
    return TD_OK;
}

/* Real values of one row of the training set. */
static int get_row(td_pack *pack, uint32_t index, int32_t *row, float *x, uint32_t *label)
{
    int status = td_pack_stored_row(pack, index, row, label);
    if (status != TD_OK) return status;
    for (uint32_t f = 0; f < pack->n_features; f++) x[f] = pack->scale * ((float)row[f] - (float)pack->zero_point);
    return TD_OK;
}

static int draw_row(td_pack *pack, uint32_t sample, uint32_t key, int32_t *row, float *x, uint32_t *label, float *weight)
{
    uint32_t first, count;
    int status = td_pack_sample_rows(pack, sample, &first, &count);
    if (status != TD_OK) return status;
    *weight = td_sample_weight(pack, sample, count);
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
    i = place(sampler, i);
    *weight = 1.0f;
    if (sampler->config.mode == TD_MODE_FULL) status = get_row(sampler->train, i, row, x, label);
    else if (sampler->config.mode == TD_MODE_STRATIFIED) status = draw_row(sampler->train, i, key, row, x, label, weight);
    else status = td_pack_sample(sampler->train, i, row, x, label, weight);
    *weight *= sampler->train_scale;
    return status;
}

int td_sampler_held(td_sampler *sampler, uint32_t i, int32_t *row, float *x, uint32_t *label, float *weight)
{
    if (i >= sampler->n_held) return TD_E_RANGE;
    i = place(sampler, sampler->n_train + i);
    *weight = 1.0f;
    return sampler->config.mode == TD_MODE_FULL ? get_row(sampler->train, i, row, x, label)
                                                : td_pack_sample(sampler->train, i, row, x, label, weight);
}
