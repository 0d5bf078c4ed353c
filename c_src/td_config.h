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

/* 1: the kernels of kernels_mve.h, for Arm cores with vectors of integers (Helium: Cortex-M55, M85). Same results, less
 * time, at most 2 KB more of stack. */
#ifndef TD_MVE
#if defined(__ARM_FEATURE_MVE) && defined(__OPTIMIZE__) && !defined(__ARM_BIG_ENDIAN)
#define TD_MVE 1
#else
#define TD_MVE 0
#endif
#endif

/* 1: 16-bit SIMD multiplication in the kernels of kernels_wide.h (Cortex-M4, M7, M33). Same results, less time. */
#ifndef TD_DSP
#if defined(__ARM_FEATURE_DSP) && !TD_MVE && defined(__OPTIMIZE__) && defined(__GNUC__) && !defined(__ARM_BIG_ENDIAN)
#define TD_DSP 1
#else
#define TD_DSP 0
#endif
#endif

/* 1: the kernels of kernels_wide.h, for cores with a dozen registers for arithmetic (Cortex-M3 and up). Same results, less
 * time, at most 1.5 KB more of stack and 3 KB of code. Little-endian only. */
#ifndef TD_WIDE
#if TD_DSP || (defined(__thumb2__) && !TD_MVE && defined(__OPTIMIZE__) && !defined(__ARM_BIG_ENDIAN))
#define TD_WIDE 1
#else
#define TD_WIDE 0
#endif
#endif

/* Rows of a part from which on the unpacker makes tables for whole bytes, of 2 KB each. Same rows, less time where rows
 * are many. */
#ifndef TD_MANY_ROWS
#define TD_MANY_ROWS 2048
#endif

/* 0: operators in float32 are refused (TD_E_UNSUPPORTED), and their kernels take no flash. */
#ifndef TD_HAVE_F32
#define TD_HAVE_F32 1
#endif

/* 0: of trainable tails only chains of dense layers; others are refused. */
#ifndef TD_HAVE_LAYERS
#define TD_HAVE_LAYERS 1
#endif

/* 0: packs of images are refused (TD_E_UNSUPPORTED), and the transform takes no flash. */
#ifndef TD_IMAGES
#define TD_IMAGES 1
#endif

/* 0: packs whose features went through transforms are refused, and what undoes these takes no flash. */
#ifndef TD_TRANSFORMS
#define TD_TRANSFORMS 1
#endif

/* 0: the trainer knows nothing but cross-entropy and SGD in place in f32, in less code; other settings are refused. */
#ifndef TD_TRAIN_OPTIONS
#define TD_TRAIN_OPTIONS 1
#endif

/* 0: no training in integers. */
#ifndef TD_TRAIN_FIXED
#define TD_TRAIN_FIXED TD_TRAIN_OPTIONS
#endif

/* 0: packs that are archives are refused with TD_E_UNSUPPORTED. */
#ifndef TD_ARCHIVE
#if UINTPTR_MAX > 0xFFFFFFFFu
#define TD_ARCHIVE 1
#else
#define TD_ARCHIVE 0
#endif
#endif

/* 1: functions may take 8 KB of stack for tables that make them faster. */
#ifndef TD_LARGE_STACK
#if UINTPTR_MAX > 0xFFFFFFFFu
#define TD_LARGE_STACK 1
#else
#define TD_LARGE_STACK 0
#endif
#endif

/* 0: leaves the int16 kernels out; a model that needs them is refused when it is opened. */
#ifndef TD_HAVE_INT16
#define TD_HAVE_INT16 1
#endif

/* 0: leaves SVDF and LSTM out; likewise. */
#ifndef TD_HAVE_RECURRENT
#define TD_HAVE_RECURRENT 1
#endif

#endif /* TD_CONFIG_H */
