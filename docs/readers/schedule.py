"""schedule.pfmg: the levels of a tile's voxels. schedule.py FILE TILE; needs numpy and zstandard"""
import pathlib
import sys
import zlib

import numpy as np
import zstandard

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from wire import fields, varint


def levels(file, wanted):
    """`[layer][y][x]`, layer 0 nearest to the surface."""
    data, at, layers, bits = pathlib.Path(file).read_bytes(), 12, {}, 4
    assert data[:12] == b"PFMGLASS\x04\0\0\0" and data[-4:] == b"PFMG"
    while at < len(data) - 24:
        length, at = varint(data, at)
        frame, at = fields(data[at:at + length]), at + length
        body = frame[3][0]
        assert int.from_bytes(frame[2][0], "little") == zlib.crc32(body), "checksum"
        if frame[1][0] == 1:  # the header
            bits = fields(body)[25][0]
        if frame[1][0] == 4:  # a chunk: one layer of some tiles
            chunk = fields(body)
            for part in map(fields, chunk[3]):
                if part.get(1, [0])[0] == wanted:
                    packed = np.frombuffer(zstandard.ZstdDecompressor().decompress(part[3][0]), np.uint8)
                    values = packed if bits == 8 else np.stack([packed & 15, packed >> 4], -1).ravel()
                    layers[chunk.get(2, [0])[0]] = (values, len(part[2][0]) // 4)
    return np.stack([values.reshape(lines, -1) for _, (values, lines) in sorted(layers.items())])


if __name__ == "__main__":
    np.save(sys.stdout.buffer, levels(sys.argv[1], int(sys.argv[2])))
