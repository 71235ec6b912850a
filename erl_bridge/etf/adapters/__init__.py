"""Other libraries' codecs behind the interface of ours: for whoever must match what they have, and as second opinions.

``library`` is what all adapters have in common, ``rebuild`` and ``scan`` are its two walks, over values and over bytes;
``erlpack`` and ``pyrlang`` are one library each.

Rule of these modules: an adapter carries what its library carries, and refuses everything else with the name of the
backend; no term is ever lost, merged or changed in silence. That is checked with the pure-Python backend each time, so
an adapter is slower than its library and slower than ours. Nobody gets one without asking for it by name.
"""
