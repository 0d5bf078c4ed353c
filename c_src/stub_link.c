/* Stub while link.c is written. */
#include "td.h"
void td_receiver_init(td_receiver *a){(void)a;} int td_receiver_byte(td_receiver *a, uint8_t b, td_frame *f){(void)a;(void)b;(void)f;return TD_E_UNSUPPORTED;}
int td_frame_encode(const td_frame *f, uint8_t *o, size_t c){(void)f;(void)o;(void)c;return TD_E_UNSUPPORTED;}
void td_server_init(td_server *s){(void)s;} int td_server_receive(td_server *s,const td_frame *f){(void)s;(void)f;return 0;}
int td_server_reply(td_server *s,const uint8_t *p,size_t n){(void)s;(void)p;(void)n;return 0;} void td_client_init(td_client *c,uint32_t s){(void)c;(void)s;}
int td_client_request(td_client *c,const uint8_t*p,size_t n,uint8_t*o,size_t k){(void)c;(void)p;(void)n;(void)o;(void)k;return 0;}
int td_client_receive(td_client *c,const td_frame *f){(void)c;(void)f;return 0;}
