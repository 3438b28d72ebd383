"""Prints every entry of one or more trees with all of its metadata, one JSON list a line.

Names, links and attributes are given as hex: they are bytes, not text. Hard links are told by the
first name, in the order of the walk, of the file that they share. Directories have no size here:
it depends on their history. Each tree ends with an empty line.
"""
import hashlib
import json
import os
import stat
import sys


def content(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def describe(path, name, first_names):
    st = os.lstat(path)
    kind = stat.S_IFMT(st.st_mode)
    attributes = {
        attribute: os.getxattr(path, attribute, follow_symlinks=False).hex()
        for attribute in sorted(os.listxattr(path, follow_symlinks=False))
    }
    facts = [name.hex(), oct(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns, attributes]
    if kind == stat.S_IFDIR:
        return facts
    facts.append(first_names.setdefault((st.st_dev, st.st_ino), name.hex()))
    if kind == stat.S_IFREG:
        facts += [st.st_size, content(path)]
    elif kind == stat.S_IFLNK:
        facts.append(os.readlink(path).hex())
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        facts.append(st.st_rdev)
    return facts


def walk(top, name, first_names):
    path = os.path.join(top, name) if name else top
    print(json.dumps(describe(path, name, first_names)))
    if stat.S_ISDIR(os.lstat(path).st_mode):
        for child in sorted(os.listdir(path)):
            walk(top, os.path.join(name, child) if name else child, first_names)


for root in sys.argv[1:]:
    walk(os.fsencode(root), b"", {})
    print()
