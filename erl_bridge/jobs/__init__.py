"""Job processes: work that computes, crashes or must be stopped runs in a process of its own.

The bridge process (:mod:`.runner`) asks a template process (:mod:`.template`), which has imported what jobs need once,
to fork; the forked process (:mod:`.worker`) talks to the bridge over a socket pair (:mod:`.channel`).
"""
