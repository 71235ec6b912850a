"""The bridge as a node of an Erlang cluster: sockets and threads around what ``wire`` and ``node_state`` know."""
