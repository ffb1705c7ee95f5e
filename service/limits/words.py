"""Words that the answers of several limits share."""


def count_operations(number: int) -> str:
    """Return a number of operations in words, such as "1 operation" or "1,000 operations"."""
    return f"{number:,} operation" if number == 1 else f"{number:,} operations"
