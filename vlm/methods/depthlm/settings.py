"""How a row becomes a query: every choice of a person, checked at once."""

import dataclasses

from vlm.methods.depthlm import camera, marker, tasks, text

_PAIRS = ('crop_height', 'crop_width', 'stretch', 'seconds', 'speeds')


@dataclasses.dataclass(frozen=True)
class SampleSettings:
  """How a row becomes a query.

  Attributes:
    focal: common focal length in pixels (published: 1000 and 750).
    focal_mode: 'aniso', 'iso' or 'none'; see `camera`.
    crop_height: (low, high) of the training crop's height in pixels, drawn
      uniformly (published: 700, 1200); None does not crop.
    crop_width: the same for its width (published: 1000, 1400).
    crop_place: 'centre' (published) or 'random'.
    stretch: (low, high) of r: in training, rows of `stretched` data sets are
      not cropped but resized to a height of W / r (published: 1.0, 1.3).
    stretched: data sets whose intrinsics are noisy (published: Taskonomy).
    mirror: in training, show every other image as in a mirror.
    size: (H, W) of the static image a model needs: centre cut or zero pad,
      in training and evaluation; None keeps the size.
    multiple: zero pad to multiples of this many pixels, the processor's patch,
      so that it resizes nothing and the focal length stays exact; 1 leaves it
      to the processor, as released (`camera.after_resize` says what comes out).
    contrast: share of the picture's contrast that is kept before the arrow is
      drawn. 1 changes nothing; a small tower trained from scratch finds the
      arrow many times sooner in a quiet picture.
    mark: draw the arrow; without it the question must hold the coordinates.
    marker_shape: 'arrow' (published), 'cross' or 'square'.
    marker_size: pixels of the marker are blocks of this side (published: 1).
    marker_colour: red, green, blue (published: 255, 0, 0).
    label_law: a training label is uniform over the usable ones ('usable'), or
      over all, an unusable one giving way to the nearest usable index
      ('nearest', published), which favours labels beside unusable ones.
    tasks: ((task, weight), ...) of rows with one image; see `tasks`.
    prompt: wording of 'distance': a key of `text.PROMPTS`, a
      `text.PromptFormat`, or its (question, answer).
    style: wording of the other tasks, a key of `tasks.STYLES`.
    wordings: ((task, question, answer), ...) instead of the style's.
    seconds: (low, high) of the time that a speed question states.
    speeds: (low, high) of the speed that a time question states, m/s.
    separation: least distance of two points, metres.

  Raises:
    ValueError: naming the field that is wrong.
  """

  focal: float | int = 1000.0
  focal_mode: str = 'aniso'
  crop_height: tuple[float | int, float | int] | None = None
  crop_width: tuple[float | int, float | int] | None = None
  crop_place: str = 'centre'
  stretch: tuple[float | int, float | int] = (1.0, 1.3)
  stretched: tuple[str, ...] = ()
  mirror: bool = False
  size: tuple[int, int] | None = None
  multiple: int = 1
  contrast: float | int = 1.0
  mark: bool = True
  marker_shape: str = 'arrow'
  marker_size: int = 1
  marker_colour: tuple[int, int, int] = marker.RED
  label_law: str = 'usable'
  tasks: tuple[tuple[str, float | int], ...] = (('distance', 1),)
  prompt: str | text.PromptFormat | tuple[str, str] = 'marker'
  style: str = 'full'
  wordings: tuple[tuple[str, str, str], ...] = ()
  seconds: tuple[float | int, float | int] = (1.0, 10.0)
  speeds: tuple[float | int, float | int] = (0.5, 15.0)
  separation: float | int = 0.2

  def __post_init__(self):
    one_of('focal_mode', self.focal_mode, camera.FOCAL_MODES)
    one_of('crop_place', self.crop_place, ('centre', 'random'))
    one_of('label_law', self.label_law, ('usable', 'nearest'))
    one_of('style', self.style, tuple(tasks.STYLES))
    self._check_numbers()
    self._check_tasks()
    if isinstance(self.prompt, str) and self.prompt not in text.PROMPTS:
      raise ValueError(
        f'prompt must be one of {sorted(text.PROMPTS)} or a PromptFormat, got '
        f'{self.prompt!r}'
      )
    _ = self.marker  # its own checks

  def _check_numbers(self) -> None:
    if not self.focal > 0:
      raise ValueError(f'focal must be positive pixels, got {self.focal}')
    if not 0 < self.contrast <= 1:
      raise ValueError(f'contrast must lie in (0, 1], got {self.contrast}')
    if self.multiple < 1:
      raise ValueError(f'multiple must be at least 1, got {self.multiple}')
    if (self.crop_height is None) != (self.crop_width is None):
      raise ValueError('give both crop_height and crop_width, or neither')
    for name in _PAIRS:
      bounds = getattr(self, name)
      if bounds is not None and not 0 < bounds[0] <= bounds[1]:
        raise ValueError(
          f'{name} must be (low, high) with 0 < low <= high, got {bounds}'
        )

  def _check_tasks(self) -> None:
    for name, weight in self.tasks:
      one_of('tasks', name, tasks.SINGLE_IMAGE)
      if not weight > 0:
        raise ValueError(f'the weight of task {name!r} must be > 0: {weight}')
    if not self.tasks:
      raise ValueError('tasks is empty; the usual is ((distance, 1),)')
    for name, *_ in self.wordings:
      one_of('wordings', name, tuple(tasks.TASKS))

  @property
  def wording(self) -> text.PromptFormat:
    """Wording of the distance task."""
    return self.wording_of('distance')

  def wording_of(self, task: str) -> text.PromptFormat:
    """Wording of a task."""
    for name, question, answer in self.wordings:
      if name == task:
        return text.PromptFormat(question, answer)
    if task != 'distance':
      return tasks.STYLES[self.style][task]
    if isinstance(self.prompt, str):
      return text.PROMPTS[self.prompt]
    if isinstance(self.prompt, tuple):
      return text.PromptFormat(*self.prompt)
    return self.prompt

  @property
  def marker(self) -> marker.Marker:
    """What is drawn."""
    return marker.Marker(
      self.marker_shape, self.marker_size, self.marker_colour
    )


def one_of(name: str, value, allowed: tuple[str, ...]) -> None:
  """Raises ValueError unless the value is allowed."""
  if value not in allowed:
    raise ValueError(f'{name} must be one of {allowed}, got {value!r}')
