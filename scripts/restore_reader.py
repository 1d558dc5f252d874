#!/usr/bin/env python3
"""Reads and restores snapback repositories of format 1, independently of snapback.

Written from docs/repository-format.md alone: whoever has that page, this file and the objects can get a backup back.
It needs Python 3.9 or newer and two packages, in an environment of their own:

    python3 -m venv /var/cache/snapback-lab/reader
    /var/cache/snapback-lab/reader/bin/pip install zstandard blake3

Memory is bounded by one block of the file table, one chunk and a few packs' slot tables, whatever the backup's size.

Exit status: 0 done, 1 failed, 2 wrong usage or a newer format, 4 damaged.
"""

import argparse
import collections
import datetime
import json
import os
import re
import stat
import struct
import sys

try:
    import blake3
    import zstandard
except ImportError as missing:
    sys.exit(f"error: {missing}\n{__doc__.split('own:')[1].split('Memory')[0].rstrip()}")

FORMAT = 1
FEATURES = {"zstd"}
SECTION = 64 << 20
CHUNKS = {0: 16 << 10, 1: 64 << 10, 2: 1 << 20}
DATA, META = 1, 2
LARGEST = {DATA: 1 << 20, META: 64 << 20}
HEADER, LINE, TRAILER = 32, 44, 96
DROPPED = 2
FOOTERS_KEPT = 8


class Damaged(Exception):
    """What is stored does not fit the format or its hashes."""

    def __init__(self, where, reason):
        super().__init__(f"{where} is damaged: {reason}")


class Refused(Exception):
    """Wrong usage, or a repository that this program must not read."""


# ------------------------------------------------------------------ encodings


class Bytes:
    """Takes values off the front of a byte string; anything that does not fit to the byte is damage."""

    def __init__(self, data, where):
        self.data, self.at, self.where = data, 0, where

    def bad(self, reason):
        return Damaged(self.where, f"{reason} (at byte {self.at})")

    def raw(self, length):
        if length > len(self.data) - self.at:
            raise self.bad("it ends too early")
        taken = self.data[self.at : self.at + length]
        self.at += length
        return taken

    def byte(self):
        return self.raw(1)[0]

    def varint(self):
        value = 0
        for shift in range(0, 64, 7):
            byte = self.byte()
            if byte == 0 and shift > 0:
                break
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value
        raise self.bad("a number is not in its shortest form")

    def blob(self, most):
        length = self.varint()
        if length > most:
            raise self.bad(f"a field of {length} bytes")
        return self.raw(length)

    def left(self):
        return len(self.data) - self.at

    def count(self, each):
        number = self.varint()
        if number * each > self.left():
            raise self.bad(f"{number} items do not fit")
        return number

    def end(self):
        if self.left():
            raise self.bad(f"{self.left()} bytes too many")


# ------------------------------------------------------------------ the repository


