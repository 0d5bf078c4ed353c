/* What a build may change. Every value has a default; define one on the compiler's command line. */
#ifndef TD_CONFIG_H
#define TD_CONFIG_H

/* 1: build 32 x 32 -> 64 bit products from 16-bit halves. Same results; pays where the core multiplies
 * 32 bits only and the compiler would call a 64 x 64 bit routine. */
#ifndef TD_NARROW_MULTIPLY
#if defined(__ARM_ARCH_6M__) || defined(__AVR__)
#define TD_NARROW_MULTIPLY 1
#else
#define TD_NARROW_MULTIPLY 0
#endif
#endif

#endif /* TD_CONFIG_H */
