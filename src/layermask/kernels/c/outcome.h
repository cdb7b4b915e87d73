// What a kernel returns; the loader makes exceptions of it. Kernels never end the process.
#pragma once
#include <stdint.h>

enum { DONE, OUT_OF_MEMORY, BAD_INDEX, TOO_LARGE, BAD_RINGS };

// Whether all entries of a table lie in [low, high).
static inline int within(const int32_t *table, long count, long low, long high) {
  int32_t least = INT32_MAX, most = INT32_MIN;
  for (long i = 0; i < count; i++) {
    least = table[i] < least ? table[i] : least;
    most = table[i] > most ? table[i] : most;
  }
  return !count || (least >= low && most < high);
}

// Whether rows of images that follow each other begin at these places, of `rows` rows in all.
static inline int in_order(const int64_t *begins, long images, long rows) {
  for (long n = 0; n < images; n++)
    if (begins[n] > begins[n + 1]) return 0;
  return begins[0] >= 0 && begins[images] <= rows;
}
