"""Speed of the room renderer on one core.

python tests/benchmarks/rooms_render.py [images] [size]
"""

import sys
import time

from data.worlds import rooms


def main(images: int = 1000, size: int = 64):
  settings = rooms.RoomSettings(
    width=size, height=size, focals=(0.7 * size, 1.4 * size)
  )
  start = time.perf_counter()
  for index in range(images):
    rooms.render_batch(0, [index], settings)
  spent = time.perf_counter() - start
  print(
    f'{images} images of {size} x {size}: {spent:.2f} s, '
    f'{images / spent:.0f} images per second'
  )


if __name__ == '__main__':
  main(*(int(a) for a in sys.argv[1:]))
