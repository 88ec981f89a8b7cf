"""Initial weights by a second implementation, in plain Python: python init_values.py SEED PATH START COUNT

Prints COUNT standard normals of the stream of a parameter path, as f64: Philox4x32-10 (Salmon et al., 2011) with the
seed as key and (draw, FNV-1a of the path) as counter, then Box and Muller.
"""
import math, sys

M32 = 0xFFFFFFFF


def philox(counter, key):
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & M32, (p0 >> 32) ^ c3 ^ k1, p0 & M32
        k0, k1 = (k0 + 0x9E3779B9) & M32, (k1 + 0xBB67AE85) & M32
    return c0, c1, c2, c3


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def normal(seed, path, i):
    draw, stream = i // 4, fnv1a(path.encode())
    words = philox((draw & M32, draw >> 32, stream & M32, stream >> 32), (seed & M32, seed >> 32))
    pair = words[:2] if i % 4 < 2 else words[2:]
    u0, u1 = ((w + 0.5) / 2**32 for w in pair)
    turn = math.cos if i % 2 == 0 else math.sin
    return math.sqrt(-2 * math.log(u0)) * turn(2 * math.pi * u1)


if __name__ == "__main__":
    seed, path, start, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    assert philox((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    for i in range(start, start + count):
        print(repr(normal(seed, path, i)))
