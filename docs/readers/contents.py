"""contents.pfmt and program.pfir: the weights of a tile. contents.py FOLDER TILE; needs numpy and zstandard"""
import pathlib
import re
import sys

import numpy as np
import zstandard

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from wire import fields, varint


def weights(folder, wanted):
    """`[k][n]`, from the tile's line of the program and its message of the contents."""
    line = re.search(rf'^tile {wanted} "\S+" matrix \d+ k (\d+)\.\.(\d+) n (\d+)\.\.(\d+) (\S+)', pathlib.Path(folder, "program.pfir").read_text(), re.M)
    k, n = int(line[2]) - int(line[1]), int(line[4]) - int(line[3])
    data = pathlib.Path(folder, "contents.pfmt").read_bytes()
    at = 8 * (data[:8] == b"PFMTILE1")
    for _ in range(wanted + 1):
        length, at = varint(data, at)
        message, at = data[at:at + length], at + length
    f = fields(message)
    raw = np.frombuffer(zstandard.ZstdDecompressor().decompress(f[5][0]), np.uint8)
    if line[5] == "real":
        return np.ascontiguousarray(raw.reshape(4, k * n).T).view("<f4").reshape(k, n)
    kind, bits, group = re.match(r"(codes|codebook)(\d+)/(\d+)", line[5]).groups()
    rest = raw[2 ** int(bits) if kind == "codebook" else 0:]
    groups = -(-k // int(group))
    scales = np.repeat(rest[:groups * n].reshape(groups, n), int(group), axis=0)[:k].astype(np.float32)
    return rest[groups * n:].view(np.int8).reshape(k, n) * scales * np.frombuffer(f[3][0], "<f4")[0]


if __name__ == "__main__":
    np.save(sys.stdout.buffer, weights(sys.argv[1], int(sys.argv[2])))
