"""From a published corpus to rows: in parallel, resumable, nothing lost.

A scene is the unit of work. Its labels depend on its own names and the seed
alone, so any number of workers writes the same files, and a run that was
killed goes on with the scenes that are not there yet.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath

from data.records import BadRecord
from data.sources import depth_corpora
from data.sources.depth_corpora import finish, frames, store

LABELS = ('correct', 'official')


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is made of a corpus; a run is resumed under the same ones only.

  Attributes:
    corpus: a name of `depth_corpora.NAMES`.
    source: the folder it was downloaded to.
    output: the folder to write.
    split: one of the corpus's splits; '' is its first.
    labels: 'correct' or 'official'.
    format: 'jsonl' or 'tfds'.
    per_image: labels per image.
    every: read each n-th frame of a scene; 0 is the corpus's own choice.
    lenses: 'straighten' makes every image a pinhole's; 'keep' leaves bent
      images as published and writes camera_model and distortion.
    max_focal: pixels; images with a longer focal length are shrunk to it. 0
      keeps them, -1 is the corpus's own choice.
    seed: of the choice of pixels.
  """

  corpus: str
  source: str
  output: str
  split: str = ''
  labels: str = 'correct'
  format: str = 'jsonl'
  per_image: int = 100
  every: int = 0
  lenses: str = 'straighten'
  max_focal: float = -1.0
  seed: int = 0

  def checked(self) -> 'Settings':
    """The settings with the corpus's own choices filled in.

    Raises:
      ValueError: naming the flag that is wrong.
    """
    corpus = depth_corpora.open_corpus(self.corpus)
    # The released scripts shrink, or not, by themselves.
    shrink = corpus.max_focal if self.labels == 'correct' else 0.0
    filled = dataclasses.replace(
      self,
      split=self.split or corpus.splits[0],
      every=self.every or corpus.every,
      max_focal=shrink if self.max_focal < 0 else self.max_focal,
    )
    _require('split', filled.split, corpus.splits)
    _require('labels', filled.labels, LABELS)
    _require('format', filled.format, tuple(store.STORES))
    _require('lenses', filled.lenses, finish.LENSES)
    if filled.labels == 'official' and not corpus.official:
      raise ValueError(
        f'--labels=official: DepthLM released no script for {self.corpus}'
      )
    if filled.per_image < 1 or filled.every < 1:
      raise ValueError(
        'expected --per_image >= 1 and --every >= 0, got '
        f'{filled.per_image} and {self.every}'
      )
    if '://' in self.source:
      raise ValueError(
        f'--source={self.source}: corpora are read from local disks only'
      )
    if not epath.Path(self.source).exists():
      raise ValueError(f'--source={self.source} does not exist')
    return filled


def _require(flag, value, known):
  if value not in known:
    raise ValueError(f'--{flag}={value}: expected one of {", ".join(known)}')


@dataclasses.dataclass
class Report:
  """What became of the frames.

  Attributes:
    frames: seen.
    rows: written.
    labels: pixels in those rows.
    bad: (scene/frame, reason, detail) of every frame that gave no row.
  """

  frames: int = 0
  rows: int = 0
  labels: int = 0
  bad: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)

  def add(self, other: 'Report') -> None:
    self.frames += other.frames
    self.rows += other.rows
    self.labels += other.labels
    self.bad += other.bad

  def by_reason(self) -> dict[str, list[str]]:
    """Names of bad frames by reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason, _ in self.bad:
      reasons.setdefault(reason, []).append(name)
    return reasons


def prepare(
  settings: Settings,
  workers: int = 1,
  progress: Callable[[int, int, Report], None] | None = None,
) -> tuple[str, Report]:
  """Curates a split of a corpus.

  Args:
    settings: what to make.
    workers: processes; 1 works in this one.
    progress: called with scenes done, scenes in all and the counts so far.

  Returns:
    Address of the rows, for `open_source` or `DepthRows`, and the counts.

  Raises:
    ValueError: wrong settings, an empty source, or an output that was begun
      with other settings.
    RuntimeError: when no frame at all gave a row.
  """
  settings = settings.checked()
  corpus = depth_corpora.open_corpus(settings.corpus)
  scenes = corpus.scenes(epath.Path(settings.source), settings.split)
  if not scenes:
    raise ValueError(
      f'--source={settings.source}: no scene of {settings.corpus}, split '
      f'{settings.split}; expected {corpus.layout}'
    )
  keeper = _open_store(settings)
  done = _finished(_begin(settings), scenes)
  whole = Report()
  for report in done.values():
    whole.add(report)
  tell = progress or (lambda *unused: None)
  tell(len(done), len(scenes), whole)
  todo = [scene for scene in scenes if scene.name not in done]
  for name, report in _work(settings, todo, workers):
    done[name] = report
    whole.add(report)
    tell(len(done), len(scenes), whole)
  return _end(settings, keeper, [scene.name for scene in scenes], done)


def _open_store(settings):
  kind = store.STORES[settings.format]
  return kind(settings.output, settings.corpus, settings.split)


def _parts(settings):
  return store.parts_folder(settings.output, settings.corpus, settings.split)


def _begin(settings):
  """The folder of this split's parts, made for these settings."""
  parts = _parts(settings)
  parts.mkdir(parents=True, exist_ok=True)
  path, mine = parts / 'settings', dataclasses.asdict(settings)
  del mine['output'], mine['source']  # Both may move between two runs.
  if not path.exists():
    store.write_whole(path, json.dumps(mine).encode())
  theirs = json.loads(path.read_text())
  if theirs != mine:
    changed = sorted(k for k in mine if mine[k] != theirs.get(k))
    raise ValueError(
      f'--output={settings.output} was begun with '
      + ', '.join(f'--{k}={theirs.get(k)}' for k in changed)
      + '; repeat those flags or choose another --output'
    )
  return parts


