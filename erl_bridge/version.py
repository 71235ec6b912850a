"""The version of the package, where it is also read by the build."""

VERSION = "0.1.0"
