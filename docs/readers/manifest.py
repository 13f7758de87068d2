"""manifest.json: which tile holds an element of a tensor, and where that tile is. manifest.py FOLDER TENSOR ROW COLUMN"""
import hashlib
import json
import pathlib
import sys


def read(folder):
    """The manifest, once every file has the length and the digest that it says."""
    manifest = json.loads(pathlib.Path(folder, "manifest.json").read_text())
    for file in manifest["files"]:
        content = pathlib.Path(folder, file["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"]), file["name"]
    return manifest


def find(manifest, tensor, row, column):
    """The tile of an element of the matrix that a tensor became."""
    for tile in manifest["tiles"]:
        k0, k1, n0, n1 = tile["origin"].get("range", [0] * 4)
        if tile["origin"].get("tensor") == tensor and k0 <= row < k1 and n0 <= column < n1:
            return tile


if __name__ == "__main__":
    found = find(read(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    print(found["name"], found["region"]["name"], *found["region"]["min_nm"])
