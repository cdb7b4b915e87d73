// The widest float vectors of this processor, as GCC and clang spell them on every processor.
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef float loose_vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

typedef int32_t bits_vec __attribute__((vector_size(LANES * 4)));

#define LOAD(p) ((vec)(*(const loose_vec *)(p)))
#define STORE(p, v) (*(loose_vec *)(p) = (v))
#define INLINE static inline __attribute__((always_inline))
