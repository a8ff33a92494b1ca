"""Base forms an English word may have; a vocabulary says which one it is.

Only endings are detached, those of WordNet's Morphy [Miller 1995], and a few
irregular plurals looked up: no dictionary is needed. Comparison (-er, -est) is
left alone: corner, mother and forest end like it.
"""

STEM = 3  # letters that must be left

IRREGULAR = {
  'children': 'child',
  'feet': 'foot',
  'geese': 'goose',
  'gentlemen': 'gentleman',
  'lying': 'lie',
  'men': 'man',
  'mice': 'mouse',
  'oxen': 'ox',
  'people': 'person',
  'teeth': 'tooth',
  'women': 'woman',
}

# ending -> what stands in its place; nouns before verbs.
ENDINGS = (
  ('ies', ('y',)),
  ('ves', ('f', 'fe')),
  ('men', ('man',)),
  ('sses', ('ss',)),
  ('xes', ('x',)),
  ('zes', ('z',)),
  ('ches', ('ch',)),
  ('shes', ('sh',)),
  ('s', ('',)),
  ('es', ('e', '')),
  ('ing', ('', 'e')),
  ('ed', ('e', '')),
)


def candidates(word: str) -> tuple[str, ...]:
  """Possible base forms of a lower-case word, likely ones first, not itself."""
  found = [IRREGULAR[word]] if word in IRREGULAR else []
  for ending, others in ENDINGS:
    stem = word.removesuffix(ending)
    if stem == word or len(stem) < STEM or word.endswith('ss'):
      continue
    found += [stem + other for other in others]
    if ending in ('ing', 'ed') and stem[-1] == stem[-2]:
      found.append(stem[:-1])  # running, stopped
  return tuple(dict.fromkeys(form for form in found if form != word))
