"""What FlashVID is compared with, behind the same `Reducer`.

PEERS['visionzip'](retention=0.1)              # as published
PEERS['prunevid'].aligned(0.1, depth=28)       # R on average over layers
"""

from vlm.methods.flashvid.peers.dycoke import DyCoke
from vlm.methods.flashvid.peers.fastv import FastV
from vlm.methods.flashvid.peers.fastvid import FastVID
from vlm.methods.flashvid.peers.framefusion import FrameFusion
from vlm.methods.flashvid.peers.holitom import HoliTom
from vlm.methods.flashvid.peers.peer import Peer
from vlm.methods.flashvid.peers.pooling import Pooling
from vlm.methods.flashvid.peers.prunevid import PruneVID
from vlm.methods.flashvid.peers.sampling import FrameDrop, RandomTokens, Stride
from vlm.methods.flashvid.peers.tome import ToMe
from vlm.methods.flashvid.peers.visionzip import VisionZip

PEERS: dict[str, type[Peer]] = {
  'random': RandomTokens,
  'stride': Stride,
  'pooling': Pooling,
  'frame_drop': FrameDrop,
  'fastv': FastV,
  'visionzip': VisionZip,
  'tome': ToMe,
  'dycoke': DyCoke,
  'prunevid': PruneVID,
  'fastvid': FastVID,
  'holitom': HoliTom,
  'framefusion': FrameFusion,
}