def _finished(parts, scenes):
  """Reports of scenes that an earlier run finished, by name."""
  done = {}
  for scene in scenes:
    path = parts / f'{store.part_name(scene.name)}.json'
    if path.exists():
      facts = json.loads(path.read_text())
      bad = [tuple(names) for names in facts.pop('bad')]
      done[scene.name] = Report(**facts, bad=bad)
  return done


def _end(settings, keeper, names, done):
  whole = Report()
  for name in names:
    whole.add(done[name])
  if not whole.rows:
    name, reason, detail = (whole.bad or [('no frame', '', '')])[0]
    raise RuntimeError(
      f'--source={settings.source}: no row of {whole.frames} frames; the '
      f'first: {name}: {reason}: {detail}'
    )
  address = keeper.finish(names)
  summary = {
    'settings': dataclasses.asdict(settings),
    'address': address,
    **dataclasses.asdict(whole),
  }
  text = json.dumps(summary, indent=1).encode()
  name = f'{settings.corpus}-{settings.split}_report.json'
  store.write_whole(epath.Path(settings.output) / name, text)
  return address, whole


def _work(settings, scenes, workers):
  """Yields (scene name, report) as scenes are finished."""
  if workers == 1 or len(scenes) < 2:
    for scene in scenes:
      yield scene.name, curate_scene(settings, scene)
    return
  # Forked children of a process with JAX threads can hang.
  context = multiprocessing.get_context('spawn')
  pool = concurrent.futures.ProcessPoolExecutor(
    min(workers, len(scenes)),
    mp_context=context,
    initializer=_die_with_parent,
  )
  with pool:
    futures = {
      pool.submit(curate_scene, settings, scene): scene.name for scene in scenes
    }
    try:
      for future in concurrent.futures.as_completed(futures):
        error = future.exception()
        if error:
          error.add_note(f'in scene {futures[future]}')
          raise error
        yield futures[future], future.result()
    finally:
      pool.shutdown(wait=False, cancel_futures=True)


def _die_with_parent():
  """Ends this worker when its parent is killed; it would wait for ever."""
  parent = multiprocessing.parent_process()

  def watch():
    parent.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def curate_scene(settings: Settings, scene: frames.Scene) -> Report:
  """Writes the part of one scene, then its report, which marks it done."""
  report = Report()
  keeper = _open_store(settings)
  keeper.write(scene.name, _rows(settings, scene, report))
  path = _parts(settings) / f'{store.part_name(scene.name)}.json'
  store.write_whole(path, json.dumps(dataclasses.asdict(report)).encode())
  return report


def _rows(settings, scene, report) -> Iterator[store.CuratedRow]:
  for number, (name, read) in enumerate(_frames(settings, scene, report)):
    if number % settings.every:
      continue
    report.frames += 1
    place = f'{settings.split}/{scene.name}/{name}'
    try:
      frame = read(_draw(settings, place))
      image, suffix, record = finish.to_row(
        frame, settings.per_image, settings.lenses, settings.max_focal
      )
    except BadRecord as e:
      report.bad.append((f'{scene.name}/{name}', e.reason, e.detail))
      continue
    except (KeyError, TypeError) as e:
      # A table or json of the corpus lacks something.
      detail = f'{type(e).__name__}: {e}'
      report.bad.append((f'{scene.name}/{name}', 'wrong type', detail))
      continue
    report.rows += 1
    report.labels += len(record['depth'])
    record |= {'dataset': settings.corpus, 'scene': scene.name}
    yield store.CuratedRow(name, image, suffix, record)


def _frames(settings, scene, report):
  """The frames of a scene; a scene that cannot be opened is one bad frame."""
  corpus = depth_corpora.open_corpus(settings.corpus)
  official = settings.labels == 'official'
  source = epath.Path(settings.source)
  try:
    yield from corpus.frames(source, scene, official)
  except BadRecord as e:
    reason, detail = e.reason, e.detail
  except FileNotFoundError as e:
    reason, detail = 'missing depth', str(e)
  except (json.JSONDecodeError, KeyError) as e:
    reason, detail = 'malformed json', f'{type(e).__name__}: {e}'
  else:
    return
  report.frames += 1
  report.bad.append((scene.name, reason, detail))


def _draw(settings, place):
  text = f'{settings.seed}/{settings.corpus}/{place}'
  digest = hashlib.sha256(text.encode()).digest()
  return frames.LabelDraw(
    np.random.default_rng(np.frombuffer(digest, np.uint32)),
    settings.per_image,
  )
