// Half precision by the bits, for processors of any kind.
#pragma once
#include <stdint.h>
#include <string.h>

static inline float of_bits(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline uint32_t bits_of(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

static inline float from_bfloat(uint16_t x) { return of_bits((uint32_t)x << 16); }
static inline uint16_t to_bfloat(float x) {
  uint32_t bits = bits_of(x), nan = (bits & 0x7fffffff) > 0x7f800000;
  return (uint16_t)(nan ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* IEEE half: exponents shifted by a product, subnormals and overflow included. */
static inline float from_half(uint16_t x) {
  uint32_t sign = (uint32_t)(x & 0x8000) << 16, rest = (uint32_t)(x & 0x7fff) << 13;
  uint32_t bits = bits_of(of_bits(rest) * 0x1p112f);
  return of_bits(sign | (rest >= 0x0f800000 ? rest | 0x7f800000 : bits));
}
static inline uint16_t to_half(float x) {
  uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  uint32_t small = bits_of(of_bits(rest) + 0.5f) - 0x3f000000;  /* subnormals: rounded by the sum */
  uint32_t normal = (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13;
  uint32_t large = rest > 0x7f800000 ? 0x7e00 : 0x7c00;
  return (uint16_t)(sign | (rest >= 0x477ff000 ? large : rest < 0x38800000 ? small : normal));
}
