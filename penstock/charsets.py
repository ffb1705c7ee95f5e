"""The charsets in which the text of a response, or a file, is read. Pure.

The sender names the charset. Python has codecs for much more than text, and some of them take minutes: `punycode` needs
quadratic time. So only well-known charsets are used.
"""

_ALIASES: dict[str, tuple[str, ...]] = {
    "utf-8": ("utf8", "utf-8-sig", "us-ascii", "ascii"),  # ASCII is a part of UTF-8
    "utf-16": ("utf16",),
    "utf-16-le": ("utf-16le",),
    "utf-16-be": ("utf-16be",),
    "latin-1": ("iso-8859-1", "iso8859-1", "iso_8859-1", "latin1", "l1"),
    **{f"iso8859-{part}": (f"iso-8859-{part}",) for part in (*range(2, 12), *range(13, 17))},
    **{f"cp{page}": (f"windows-{page}",) for page in range(1250, 1259)},
    "mac-roman": ("macintosh",),
    "koi8-r": (),
    "koi8-u": (),
    "shift_jis": ("shift-jis", "sjis"),
    "cp932": ("windows-31j",),
    "euc_jp": ("euc-jp",),
    "iso2022_jp": ("iso-2022-jp",),
    "gb18030": ("gb2312", "gbk"),  # both are parts of it
    "big5": (),
    "euc_kr": ("euc-kr", "ks_c_5601-1987"),
    "cp949": (),
}
_CODECS = {name: codec for codec, aliases in _ALIASES.items() for name in (codec, *aliases)}


def find_codec(charset: str) -> str | None:
    """Return the name of Python's codec for a charset, or None if the charset is not supported."""
    return _CODECS.get(charset.strip().lower())
