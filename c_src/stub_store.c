/* Stub while store.c is written. */
#include "td.h"
int td_store_init(td_store *s, const td_flash *f, const uint32_t c[TD_N_OBJECTS]){(void)s;(void)f;(void)c;return TD_E_UNSUPPORTED;}
int td_store_begin(td_store *s, int o, uint32_t n, uint32_t c, uint32_t q, uint32_t *r){(void)s;(void)o;(void)n;(void)c;(void)q;(void)r;return TD_E_UNSUPPORTED;}
int td_store_write(td_store *s, uint32_t o, const uint8_t *b, uint32_t n){(void)s;(void)o;(void)b;(void)n;return TD_E_UNSUPPORTED;}
int td_store_commit(td_store *s){(void)s;return TD_E_UNSUPPORTED;}
int td_store_get(const td_store *s, int o, td_section *x, uint32_t *q){(void)s;(void)o;(void)x;(void)q;return TD_E_UNSUPPORTED;}
int td_store_erase(td_store *s, int o){(void)s;(void)o;return TD_E_UNSUPPORTED;}
