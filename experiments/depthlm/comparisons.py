"""What the miniature compares: arms by name, and which differences count.

Every comparison of the thorough setting has the same number of steps, fewer
than the quick setting's, and one reference. 'Longer' is the method with what
a miniature can have more of.
"""

METHOD = 'arrow + one focal length'
COORDINATES = 'coordinates + one focal length'
MIXED = 'arrow, cameras mixed'
LONGER = 'the method, longer'
FIRST = 'the method, longer, first cycle'
ONE, TEN, HUNDRED = (
  '8,000 images x 1 label',
  '800 images x 10 labels',
  '80 images x 100 labels',
)
SIX, ALONE = 'six tasks, one model', 'distance alone, the same rooms'

# Arms that start from another's last parameters.
STARTS = {LONGER: FIRST}

# Name -> options of the config.
QUICK = {
  METHOD: 'arm=marker',
  COORDINATES: 'arm=coordinates',
  MIXED: 'arm=mixed',
}
MORE = {
  'cameras mixed, focal length in the question': 'arm=focal',
  'cameras mixed, ray before distance': 'arm=ray',
  'two decimals': 'arm=decimals',
  'digits at no fixed places': 'arm=unpadded',
  ONE: 'arm=marker,labels=1',
  TEN: 'arm=marker,images=800,labels=10',
  HUNDRED: 'arm=marker,images=80,labels=100',
  '2,000 images': 'arm=marker,images=2000',
  '32,000 images': 'arm=marker,images=32000',
}
# Other rooms, with two views each; one model is asked six quantities.
WALKED = {SIX: 'arm=multitask', ALONE: 'arm=walks'}
STEPS = 700

# (what is asked, the reference, its rivals)
DIFFERENCES = (
  ('how the pixel is said', METHOD, (COORDINATES,)),
  ('what becomes of cameras', METHOD, (MIXED, *tuple(MORE)[:2])),
  ('how the number is written', METHOD, tuple(MORE)[2:4]),
  ('8,000 labels on more or fewer pictures', ONE, (TEN, HUNDRED)),
  ('pictures', METHOD, tuple(MORE)[7:]),
)
# Arms along which only the number of pictures grows.
SCALE = {
  2000: '2,000 images',
  8000: METHOD,
  32000: '32,000 images',
}


def options(thorough: bool) -> dict[str, str]:
  """Name -> options of the config, the arm shown in pictures first."""
  if not thorough:
    return QUICK
  compared = QUICK | MORE | WALKED
  longer = {LONGER: 'arm=marker,long=2', FIRST: 'arm=marker,long=1'}
  return longer | {
    name: f'{arm},steps={STEPS}' for name, arm in compared.items()
  }
