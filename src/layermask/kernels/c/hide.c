/* One number at every hidden cell, in place: what a max pool is not to see, or what it must not leave behind. */
#include "halves.h"
#include "outcome.h"

#define HIDE(name, type)                                                                                        \
  static void name(type *value, const uint8_t *visible, long channels, long step, const long *size,             \
                   const long *stride, type number) {                                                           \
    long flat = stride[2] == 1 && stride[1] == size[2] && (size[0] == 1 || stride[0] == size[1] * size[2]);     \
    long depth = flat ? 1 : size[0], height = flat ? 1 : size[1];                                               \
    long width = flat ? size[0] * size[1] * size[2] : size[2];                                                  \
    for (long z = 0; z < depth; z++)                                                                            \
      for (long y = 0; y < height; y++) {                                                                       \
        const uint8_t *restrict seen = visible + (z * size[1] + y) * size[2];                                   \
        type *restrict row = value + z * stride[0] + y * stride[1];                                             \
        if (step == 1 && !flat) {                                                                               \
          for (long x = 0; x < width; x++)                                                                      \
            if (!seen[x])                                                                                       \
              for (long c = 0; c < channels; c++) row[x * stride[2] + c] = number;                              \
        } else                                                                                                  \
          for (long c = 0; c < channels; c++, row += step) {                                                    \
            if (stride[2] == 1)                                                                                 \
              for (long x = 0; x < width; x++) row[x] = seen[x] ? row[x] : number;                              \
            else                                                                                                \
              for (long x = 0; x < width; x++)                                                                  \
                if (!seen[x]) row[x * stride[2]] = number;                                                      \
          }                                                                                                     \
      }                                                                                                         \
  }
HIDE(hide_16, uint16_t)
HIDE(hide_32, uint32_t)
HIDE(hide_64, uint64_t)

/* `value` (images, channels, depth, height, width) of the given strides (in entries) and kind (as in fill.c);
   `visible`: one map per image, or one. */
long hide_values(void *value, long kind, long step_n, long step_c, long step_d, long step_h, long step_w,
                 const uint8_t *visible, long images, long channels, long depth, long height, long width, long maps,
                 double number, long threads) {
  static const long widths[] = {4, 8, 2, 2};
  const long size[3] = {depth, height, width}, stride[3] = {step_d, step_h, step_w};
  long cells = depth * height * width;
  float narrow = (float)number;
  uint64_t wide;
  memcpy(&wide, &number, 8);
  if (!channels || !cells) return DONE;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long n = 0; n < images; n++) {
    const uint8_t *seen = visible + (maps == 1 ? 0 : n * cells);
    void *at = (char *)value + n * step_n * widths[kind];
    switch (kind) {
      case 0: hide_32(at, seen, channels, step_c, size, stride, bits_of(narrow)); break;
      case 1: hide_64(at, seen, channels, step_c, size, stride, wide); break;
      case 2: hide_16(at, seen, channels, step_c, size, stride, to_bfloat(narrow)); break;
      default: hide_16(at, seen, channels, step_c, size, stride, to_half(narrow));
    }
  }
  return DONE;
}
