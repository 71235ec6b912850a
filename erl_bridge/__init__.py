"""A bridge between the BEAM and Python that speaks the Erlang external term format.

The names here are the public ones; importing them runs nothing.
"""

from . import etf
from .app import Bridge, Handler
from .context import Context
from .errors import BridgeError, Stopped
from .terms import Atom, BitString, Export, Fun, ImproperList, Pid, Port, Record, Reference, TermMap
from .version import VERSION

__version__ = VERSION
__all__ = [
    "Atom",
    "BitString",
    "Bridge",
    "BridgeError",
    "Context",
    "Export",
    "Fun",
    "Handler",
    "ImproperList",
    "Pid",
    "Port",
    "Record",
    "Reference",
    "Stopped",
    "TermMap",
    "etf",
]
