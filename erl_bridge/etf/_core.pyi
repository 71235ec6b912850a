from .decoder import decode as decode
from .decoder import decode_prefix as decode_prefix
from .encoder import encode as encode
from .encoder import encode_into as encode_into
