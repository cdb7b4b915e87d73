/* One number at every hidden cell, in place: what a max pool is not to see, or what it must not leave behind. */
#include <stdint.h>

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

/* `value` (images, channels, *size) of the given strides (in entries); `visible`: one map per image, or one. */
void hide_values(void *value, long bytes, const uint8_t *visible, long maps, long images, long channels,
                 const long *size, const long *stride, const void *number, long threads) {
  long cells = size[0] * size[1] * size[2];
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long n = 0; n < images; n++) {
    const uint8_t *seen = visible + (maps == 1 ? 0 : n * cells);
    char *at = (char *)value + n * stride[0] * bytes;
    if (bytes == 2) hide_16((uint16_t *)at, seen, channels, stride[1], size, stride + 2, *(const uint16_t *)number);
    else if (bytes == 4) hide_32((uint32_t *)at, seen, channels, stride[1], size, stride + 2, *(const uint32_t *)number);
    else hide_64((uint64_t *)at, seen, channels, stride[1], size, stride + 2, *(const uint64_t *)number);
  }
}