class Repository:
    def __init__(self, root):
        self.root = root
        try:
            config = self.text("config", lambda body: blake3.blake3(body).digest())
        except FileNotFoundError:
            raise Refused(f"there is no repository in {root}") from None
        self.id = config["repository"]
        key = bytes.fromhex(config["hash_key"])
        if len(key) != 32:
            raise Damaged("config", "its hash_key has not 32 bytes")
        self.keys = {
            use: blake3.blake3(key, derive_key_context=f"snapback 1 {use}").digest()
            for use in ("chunk", "pack", "manifest")
        }

    def keyed(self, use, data=b""):
        return blake3.blake3(data, key=self.keys[use])

    def path(self, key):
        return os.path.join(self.root, *key.split("/"))

    def text(self, key, digest):
        """A text object: JSON, line break, 64 digits over the JSON's bytes, line break."""
        with open(self.path(key), "rb") as file:
            whole = file.read((64 << 20) + 1)
        body, seal = whole[:-66], whole[-66:]
        if len(whole) < 66 or len(whole) > 64 << 20 or seal != b"\n" + digest(body).hex().encode() + b"\n":
            raise Damaged(key, "its digest does not fit its content")
        try:
            value = json.loads(body)
            version, features = value["format"], value["features"]
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(key, repr(error)) from None
        if version != FORMAT:
            raise Refused(f"{key} has format {version}; this program reads format {FORMAT}")
        unknown = [feature for feature in features if feature not in FEATURES]
        if unknown:
            raise Refused(f"{key} needs the feature `{unknown[0]}`")
        return value

    def manifest(self, key):
        value = self.text(key, lambda body: self.keyed("manifest", body).digest())
        when = datetime.datetime.strptime(value["time"][:19], "%Y-%m-%dT%H:%M:%S")
        own = f"manifests/{value['host']}/{when:%Y%m%dT%H%M%SZ}-{value['id']}"
        if value["repository"] != self.id or own != key or not value["time"].endswith("Z"):
            raise Damaged(key, "it belongs to another repository or another name")
        return value

    def manifest_keys(self):
        """All manifests' keys, oldest first to the second that a name tells."""
        keys, top = [], self.path("manifests")
        for host in sorted(os.listdir(top)) if os.path.isdir(top) else []:
            if host.startswith("."):
                continue
            names = os.listdir(os.path.join(top, host))
            keys += [f"manifests/{host}/{name}" for name in names if re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{32}", name)]
        return sorted(keys, key=lambda key: key.rsplit("/", 1)[1])

    def find(self, which):
        keys = self.manifest_keys()
        if which == "latest":
            # Of those of the last second the one whose manifest says the latest time.
            second = [key for key in keys if key.rsplit("/", 1)[1][:16] == keys[-1].rsplit("/", 1)[1][:16]]
            fitting = sorted(second, key=lambda key: self.manifest(key)["time"])[-1:]
        elif re.fullmatch(r"[0-9a-f]{4,32}", which):
            fitting = [key for key in keys if key.rsplit("-", 1)[1].startswith(which)]
        else:
            raise Refused(f"`{which}` names no backup: `latest`, an id, or at least 4 digits of one")
        if len(fitting) != 1:
            raise Refused(f"{len(fitting)} backups fit `{which}`")
        return Backup(self, self.manifest(fitting[0]))


Slots = collections.namedtuple("Slots", "key kind digest body size table offsets generation")


class Packs:
    """Slots of packs, each verified before it is given out."""

    def __init__(self, repository):
        self.repository = repository
        self.kept = collections.OrderedDict()
        self.decompressor = zstandard.ZstdDecompressor()

    def resolve(self, pack):
        """The objects that hold a pack, with their verified slot tables: the only place that knows how an id becomes objects.

        Generation 0 alone where it is there and reads well, else the later ones, the largest first; each may have dropped slots."""
        if pack in self.kept:
            self.kept.move_to_end(pack)
            return self.kept[pack]
        name = pack.hex()
        directory = f"packs/{name[:2]}"
        found, failed = [], Damaged(f"{directory}/{name}", "it is missing")
        try:
            found.append(self.slot_table(f"{directory}/{name}", pack, 0))
        except Damaged as error:
            failed = error
            listed = os.listdir(self.repository.path(directory)) if os.path.isdir(self.repository.path(directory)) else []
            later = [re.fullmatch(name + r"\.([1-9][0-9]*)-[0-9a-f]{16}", other) for other in listed]
            for match in sorted(filter(None, later), key=lambda match: -int(match[1])):
                try:
                    found.append(self.slot_table(f"{directory}/{match[0]}", pack, int(match[1])))
                except Damaged as error:
                    failed = error
        if not found:
            raise failed
        self.kept[pack] = found
        if len(self.kept) > FOOTERS_KEPT:
            self.kept.popitem(last=False)
        return found

    def slot_table(self, key, pack, expected_generation):
        def bad(reason):
            return Damaged(key, reason)

        try:
            file = open(self.repository.path(key), "rb")
        except FileNotFoundError:
            raise bad("it is missing") from None
        with file:
            size = os.fstat(file.fileno()).st_size
            if size < HEADER + TRAILER:
                raise bad("it is too short")
            header = file.read(HEADER)
            file.seek(size - TRAILER)
            trailer = file.read(TRAILER)
            magic, version, kind, encryption, generation, named = struct.unpack("<8sHBBI16s", header)
            if magic != b"SNAPPACK" or named != pack or kind not in LARGEST:
                raise bad("its header does not fit")
            if version != 1 or encryption != 0 or generation != expected_generation:
                raise bad(f"version {version}, encryption {encryption}, generation {generation} cannot be read")
            digest, body, count, zero, end = struct.unpack("<32s32sI20s8s", trailer)
            if end != b"SNAPDONE" or zero != bytes(20) or count > 65536 or count * LINE > size - HEADER - TRAILER:
                raise bad("its trailer does not fit")
            file.seek(size - TRAILER - count * LINE)
            table = file.read(count * LINE)
        if self.repository.keyed("pack", header + table + body).digest() != digest:
            raise bad("the digest of its slot table does not fit")
        offsets, at = [], HEADER
        for number in range(count):
            stored, plain, encoding = struct.unpack_from("<III", table, number * LINE)
            fits = stored == plain if encoding == 0 else stored < plain
            if encoding == DROPPED:
                fits = stored == 0 and generation > 0
            if encoding > DROPPED or not fits or not 0 < plain <= LARGEST[kind]:
                raise bad(f"slot {number} does not fit")
            offsets.append(at)
            at += stored
        if at != size - TRAILER - count * LINE:
            raise bad("its slots do not end where its slot table begins")
        return Slots(key, kind, digest, body, size, table, offsets, generation)

    def lines(self, pack, slot, kind, expected):
        """The slot's line in each object that has it, if it is the one that is referred to."""
        found, failed = [], None
        for slots in self.resolve(pack):
            if slot >= len(slots.offsets) or slots.kind != kind:
                failed = Damaged(slots.key, f"it has no slot {slot} of that kind")
                continue
            stored, plain, encoding, digest = struct.unpack_from("<III32s", slots.table, slot * LINE)
            if encoding == DROPPED:
                failed = failed or Damaged(slots.key, f"slot {slot} was dropped")
            elif digest != expected:
                failed = Damaged(slots.key, f"slot {slot} is not the one that is referred to")
            else:
                found.append((slots, stored, plain, encoding, digest))
        if not found:
            raise failed
        return found

    def read(self, pack, slot, kind, expected):
        # Objects that vanish were copied before: looked for once more.
        for last_try in (False, True):
            failed = None
            for slots, stored, plain, encoding, digest in self.lines(pack, slot, kind, expected):
                try:
                    with open(self.repository.path(slots.key), "rb") as file:
                        data = os.pread(file.fileno(), stored, slots.offsets[slot])
                    return self.plain(slots.key, slot, data, stored, plain, encoding, digest)
                except FileNotFoundError:
                    failed = Damaged(slots.key, "it is missing")
                except Damaged as error:
                    failed = error
            self.kept.pop(pack, None)
            if last_try:
                raise failed

    def plain(self, key, slot, data, stored, plain, encoding, digest):
        if len(data) != stored:
            raise Damaged(key, f"slot {slot} ends too early")
        if encoding == 1:
            try:
                # Never more than the slot table promised, whatever the frame says of itself.
                frame = zstandard.get_frame_parameters(data)
                if frame.content_size not in (plain, zstandard.CONTENTSIZE_UNKNOWN):
                    raise Damaged(key, f"slot {slot} has another length")
                data = self.decompressor.decompress(data, max_output_size=plain)
            except zstandard.ZstdError as error:
                raise Damaged(key, f"slot {slot}: {error}") from None
        if len(data) != plain or self.repository.keyed("chunk", data).digest() != digest:
            raise Damaged(key, f"slot {slot}: its content does not fit its hash")
        return data

    def sweep(self, pack):
        """Reads a pack's objects whole: every slot, and the digest of all of them."""
        for slots in self.resolve(pack):
            hasher = self.repository.keyed("pack")
            with open(self.repository.path(slots.key), "rb") as file:
                file.seek(HEADER)
                for slot in range(len(slots.offsets)):
                    stored, plain, encoding, digest = struct.unpack_from("<III32s", slots.table, slot * LINE)
                    data = file.read(stored)
                    hasher.update(data)
                    if encoding != DROPPED:
                        self.plain(slots.key, slot, data, stored, plain, encoding, digest)
            if hasher.digest() != slots.body:
                raise Damaged(slots.key, "its slots' bytes do not fit their digest")
        return self.resolve(pack)


# ------------------------------------------------------------------ a backup

Entry = collections.namedtuple("Entry", "root path flags mode uid gid mtime xattrs kind size chunk sections target device")
KINDS = "-dlhpcb"


class Backup:
    def __init__(self, repository, manifest):
        self.repository, self.manifest, self.packs = repository, manifest, Packs(repository)
        self.key = f"the manifest {manifest['id']}"
        try:
            root = manifest["root"]
            self.root_pack = bytes.fromhex(root["pack"])
            self.root_digest = (root["size"], bytes.fromhex(root["digest"]))
            self.table = (root["table_slot"], bytes.fromhex(root["table_hash"]))
            self.pack_table = (root["packs_slot"], bytes.fromhex(root["packs_hash"]))
            self.roots = [os.fsencode(one["path"]) for one in manifest["record"]["roots"]]
        except (KeyError, ValueError, TypeError) as error:
            raise Damaged(self.key, repr(error)) from None
        for root in self.roots:
            if not root.startswith(b"/") or b".." in root.split(b"/") or b"\0" in root:
                raise Damaged(self.key, f"the root {root!r} is not a plain absolute path")

    def needed_packs(self):
        """Every pack that the backup refers to: id -> (size, digest)."""
        data = Bytes(self.packs.read(self.root_pack, self.pack_table[0], META, self.pack_table[1]), "the table of packs")
        needed, last = {self.root_pack: self.root_digest}, b""
        for _ in range(data.count(49)):
            pack, size, digest = data.raw(16), data.varint(), data.raw(32)
            if pack <= last:
                raise data.bad("packs out of order")
            needed[pack], last = (size, digest), pack
        data.end()
        return needed

    def entries(self):
        """All entries in table order; only one block is in memory."""
        index = Bytes(self.packs.read(self.root_pack, self.table[0], META, self.table[1]), "the index of the file table")
        blocks = [(index.raw(16), index.varint(), index.raw(32)) for _ in range(index.count(49))]
        index.end()
        last = None
        for pack, slot, digest in blocks:
            data = Bytes(self.packs.read(pack, slot, META, digest), f"the file table (pack {pack.hex()}, slot {slot})")
            while data.left():
                entry = self.entry(data)
                order = (entry.root, entry.path.split(b"/") if entry.path else [])
                if last is not None and order <= last:
                    raise data.bad(f"the entry {entry.path!r} is out of order")
                last = order
                yield entry

    def entry(self, data):
        root, path, flags = data.varint(), data.blob(4096), data.byte()
        if root >= len(self.roots) or flags & ~7:
            raise data.bad(f"root {root}, flags {flags}")
        mode, uid, gid, word, nanoseconds = (data.varint() for _ in range(5))
        seconds = word >> 1 ^ -(word & 1)
        if mode > 0o7777 or max(uid, gid) >> 32 or nanoseconds > 999_999_999:
            raise data.bad("metadata that no file has")
        xattrs = [(data.blob(255), data.blob(64 << 10)) for _ in range(data.count(2))]
        kind = data.byte()
        size = chunk = target = device = None
        sections = []
        if kind == 0:
            size, chunk = data.varint(), CHUNKS.get(data.byte())
            if chunk is None:
                raise data.bad("an unknown chunk class")
            for _ in range(-(-size // SECTION)):
                form = data.byte()
                if form == 0:
                    sections.append(data.blob(512))
                elif form == 1:
                    sections.append((data.raw(16), data.varint(), data.raw(32)))
                else:
                    raise data.bad(f"a section of form {form}")
        elif kind in (2, 3):
            target = data.blob(4096)
            if not target or b"\0" in target:
                raise data.bad("a link without a valid target")
        elif kind in (5, 6):
            device = (data.varint(), data.varint())
        elif kind not in (1, 4):
            raise data.bad(f"an entry of kind {kind}")
        for name in ([path] if path else []) + ([target] if kind == 3 else []):
            if b"\0" in name or any(part in (b"", b".", b"..") or len(part) > 255 for part in name.split(b"/")):
                raise data.bad(f"the path {name!r} leads out of its root")
        mtime = seconds * 1_000_000_000 + nanoseconds
        return Entry(root, path, flags, mode, uid, gid, mtime, xattrs, kind, size, chunk, sections, target, device)

    def pieces(self, entry, number):
        """One section: for each chunk its length and `None` (hole), `b""` (zero bytes) or (pack, slot, hash)."""
        where = entry.sections[number]
        data = where if isinstance(where, bytes) else self.packs.read(where[0], where[1], META, where[2])
        data = Bytes(data, f"section {number} of {entry.path!r}")
        covered = min(SECTION, entry.size - number * SECTION)
        count = data.varint()
        if count != -(-covered // entry.chunk):
            raise data.bad(f"{count} chunks")
        packs = [data.raw(16) for _ in range(data.count(16))]
        pieces, first_use = [], []
        while len(pieces) < count:
            word = data.varint()
            run, kind = word >> 2, word & 3
            if not 0 < run <= count - len(pieces) or kind == 3:
                raise data.bad("a run that does not fit")
            if kind == 2:
                index, slot = data.varint(), data.varint()
                if index >= len(packs):
                    raise data.bad(f"pack {index}")
                if index not in first_use:
                    first_use.append(index)
                pieces += [(packs[index], slot + further) for further in range(run)]
            else:
                pieces += [None if kind == 0 else b""] * run
        if first_use != list(range(len(packs))):
            raise data.bad("its packs are not in the order of their first use")
        pieces = [piece + (data.raw(32),) if isinstance(piece, tuple) else piece for piece in pieces]
        data.end()
        lengths = (min(entry.chunk, covered - at) for at in range(0, covered, entry.chunk))
        return list(zip(lengths, pieces))

    def chunk(self, entry, length, piece):
        data = self.packs.read(piece[0], piece[1], DATA, piece[2])
        if len(data) != length:
            raise Damaged(f"pack {piece[0].hex()}", f"slot {piece[1]} has not the {length} bytes that {entry.path!r} needs")
        return data

    def full_path(self, entry):
        root = self.roots[entry.root]
        return root.rstrip(b"/") + b"/" + entry.path if entry.path else root


# ------------------------------------------------------------------ commands


def escape(path):
    """A path as text: printable ASCII as it is, everything else as \\xNN."""
    return "".join(chr(byte) if 32 < byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in path)


def command_list(repository, _):
    damaged, manifests = 0, []
    for key in repository.manifest_keys():
        try:
            manifests.append(repository.manifest(key))
        except Damaged as error:
            print(f"error: {error}", file=sys.stderr)
            damaged += 1
    for manifest in sorted(manifests, key=lambda manifest: manifest["time"]):
        tags = " ".join(f"{name}={value}" for name, value in sorted(manifest["tags"].items()))
        sizes = manifest["sizes"]
        print(manifest["id"], manifest["time"], manifest["host"], sizes["entries"], sizes["bytes"], tags)
    return 4 if damaged else 0


def command_show(repository, arguments):
    backup = repository.find(arguments.id)
    if not arguments.files:
        print(json.dumps(backup.manifest, indent=2))
        return 0
    for entry in backup.entries():
        more = entry.size if entry.kind == 0 else "-"
        if entry.kind in (2, 3):
            more = escape(entry.target)
        elif entry.device:
            more = "%d,%d" % entry.device
        print(KINDS[entry.kind], f"{entry.mode:04o}", entry.uid, entry.gid, entry.mtime, more, escape(backup.full_path(entry)))
    return 0


def command_verify(repository, arguments):
    """Every byte of every pack that the backups need, and every reference to them."""
    keys = repository.manifest_keys() if arguments.id is None else []
    backups = [Backup(repository, repository.manifest(key)) for key in keys] or [repository.find(arguments.id or "latest")]
    swept = set()
    for backup in backups:
        needed = backup.needed_packs()
        for pack, (size, digest) in needed.items():
            if (pack, digest) in swept:
                continue
            for slots in backup.packs.sweep(pack):
                # Only of generation 0 the backup knows size and digest; of the others each chunk is looked up below.
                if slots.generation == 0 and (slots.size, slots.digest) != (size, digest):
                    raise Damaged(slots.key, "it is not the pack that the backup refers to")
            swept.add((pack, digest))
        names = 0
        for entry in backup.entries():
            names += 1
            for number, where in enumerate(entry.sections):
                if not isinstance(where, bytes) and where[0] not in needed:
                    raise Damaged(backup.key, f"the table of packs lacks {where[0].hex()}")
                for length, piece in backup.pieces(entry, number):
                    if not piece:
                        continue
                    if piece[0] not in needed:
                        raise Damaged(backup.key, f"the table of packs lacks {piece[0].hex()}")
                    if backup.packs.lines(piece[0], piece[1], DATA, piece[2])[0][2] != length:
                        raise Damaged(backup.key, f"a chunk of {entry.path!r} has another length")
        if names != backup.manifest["sizes"]["entries"]:
            raise Damaged(backup.key, f"{names} entries, not {backup.manifest['sizes']['entries']}")
        print(f"{backup.manifest['id']}: {names} entries, {len(needed)} packs, every byte fits")
    return 0


class Target:
    """Writes below one directory and nowhere else: each component is opened without following links."""

    def __init__(self, top):
        os.makedirs(top, mode=0o700, exist_ok=True)
        if os.listdir(top):
            raise Refused(f"{top} is not empty")
        self.top = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        # The directories on the way to the current entry: (name, descriptor).
        self.way = []

    def parent(self, path, make=True):
        """The descriptor of the directory that holds `path` (bytes, relative), and the last name."""
        *parts, name = path.split(b"/")
        shared = 0
        while shared < min(len(parts), len(self.way)) and self.way[shared][0] == parts[shared]:
            shared += 1
        while len(self.way) > shared:
            os.close(self.way.pop()[1])
        for part in parts[shared:]:
            above = self.way[-1][1] if self.way else self.top
            if make:
                try:
                    os.mkdir(part, 0o755, dir_fd=above)
                except FileExistsError:
                    pass
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            self.way.append((part, os.open(part, flags, dir_fd=above)))
        return (self.way[-1][1] if self.way else self.top), name


def dress(parent, name, entry):
    """Owner, then attributes, then mode, then time: each undoes something of the one before."""
    link = entry.kind == 2
    if os.geteuid() == 0:
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
    by_descriptor = b"/proc/self/fd/%d/%s" % (parent, name)
    for attribute, value in entry.xattrs:
        os.setxattr(by_descriptor, attribute, value, follow_symlinks=False)
    if not link:
        os.chmod(name, entry.mode, dir_fd=parent)
    os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)


def write_file(backup, entry, parent, name):
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
    try:
        os.ftruncate(descriptor, entry.size)
        for number in range(len(entry.sections)):
            at = number * SECTION
            for length, piece in backup.pieces(entry, number):
                # A file that had holes gets none of its zero chunks written either (flag 4).
                if piece == b"" and not entry.flags & 4:
                    piece_bytes = bytes(length)
                elif not piece:
                    at += length
                    continue
                else:
                    piece_bytes = backup.chunk(entry, length, piece)
                done = 0
                while done < length:
                    done += os.pwrite(descriptor, piece_bytes[done:], at + done)
                at += length
    finally:
        os.close(descriptor)


def command_restore(repository, arguments):
    backup = repository.find(arguments.id)
    target = Target(arguments.directory)
    # Directories get their times when everything in them is there. In table order a directory is left for good once an entry comes that is
    # not below it, so only those on the way are kept; where a root lies inside another one, the directory above it is set once more.
    above_roots = {os.path.dirname(root.strip(b"/")) for root in backup.roots}
    open_directories, later = [], []

    def leave(until):
        while open_directories and not (until is not None and until.startswith(open_directories[-1][0] + b"/")):
            path, entry = open_directories.pop()
            dress(*target.parent(path), entry)
            if path in above_roots:
                later.append((path, entry))

    for entry in backup.entries():
        path = backup.full_path(entry).strip(b"/")
        if not path:
            raise Refused("a backup of `/` itself is restored with snapback")
        leave(path)
        parent, name = target.parent(path)
        if entry.kind == 0:
            write_file(backup, entry, parent, name)
        elif entry.kind == 1:
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    raise
            open_directories.append((path, entry))
            continue
        elif entry.kind == 2:
            os.symlink(entry.target, name, dir_fd=parent)
        elif entry.kind == 3:
            first = backup.full_path(entry._replace(path=entry.target)).strip(b"/")
            # A way of its own: the first name may lie anywhere in the root.
            walk = Target.__new__(Target)
            walk.top, walk.way = target.top, []
            first_parent, first_name = walk.parent(first, make=False)
            os.link(first_name, name, src_dir_fd=first_parent, dst_dir_fd=parent, follow_symlinks=False)
            for _, descriptor in walk.way:
                os.close(descriptor)
            continue
        else:
            kind = {4: stat.S_IFIFO, 5: stat.S_IFCHR, 6: stat.S_IFBLK}[entry.kind]
            os.mknod(name, kind | 0o600, os.makedev(*(entry.device or (0, 0))), dir_fd=parent)
        dress(parent, name, entry)
    leave(None)
    for path, entry in reversed(later):
        dress(*target.parent(path), entry)
    os.sync()
    return 0


def main():
    parser = argparse.ArgumentParser(description="Reads snapback repositories of format 1, independently of snapback.")
    parser.add_argument("repository", help="the repository's directory")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all backups: id, time, host, entries, bytes, tags")
    show = commands.add_parser("show", help="a backup's manifest, or its files")
    show.add_argument("id")
    show.add_argument("--files", action="store_true")
    verify = commands.add_parser("verify", help="every byte of one backup, or of all")
    verify.add_argument("id", nargs="?")
    restore = commands.add_parser("restore", help="every root below a new directory, at its original path")
    restore.add_argument("id")
    restore.add_argument("directory")
    arguments = parser.parse_args()
    run = {"list": command_list, "show": command_show, "verify": command_verify, "restore": command_restore}
    try:
        return run[arguments.command](Repository(arguments.repository), arguments)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Damaged as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
