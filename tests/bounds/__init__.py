"""Holds the front end to a rule: no request costs much, unless it carries valid operations in proportion.

No request costs more than 64 MiB or 2 s of CPU time above idle, or blocks the event loop for 200 ms.
"""
