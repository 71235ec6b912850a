from .decoder import decode as decode
from .encoder import encode as encode
