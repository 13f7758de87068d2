"""Protobuf's wire format: the fields of a message by number, as raw values."""


def varint(b, i):
    """A varint at i, and what follows it."""
    value = shift = 0
    while True:
        value |= (b[i] & 127) << shift
        shift, i = shift + 7, i + 1
        if b[i - 1] < 128:
            return value, i


def fields(b):
    """Field number -> list of integers and byte strings."""
    out, i = {}, 0
    while i < len(b):
        key, i = varint(b, i)
        if key & 7 == 0:
            v, i = varint(b, i)
        else:
            n, i = varint(b, i) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], i)
            v, i = b[i:i + n], i + n
        out.setdefault(key >> 3, []).append(v)
    return out
