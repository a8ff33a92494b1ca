"""Towers of the miniature: pairs to learn from, and the scorers they make.

A tower that never saw an opinion is tested as RALI is: its embeddings of family
A become a basis (stage 2) whose scores are fitted (stage 3), once for each case
of the ablation that these stages decide.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer, processors

from data import dct
from data.embeddings import Embedder
from data.records import require
from experiments.rali import answers, sets
from experiments.rali.miniature import measure, raters, vocabulary
from experiments.rali.miniature.towers import HOME
from experiments.rali.score import plain, set_scores
from experiments.rali.task import record_of
from vlm.methods.rali import scorer, stages
from vlm.methods.rali.basis import BasisSettings
from vlm.methods.rali.fit import FitSettings
from vlm.metrics import correlation

IMAGE_TOWER = ('vision', 'vision_projection')
FULL = 'full'


class Task:
  """See experiments/task.py; of 'contrastive' and of 'regression'.

  Args:
    config: of towers.py.
  """

  def __init__(self, config: Any):
    self._config = config
    self.skipped = Counter()
    self._made: dict[str, stages.Scorer] = {}
    self._found: dict[str, Any] = {}

  def tokenizer_json(self) -> str:
    """The miniature's words, each text with an end."""
    chat = vocabulary.chat()
    tokenizer = Tokenizer.from_str(chat.tokenizer_json)
    end = chat.variables['eos_token']
    tokenizer.post_processor = processors.TemplateProcessing(
      single=f'$A {end}', special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    return tokenizer.to_str()

  def train_rows(self) -> tuple[list[Any], None]:
    """Every set once."""
    return sets.train_rows(self._config), None

  def eval_sets(self) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Sets that are tested on."""
    return sets.eval_sets(self._config)

  def pair(
    self, row: Mapping[str, Any], rng: np.random.Generator
  ) -> tuple[np.ndarray, str]:
    """A row's features and one of its texts."""
    picture, texts = self.texts(row)
    return picture, texts[rng.integers(len(texts))]

  def texts(self, row: Mapping[str, Any]) -> tuple[np.ndarray, list[str]]:
    """A row's features; a teacher's descriptions, or else its caption."""
    said = row.get('descriptions') or [answers.spoken(row['caption'])]
    most = self._config.contrastive.texts or None
    return dct.feature_picture(row['image']), said[:most]

  def target(self, row: Mapping[str, Any]) -> float:
    """The opinion that a regression learns."""
    return float(require(row, 'gt_score_norm', (int, float)))

  def queries(self, rows: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Every picture, without a question."""
    for number in range(len(rows)):
      row = rows[number]
      shown = dct.feature_picture(row['image'])
      yield {'images': [shown], 'record': record_of(row)}

  def score(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """As of experiments/rali/task.py; there is nothing that cannot be read."""
    found = set_scores(
      [r['prediction'] for r in records],
      [r['gt_score_norm'] for r in records],
      [r['reference'] for r in records],
    )
    for name, bounds in found.pop('intervals').items():
      found[name] = [found[name], *bounds]
    return found | {'unread': 0}

  def evaluate(self, job: Any, params: Any, mesh: Any) -> dict[str, Any]:
    """Makes a scorer for every case, and tests each; `FULL` gives the sets.

    What the others score is left for `measure`.
    """
    embedder = self._embedder(job, params, mesh)
    # All opinions, also of photographs that a teacher was silent about.
    train = sets.photographs(self._config, HOME, 'train')
    rows = [train[number] for number in range(len(train))]
    opinions = np.array([row['gt_score_norm'] for row in rows])
    seen = embedded(embedder, rows)
    cases = stages.ablations(settings_of(self._config))
    self._made = {
      name: stages.make_scorer(case, opinions, seen)
      for name, case in cases.items()
    }
    self._found = {name: {} for name in cases}
    results = {}
    for name, tested in self.eval_sets().items():
      queries = [q['record'] for q in self.queries(tested)]
      x = jnp.asarray(
        embedded(embedder, [tested[n] for n in range(len(tested))])
      )
      for case, made in self._made.items():
        found = np.asarray(scorer.scores(made.fitted.params, x, made.form))
        self._found[case][name] = correlation.scores(
          found, [record['gt_score_norm'] for record in queries]
        )
        if case == FULL:
          records = [
            record | {'prediction': float(number)}
            for record, number in zip(queries, found, strict=True)
          ]
          results[name] = {
            'records': records,
            'scores': self.score(records),
            'skipped': {},
          }
    return results

  def measure(self, job: Any, params: Any) -> dict[str, Any]:
    """As of experiments/rali/task.py, and behind `evaluate` also `rali`.

    `rali` has the scores of the test sets by case; `epochs`, after how many the
    fit of each case stopped (0: no better than its basis on what was held out);
    and `fit`, the full case on the pictures held out, unfitted and fitted.
    """
    params = jax.device_get(params)
    rater, parameters = self._rater(job, params)
    pictures = raters.some_pictures(self.eval_sets(), self._config)
    found = measure.measure(job, params, self._config, rater)
    found['cost'] = raters.cost(rater, pictures, parameters)
    if not self._made:
      return found
    fits = {name: made.fitted for name, made in self._made.items()}
    return found | {
      'rali': plain(
        {
          'cases': self._found,
          'epochs': {name: fitted.epoch for name, fitted in fits.items()},
          'fit': fits[FULL].rows,
        }
      )
    }

  def _rater(self, job: Any, params: Any) -> tuple[Any, int]:
    """A rater, and what it computes with: no text tower."""
    tower = raters.count({name: params[name] for name in IMAGE_TOWER})
    if not self._made:
      return raters.rater_of(job, params, self._config), tower
    made, model = self._made[FULL], job.model

    def read(params, batch):
      tower, weights = params
      found = model.encode_image(tower, batch['pixels']).embedding
      return scorer.scores(weights, found, made.form)

    weights = made.fitted.params
    size = self._config.eval.batch_size
    rater = raters.NumberRater(job, (params, weights), read, size)
    return rater, tower + raters.count(weights)

  def _embedder(self, job: Any, params: Any, mesh: Any) -> Embedder:
    size = self._config.eval.batch_size
    encoder = job.encoder
    return Embedder(
      job.model, params, encoder.picture, encoder.text, mesh, size
    )


def embedded(
  embedder: Embedder, rows: Sequence[Mapping[str, Any]]
) -> np.ndarray:
  """float32 [N, E] of the rows' photographs."""
  shown = (dct.feature_picture(row['image']) for row in rows)
  return embedder.pictures(shown).vectors


def settings_of(config: Any) -> stages.StageSettings:
  """Stages 2 and 3 as `config.scorer` has them."""
  made = config.scorer
  return stages.StageSettings(
    BasisSettings(
      made.prototypes, made.bins, made.components, seed=config.seed
    ),
    FitSettings(epochs=made.epochs, lr=made.lr, seed=config.seed),
    made.tau,
    made.held_out,
    config.seed,
  )
