"""Datasets: rows that are sent once and kept on the host. ``docs/protocol.md`` says how they are sent.

Chunks are put together by :mod:`.reassembler` (pure) and kept in files by :mod:`.partial`; :mod:`.transfers` has those
under way. What is complete is a file (:mod:`.file`) in the store (:mod:`.store`) and read as :class:`.rows.Rows`.
"""
