"""Transports move bytes: a :class:`~.base.Transport` reads and writes them and knows nothing of what they say."""
