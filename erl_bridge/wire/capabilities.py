"""What nodes can tell each other that they can do: the flags of the handshake.

Rule of this file: one table of names and bits; a flag is in force when both nodes have it. The source is ``dist.h`` of
OTP; where the distribution protocol's documentation says otherwise (MANDATORY_25_DIGEST), ``dist.h`` is right.
"""

from __future__ import annotations

FLAGS = {
    "PUBLISHED": 1 << 0,  # a visible node; never of ours: :global and the like leave hidden nodes alone
    "ATOM_CACHE": 1 << 1,
    "EXTENDED_REFERENCES": 1 << 2,
    "DIST_MONITOR": 1 << 3,
    "FUN_TAGS": 1 << 4,
    "DIST_MONITOR_NAME": 1 << 5,
    "HIDDEN_ATOM_CACHE": 1 << 6,
    "NEW_FUN_TAGS": 1 << 7,
    "EXTENDED_PIDS_PORTS": 1 << 8,
    "EXPORT_PTR_TAG": 1 << 9,
    "BIT_BINARIES": 1 << 10,
    "NEW_FLOATS": 1 << 11,
    "UNICODE_IO": 1 << 12,
    "DIST_HDR_ATOM_CACHE": 1 << 13,
    "SMALL_ATOM_TAGS": 1 << 14,
    "UTF8_ATOMS": 1 << 16,
    "MAP_TAG": 1 << 17,
    "BIG_CREATION": 1 << 18,
    "SEND_SENDER": 1 << 19,
    "BIG_SEQTRACE_LABELS": 1 << 20,
    "EXIT_PAYLOAD": 1 << 22,
    "FRAGMENTS": 1 << 23,
    "HANDSHAKE_23": 1 << 24,
    "UNLINK_ID": 1 << 25,
    "MANDATORY_25_DIGEST": 1 << 26,
    "SPAWN": 1 << 32,
    "NAME_ME": 1 << 33,
    "V4_NC": 1 << 34,
    "ALIAS": 1 << 35,
    "ALTACT_SIG": 1 << 37,
    "NATIVE_RECORDS": 1 << 38,
}
ALL = (1 << 64) - 1


def bits(*names: str) -> int:
    """The flags of those names as one number.

    >>> hex(bits("SPAWN", "ALIAS"))
    '0x900000000'
    """
    return sum(FLAGS[name] for name in names)


MANDATORY_25 = bits(
    "EXTENDED_REFERENCES",
    "FUN_TAGS",
    "NEW_FUN_TAGS",
    "EXTENDED_PIDS_PORTS",
    "EXPORT_PTR_TAG",
    "BIT_BINARIES",
    "NEW_FLOATS",
    "UTF8_ATOMS",
    "MAP_TAG",
    "BIG_CREATION",
    "HANDSHAKE_23",
)
DIGEST, NAME_ME = FLAGS["MANDATORY_25_DIGEST"], FLAGS["NAME_ME"]
MONITORS = bits("DIST_MONITOR", "DIST_MONITOR_NAME")
FRAGMENTS, SPAWN, ALIAS, ALTACT_SIG = (FLAGS[name] for name in ("FRAGMENTS", "SPAWN", "ALIAS", "ALTACT_SIG"))
SEND_SENDER, EXIT_PAYLOAD, UNLINK_ID = (FLAGS[name] for name in ("SEND_SENDER", "EXIT_PAYLOAD", "UNLINK_ID"))
ATOM_CACHE = FLAGS["DIST_HDR_ATOM_CACHE"]

# What a node of ours announces: all that OTP 29 demands, and what it makes use of. NATIVE_RECORDS, since the codec
# carries them. No atom cache: it saves bytes, but neither time nor memory.
OURS = (
    MANDATORY_25
    | MONITORS
    | bits("UNICODE_IO", "SMALL_ATOM_TAGS", "SEND_SENDER", "EXIT_PAYLOAD", "FRAGMENTS", "UNLINK_ID", "V4_NC")
    | bits("MANDATORY_25_DIGEST", "SPAWN", "ALIAS", "ALTACT_SIG", "NATIVE_RECORDS")
)


def expanded(flags: int) -> int:
    """The flags with those that one of them stands for.

    >>> expanded(DIGEST) == DIGEST | MANDATORY_25
    True
    """
    return flags | MANDATORY_25 if flags & DIGEST else flags


def missing(flags: int) -> list[str]:
    """The names of the flags without which no node gets in.

    >>> missing(MANDATORY_25 & ~FLAGS["MAP_TAG"])
    ['MAP_TAG']
    """
    lacking = MANDATORY_25 & ~expanded(flags)
    return [name for name, bit in FLAGS.items() if bit & lacking]
