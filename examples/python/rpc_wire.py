"""Frames, headers and handshakes: sections 2 and 3 of rpc/PROTOCOL.md."""

import struct
from typing import NamedTuple

HELLO, WELCOME, REQUEST, ACK, NACK, FAILED, CANCEL, RESOLVE, RESOLUTION, RECEIVED = range(1, 11)
ITEM, END, CREDIT, PING, PONG, DRAIN, GOODBYE, VOID, PARK, RESYNC = range(11, 21)
IGNORABLE, REVERSE, LOSSY = 1, 2, 4
MAGIC = bytes.fromhex("8a727063310d0a00")
HEADER = struct.Struct("<BBHIQ")
FRAME_BYTES_MAX, WINDOW, PARKED_MAX = 1 << 20, 1024, 64

REJECTED, UNKNOWN_METHOD, BAD_BODY, OVERLOADED, DRAINING, EXPIRED, BURNT, UNAVAILABLE = 1, 2, 4, 6, 8, 9, 10, 11
PANICKED, ABORTED, DEADLINE, TOO_LARGE = 1, 3, 4, 5
APPLIED, NACKED, FAILURE, RUNNING, NEVER_SEEN, FORGOTTEN = range(1, 7)
DONE, VIOLATION = 1, 11

NACKS = ["?", "rejected", "unknown method", "schema mismatch", "bad body", "unauthorized", "overloaded", "window full",
         "draining", "expired", "burnt", "unavailable"]
FAILURES = ["?", "panicked", "responder dropped", "aborted", "deadline", "answer too large"]
GOODBYES = ["?", "done", "not this protocol", "wire version", "service", "stale epoch", "unauthorized", "too many",
            "draining", "handshake timeout", "frame too large", "violation", "stalled"]
ENDS = ["?", "finished", "aborted", "reader too slow"]


class Violation(Exception):
    """The peer broke the protocol: the connection ends."""


class Frame(NamedTuple):
    kind: int
    flags: int
    aux: int
    ident: int
    floor: int
    method: int
    version: int
    tlvs: bytes
    body: bytes


def word(words, code):
    return words[code] if code < len(words) else f"code {code}"


def frame(kind, aux=0, ident=0, fixed=b"", tlvs=b"", body=b"", flags=0):
    whole = HEADER.pack(kind, flags, len(tlvs), aux, ident) + fixed + tlvs + body
    return struct.pack(">I", len(whole)) + whole


def parse(data):
    """The frame in `data`, without its length. `None`: one to skip."""
    try:
        kind, flags, tlv_bytes, aux, ident = HEADER.unpack_from(data)
        if not HELLO <= kind <= RESYNC:
            if flags & IGNORABLE:
                return None
            raise Violation(f"kind {kind}")
        at, floor, method, version = HEADER.size, 0, 0, 0
        if kind in (REQUEST, VOID, PING):
            floor, at = struct.unpack_from("<Q", data, at)[0], at + 8
        if kind in (REQUEST, VOID):
            (method, version, _), at = struct.unpack_from("<HHI", data, at), at + 8
    except struct.error:
        raise Violation("a frame that ends within its header") from None
    tlvs = data[at:at + tlv_bytes]
    if len(tlvs) < tlv_bytes:
        raise Violation("a frame that ends within its header")
    return Frame(kind, flags, aux, ident, floor, method, version, tlvs, data[at + tlv_bytes:])


def numbers(form, body):
    """The numbers at the front of a control frame's body."""
    try:
        return struct.unpack_from(form, body)
    except struct.error:
        raise Violation("a body that is too short") from None


def ids(body):
    if len(body) % 8:
        raise Violation("ids that are cut short")
    return struct.unpack(f"<{len(body) // 8}Q", body)


def tlv(kind, value):
    return struct.pack("<HH", kind, len(value)) + value


def find_tlv(tlvs, wanted):
    at = 0
    while at + 4 <= len(tlvs):
        kind, size = struct.unpack_from("<HH", tlvs, at)
        if kind == wanted:
            return tlvs[at + 4:at + 4 + size]
        at += 4 + size
    return None


def method_list(methods):
    return b"".join(struct.pack("<HHQ", m.number, m.version, m.fp) for m in methods)


def hello(client, epoch, window):
    name = client.service.encode()
    body = MAGIC + struct.pack("<HHHH", 1, 1, client.version, 0) + client.peer + struct.pack(
        "<QQIIIHH", client.incarnation, epoch, 0, FRAME_BYTES_MAX, window, len(name), len(client.methods)
    ) + name + method_list(client.methods)
    if client.serves:
        name, version, handlers = client.serves
        name, methods = name.encode(), [method for method, _ in handlers]
        body += tlv(2, struct.pack("<HHH", version, len(name), len(methods)) + name + method_list(methods))
    return frame(HELLO, body=body)
