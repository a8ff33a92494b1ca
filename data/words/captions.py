"""From captions to the words that knowledge is asked for.

A caption is taken apart like the Penn Treebank does (contractions lose their
second half), in lower case; what is not alphabetic goes. Two departures, which
make captions agree with Visual Genome's names: hyphens separate, and single
letters go.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from data.words import lemmas

KNOWN, OOD, UNKNOWN = 'known', 'ood', 'unknown'
STATUSES = (KNOWN, OOD, UNKNOWN)

_APOSTROPHES = str.maketrans({'\u2019': "'", '\u2018': "'"})
_NEGATION = re.compile(r"n't\b")
_WORD = re.compile(r"[^\W_]+(?:\.[^\W_]+)*(?:'[^\W_]*)?")

STOP_WORDS = frozenset(
  """
  a about above across after against all along also although am among an and
  another any are around as at away be because been before behind being below
  beneath beside between beyond both but by ca can cannot could did do does
  doing done down during each either every few for from gets getting had has
  have having he her here hers herself him himself his how i if in inside into
  is it its itself just like many may me might mine more most much must my near
  neither no nor not of off on once one onto or other others our ours out
  outside over own per quite rather same several she should since so some such
  than that the their theirs them themselves then there these they this those
  though through to together too toward towards two under until up upon us very
  via was we were what when where whether which while who whom whose why will
  with within without wo would you your yours
  """.split()  # noqa: SIM905 -- words read better than a list of literals
)


@dataclasses.dataclass(frozen=True)
class WordSettings:
  """How words are taken from captions.

  Attributes:
    stop_words: leave `STOP_WORDS` out. Where a caption comes with tags, they
      choose the words instead.
    tags: beginnings of Penn Treebank tags of words that are kept.
    lemmatise: look a word's base form up before it counts as not known.
  """

  stop_words: bool = True
  tags: tuple[str, ...] = ('NN', 'JJ')
  lemmatise: bool = False


# Tokens of a caption with their Penn Treebank tags.
Tagged = Sequence[tuple[str, str]]


def words_of(caption: str | Tagged, settings: WordSettings) -> list[str]:
  """Words of a caption in order; one said twice is there twice.

  Args:
    caption: a text, or its tokens with their tags.
    settings: which words are kept.
  """
  if not isinstance(caption, str):
    kept = [t for t, tag in caption if tag.startswith(settings.tags)]
    return [word for token in kept for word in _split(token)]
  left_out = STOP_WORDS if settings.stop_words else ()
  return [word for word in _split(caption) if word not in left_out]


def _split(text: str) -> list[str]:
  text = _NEGATION.sub('', text.lower().translate(_APOSTROPHES))
  tokens = (token.partition("'")[0] for token in _WORD.findall(text))
  return [token for token in tokens if token.isalpha() and len(token) > 1]


@dataclasses.dataclass(frozen=True)
class CaptionWords:
  """The words of captions, each distinct one once.

  Attributes:
    words: W distinct words that are known or have a vector, sorted.
    status: of each, KNOWN or OOD.
    ids: int32 [C, J], places of a caption's words in `words`, padded with -1.
    counts: words of all captions by status, every occurrence counted.
    by_caption: int32 [C, 3], words of each caption, in the order of `STATUSES`.
    unknown: words of no vocabulary, and how often they occur.
  """

  words: tuple[str, ...]
  status: tuple[str, ...]
  ids: np.ndarray
  counts: Mapping[str, int]
  by_caption: np.ndarray
  unknown: Mapping[str, int]

  def without(self, status: str) -> np.ndarray:
    """`ids` without words of a status, padded with -1 in their place."""
    kept = np.array([one != status for one in self.status] + [False])
    return np.where(kept[self.ids], self.ids, -1).astype(np.int32)


def look_up(
  captions: Sequence[Sequence[str]],
  known: Collection[str],
  vectors: Collection[str],
  settings: WordSettings,
) -> CaptionWords:
  """Tells words that knowledge has from those that have a vector only.

  Args:
    captions: words of each caption, from `words_of`.
    known: words of the knowledge.
    vectors: words with a vector.
    settings: whether base forms are looked up.
  """
  found = {
    word: resolve(word, known, vectors, lemmatise=settings.lemmatise)
    for word in {word for caption in captions for word in caption}
  }
  usable = dict(sorted(one for one in found.values() if one[1] != UNKNOWN))
  places = {word: place for place, word in enumerate(usable)}
  width = max([1, *map(len, captions)])
  ids = np.full((len(captions), width), -1, np.int32)
  by_caption = np.zeros((len(captions), len(STATUSES)), np.int32)
  unknown: Counter[str] = Counter()
  for row, caption in enumerate(captions):
    for column, word in enumerate(caption):
      form, status = found[word]
      by_caption[row, STATUSES.index(status)] += 1
      ids[row, column] = places.get(form, -1)
      unknown.update([word] if status == UNKNOWN else [])
  counts = dict(zip(STATUSES, by_caption.sum(0).tolist()))
  return CaptionWords(
    tuple(usable), tuple(usable.values()), ids, counts, by_caption,
    dict(unknown.most_common()),
  )  # fmt: skip


def resolve(
  word: str,
  known: Collection[str],
  vectors: Collection[str],
  *,
  lemmatise: bool = False,
) -> tuple[str, str]:
  """(the word or its base form, its status): known forms before others."""
  forms = (word, *(lemmas.candidates(word) if lemmatise else ()))
  for status, vocabulary in ((KNOWN, known), (OOD, vectors)):
    for form in forms:
      if form in vocabulary:
        return form, status
  return word, UNKNOWN
