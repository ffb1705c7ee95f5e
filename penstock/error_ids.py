"""Ids for unexpected exceptions. A client gets the id, and the log has the words under it: they may be secret. Pure."""

import hashlib


def id_of(text: str, key: bytes = b"") -> str:
    """Return the id of a text. With a secret `key` nobody can find out the text from its id."""
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=6, key=key).hexdigest()


def see_log(id_: str) -> str:
    """Return the sentence that a client reads instead of the words."""
    return f"The log has the error under error_id {id_}."
