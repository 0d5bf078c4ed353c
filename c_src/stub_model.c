/* Stub while model.c is written. */
#include "td.h"
int td_model_open(td_model *m, const uint8_t *d, uint32_t n){(void)m;(void)d;(void)n;return TD_E_UNSUPPORTED;}
int td_model_run(const td_model *m, uint8_t *a, uint32_t n){(void)m;(void)a;(void)n;return TD_E_UNSUPPORTED;}
