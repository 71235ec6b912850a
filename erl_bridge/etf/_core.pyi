from .decoder import decode as decode
from .encoder import encode as encode
from .encoder import encode_into as encode_into
