"""What is compiled, and left out where there is no compiler; all else is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "erl_bridge.etf._core",
            [f"erl_bridge/etf/_core{part}.c" for part in ("", "_decode", "_dict", "_encode", "_utf8")],
            depends=["erl_bridge/etf/_core.h"],
            extra_compile_args=["-O3", "-fno-semantic-interposition"],
            optional=True,
        ),
        *(
            Extension(
                f"erl_bridge.{room}._fast_path",
                [f"erl_bridge/{room}/_fast_path.c"],
                depends=["erl_bridge/_fast_path.h", "erl_bridge/etf/_core.h", "erl_bridge/transports/_spin.h"],
                extra_compile_args=["-O3"],
                optional=True,
            )
            for room in ("transports", "node")
        ),
        *(
            Extension(f"erl_bridge.{name}", [f"erl_bridge/{name.replace('.', '/')}.c"], optional=True)
            for name in ("datasets._scan", "jobs._arenas", "transports._spin")
        ),
    ]
)
