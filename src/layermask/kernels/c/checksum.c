// A content hash of tensors at memory speed, to see whether weights have changed.
//
// A block is read as 32-bit words in 64 lanes. Each word passes through xxHash32's round, which is a bijection of
// the word and of the lane's state: one changed word always changes the hash. The rotation keeps changes of the top
// bit, such as flipped signs, from cancelling each other. Big blocks are cut into pieces of a fixed size, hashed in
// parallel and joined in order: the result does not depend on the number of threads.
#include "outcome.h"
#include "vectors.h"

#define WORDS 64
#define VECTORS (WORDS / LANES)
#define ROUND_BYTES (WORDS * 4)
#define PIECE_BYTES (256 * 1024L)
#define PIECES 512  // of one parallel loop

typedef uint32_t word_vec __attribute__((vector_size(LANES * 4)));
typedef uint32_t loose_word_vec __attribute__((vector_size(LANES * 4), aligned(1), may_alias));

typedef struct {
  const char *at;
  long bytes;
  uint64_t hash;
  int begins;  // a tensor, whose size is mixed in first
  long whole;  // bytes of that tensor
} piece;

// A bijection of the hash for each word, and of the word for each hash.
static uint64_t mixed(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x9E3779B185EBCA87u;
  return hash ^ hash >> 29;
}

INLINE void take_round(word_vec *lanes, const char *at) {
  for (int i = 0; i < VECTORS; i++) {
    word_vec x = *(const loose_word_vec *)(at + i * LANES * 4), s = lanes[i] + x * 0x85EBCA77u;
    lanes[i] = (s << 13 | s >> 19) * 0x9E3779B1u;
  }
}

static uint64_t hash_of(const char *at, long bytes) {
  word_vec lanes[VECTORS];
  uint32_t words[WORDS];
  char rest[ROUND_BYTES] = {0};
  long i = 0;
  for (int k = 0; k < WORDS; k++) words[k] = 0x9E3779B1u * (uint32_t)(k + 1);
  memcpy(lanes, words, sizeof lanes);
  for (; i + ROUND_BYTES <= bytes; i += ROUND_BYTES) take_round(lanes, at + i);
  if (i < bytes) {
    memcpy(rest, at + i, (size_t)(bytes - i));
    take_round(lanes, rest);
  }
  memcpy(words, lanes, sizeof words);
  uint64_t hash = 0;
  for (int k = 0; k < WORDS; k += 2) hash = mixed(hash, words[k] | (uint64_t)words[k + 1] << 32);
  return hash;
}

static uint64_t join(uint64_t hash, piece *pieces, long count, long bytes, long threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (bytes > PIECE_BYTES)
  for (long i = 0; i < count; i++) pieces[i].hash = hash_of(pieces[i].at, pieces[i].bytes);
  for (long i = 0; i < count; i++) {
    if (pieces[i].begins) hash = mixed(hash, (uint64_t)pieces[i].whole);
    hash = mixed(hash, pieces[i].hash);
  }
  return hash;
}

// out: one hash of `count` blocks of so many bytes each, in this order
long checksum(const void *const *tensors, const long *bytes, long count, uint64_t *out, long threads) {
  piece pieces[PIECES];
  uint64_t hash = (uint64_t)count;
  long held = 0, sum = 0;
  for (long t = 0; t < count; t++)
    for (long begin = 0; begin == 0 || begin < bytes[t]; begin += PIECE_BYTES) {
      long left = bytes[t] - begin, here = left < PIECE_BYTES ? left : PIECE_BYTES;
      const char *at = begin ? (const char *)tensors[t] + begin : tensors[t];  // NULL if empty
      pieces[held++] = (piece){at, here, 0, begin == 0, bytes[t]};
      sum += here;
      if (held == PIECES) hash = join(hash, pieces, held, sum, threads), held = 0, sum = 0;
    }
  hash = join(hash, pieces, held, sum, threads);
  *out = mixed(mixed(hash, 0), 1);
  return DONE;
}
