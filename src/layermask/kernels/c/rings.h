// A map of rings says of each cell 0 = to fill from, r = filled in ring r, NEVER = neither (padding/rings.py).
#pragma once
#include <stdint.h>

enum { NEVER = 255, AROUND = 26 };

static inline long most(long a, long b) { return a > b ? a : b; }
static inline long least(long a, long b) { return a < b ? a : b; }

// The neighbours that a cell is filled from: those of earlier rings, in the 3-wide box along the axes that its own
// ring extends on. found: how far each lies from the cell where steps along the axes are `stride`; AROUND at most.
static inline long earlier(const uint8_t *rings, const long *size, const long *reach, long cell, const long *stride,
                           long *found) {
  long at[3] = {cell / (size[1] * size[2]), cell / size[2] % size[1], cell % size[2]}, low[3], high[3], count = 0;
  for (int axis = 0; axis < 3; axis++) {
    long on = reach[axis] >= rings[cell];
    low[axis] = most(at[axis] - on, 0), high[axis] = least(at[axis] + on, size[axis] - 1);
  }
  for (long z = low[0]; z <= high[0]; z++)
    for (long y = low[1]; y <= high[1]; y++)
      for (long x = low[2]; x <= high[2]; x++)
        if (rings[(z * size[1] + y) * size[2] + x] < rings[cell])
          found[count++] = (z - at[0]) * stride[0] + (y - at[1]) * stride[1] + (x - at[2]) * stride[2];
  return count;
}
