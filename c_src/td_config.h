/* What a build may change. Every value has a default; define one on the compiler's command line. */
#ifndef TD_CONFIG_H
#define TD_CONFIG_H

/* Largest n_features of a pack this build opens; bounds stack use of the row readers. */
#ifndef TD_MAX_ROW
#define TD_MAX_ROW 4096
#endif

#endif /* TD_CONFIG_H */
