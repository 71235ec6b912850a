"""Dialects: how requests and replies look as terms. Each is two functions over values, ``parse`` and ``build``."""
