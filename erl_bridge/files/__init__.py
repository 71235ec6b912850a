"""Files of data as Python values: YAML and JSON whole, JSON Lines and CSV row by row.

Rule of this room: a file is what somebody wrote by hand or exported, so whatever is wrong with it is one sentence that
names the file, the line and what to do. Nothing is guessed: a key that is there twice is refused, not dropped. Memory
is bounded by the limits of :class:`~erl_bridge.files.source.Limits`, however long a file is.
"""
