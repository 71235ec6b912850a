"""The tags of the external term format, by the names that the Erlang documentation gives them without ``_EXT``.

Source: "External Term Format" in the ERTS user's guide, https://www.erlang.org/doc/apps/erts/erl_ext_dist.html.
"""

from __future__ import annotations

VERSION = 131
COMPRESSED = 80

RECORD = 67  # OTP 29, not in the guide: the number of fields, exported or not, module, name, names, values
NEW_FLOAT = 70
BIT_BINARY = 77
NEW_PID = 88
NEW_PORT = 89
NEWER_REFERENCE = 90
SMALL_INTEGER = 97
INTEGER = 98
FLOAT = 99
ATOM = 100
REFERENCE = 101
PORT = 102
PID = 103
SMALL_TUPLE = 104
LARGE_TUPLE = 105
NIL = 106
STRING = 107
LIST = 108
BINARY = 109
SMALL_BIG = 110
LARGE_BIG = 111
NEW_FUN = 112
EXPORT = 113
NEW_REFERENCE = 114
SMALL_ATOM = 115
MAP = 116
ATOM_UTF8 = 118
SMALL_ATOM_UTF8 = 119
V4_PORT = 120

NAMES = {tag: f"{name}_EXT" for name, tag in list(globals().items()) if type(tag) is int and tag != VERSION}
MAX_BIG_BYTES = (1 << 22) - 8  # of an integer's magnitude: what OTP 25 can hold; later releases hold less
