# Read (sourced) by the other scripts: what every step needs in its environment, whoever started it.
# shellcheck shell=sh
# The caller is in the root of the repository.

# Elixir warns, and Erlang escapes what it prints, unless the locale is UTF-8; a bare machine or a container often sets none.
case "${LC_ALL:-${LC_CTYPE:-${LANG:-}}}" in
  *[uU][tT][fF]8* | *[uU][tT][fF]-8*) ;;
  *) export LC_ALL=C.UTF-8 ;;
esac
# The same for file names, where the system has no such locale.
export ELIXIR_ERL_OPTIONS="${ELIXIR_ERL_OPTIONS:-} +fnu"

# The Python that the bridge runs on is the one that setup made, whatever the user's own environment says.
export ERL_BRIDGE_PYTHON="$PWD/.venv/bin/python"
