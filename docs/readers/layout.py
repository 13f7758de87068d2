"""layout.gds or layout.oas: the cuts of a tile that carry bits. layout.py FILE TILE LAYER DATATYPE; needs numpy and gdstk"""
import sys

import gdstk
import numpy as np


def cuts(file, tile, layer):
    """Centres in nanometres of the cuts of a tile's program, upwards and then to the right."""
    library = (gdstk.read_oas if file.endswith(".oas") else gdstk.read_gds)(file)
    (program,) = [c for c in library.cells if c.name == f"{tile}_prog"]
    boxes = [p.bounding_box() for p in program.get_polygons() if (p.layer, p.datatype) == layer]
    centres = np.rint(1000 * np.mean(boxes, axis=1)).astype(int)
    return centres[np.lexsort((centres[:, 0], centres[:, 1]))]


if __name__ == "__main__":
    found = cuts(sys.argv[1], sys.argv[2], (int(sys.argv[3]), int(sys.argv[4])))
    print(len(found), *found.sum(axis=0))
