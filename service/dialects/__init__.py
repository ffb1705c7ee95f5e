"""The formats of other APIs that clients can speak here. Each is a folder that only translates to and from the engine.

`registered.py` lists them. Without its folder and its line there, a dialect is gone. No other file knows any of them.
"""
