"""``python -m erl_bridge``: see :mod:`erl_bridge.cli`."""

from .cli import main

if __name__ == "__main__":
    main()
