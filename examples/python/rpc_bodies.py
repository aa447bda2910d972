"""Bodies and fingerprints: sections 5 and 3.4 of rpc/PROTOCOL.md.

A type is an object with `put(value) -> bytes`, `take(bytes, at) -> (value, at)` and `fp`, its fingerprint.
"""

import struct


class BadBody(Exception):
    pass


def cut(data, at, size):
    if at + size > len(data):
        raise BadBody("too short")
    return data[at:at + size], at + size


def put_number(number):
    if number < 0 or number >= 1 << 64:
        raise ValueError(number)
    if number < 251:
        return bytes([number])
    for mark, form in ((251, "<H"), (252, "<I"), (253, "<Q")):
        if number < 1 << 8 * struct.calcsize(form):
            return bytes([mark]) + struct.pack(form, number)


def take_number(data, at):
    (first,), at = cut(data, at, 1)
    if first < 251:
        return first, at
    if first > 253:
        raise BadBody(f"number {first}")
    form = {251: "<H", 252: "<I", 253: "<Q"}[first]
    raw, at = cut(data, at, struct.calcsize(form))
    return struct.unpack(form, raw)[0], at


FNV_OFFSET, FNV_PRIME, MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1


def fnv(state, data):
    for byte in data:
        state = (state ^ byte) * FNV_PRIME & MASK
    return state


def shape(kind, count):
    return fnv(name_into(FNV_OFFSET, kind), struct.pack("<Q", count))


def part(state, name, fingerprint):
    return fnv(name_into(state, name), struct.pack("<Q", fingerprint))


def name_into(state, name):
    name = name.encode()
    return fnv(fnv(state, struct.pack("<Q", len(name))), name)


class Unsigned:
    def __init__(self, bits):
        self.bits, self.fp = bits, shape(f"u{bits}", 0)

    def put(self, value):
        if not 0 <= value < 1 << self.bits:
            raise ValueError(value)
        return bytes([value]) if self.bits == 8 else put_number(value)

    def take(self, data, at):
        if self.bits == 8:
            (value,), at = cut(data, at, 1)
        else:
            value, at = take_number(data, at)
        if value >> self.bits:
            raise BadBody("too large")
        return value, at


class Signed:
    def __init__(self, bits):
        self.bits, self.fp = bits, shape(f"i{bits}", 0)

    def put(self, value):
        if not -(1 << self.bits - 1) <= value < 1 << self.bits - 1:
            raise ValueError(value)
        if self.bits == 8:
            return struct.pack("<b", value)
        return put_number(2 * value if value >= 0 else -2 * value - 1)

    def take(self, data, at):
        if self.bits == 8:
            raw, at = cut(data, at, 1)
            return struct.unpack("<b", raw)[0], at
        value, at = take_number(data, at)
        if value >> self.bits:
            raise BadBody("too large")
        return (-(value + 1) // 2 if value & 1 else value // 2), at


class Float:
    fp = shape("f64", 0)

    def put(self, value):
        return struct.pack("<d", value)

    def take(self, data, at):
        raw, at = cut(data, at, 8)
        return struct.unpack("<d", raw)[0], at


class Bool:
    fp = shape("bool", 0)

    def put(self, value):
        return bytes([bool(value)])

    def take(self, data, at):
        (value,), at = cut(data, at, 1)
        if value > 1:
            raise BadBody("no bool")
        return value == 1, at


class Text:
    fp = shape("string", 0)

    def put(self, value):
        raw = value.encode()
        return put_number(len(raw)) + raw

    def take(self, data, at):
        size, at = take_number(data, at)
        raw, at = cut(data, at, size)
        return raw.decode(), at


class Bytes:
    fp = shape("blob", 0)

    def put(self, value):
        return put_number(len(value)) + bytes(value)

    def take(self, data, at):
        size, at = take_number(data, at)
        return cut(data, at, size)


class Unit:
    fp = shape("unit", 0)

    def put(self, value):
        return b""

    def take(self, data, at):
        return None, at


class Never:
    fp = shape("never", 0)

    def take(self, data, at):
        raise BadBody("there is no such value")


class Option:
    def __init__(self, of):
        self.of, self.fp = of, part(shape("option", 1), "some", of.fp)

    def put(self, value):
        return b"\0" if value is None else b"\1" + self.of.put(value)

    def take(self, data, at):
        (tag,), at = cut(data, at, 1)
        if tag > 1:
            raise BadBody("no option")
        return self.of.take(data, at) if tag else (None, at)


class ListOf:
    def __init__(self, of, most):
        self.of, self.most, self.fp = of, most, part(shape("list", most), "element", of.fp)

    def put(self, values):
        return put_number(len(values)) + b"".join(self.of.put(value) for value in values)

    def take(self, data, at):
        count, at = take_number(data, at)
        if count > self.most:
            raise BadBody("too many")
        values = []
        for _ in range(count):
            value, at = self.of.take(data, at)
            values.append(value)
        return values, at


class Struct:
    """Values are dicts. Fields without names are called "0", "1", ..."""

    def __init__(self, **fields):
        self.fields, self.fp = fields, shape("struct", len(fields))
        for name, of in fields.items():
            self.fp = part(self.fp, name, of.fp)

    def put(self, value):
        return b"".join(of.put(value[name]) for name, of in self.fields.items())

    def take(self, data, at):
        value = {}
        for name, of in self.fields.items():
            value[name], at = of.take(data, at)
        return value, at


class Enum:
    """Values are pairs of a variant's name and the dict of its fields."""

    def __init__(self, **variants):
        self.variants, self.fp = list(variants.items()), shape("enum", len(variants))
        for name, of in self.variants:
            self.fp = part(self.fp, name, len(of.fields))
            for field, kind in of.fields.items():
                self.fp = part(self.fp, field, kind.fp)

    def put(self, value):
        for position, (name, of) in enumerate(self.variants):
            if name == value[0]:
                return put_number(position) + of.put(value[1])
        raise ValueError(value)

    def take(self, data, at):
        position, at = take_number(data, at)
        if position >= len(self.variants):
            raise BadBody("no such variant")
        name, of = self.variants[position]
        value, at = of.take(data, at)
        return (name, value), at


U8, U16, U32, U64 = Unsigned(8), Unsigned(16), Unsigned(32), Unsigned(64)
I64, BOOL, TEXT, BYTES, UNIT, NEVER, F64 = Signed(64), Bool(), Text(), Bytes(), Unit(), Never(), Float()


def decode(of, data):
    value, at = of.take(data, 0)
    if at != len(data):
        raise BadBody("something is left over")
    return value


class Method:
    def __init__(self, number, request, ack, rejection=NEVER, item=None, lossy=NEVER, version=1):
        self.number, self.version = number, version
        self.request, self.ack, self.rejection, self.item, self.lossy = request, ack, rejection, item, lossy
        fp = part(part(part(shape("method", 3), "request", request.fp), "ack", ack.fp), "rejection", rejection.fp)
        self.fp = part(part(fp, "item", item.fp), "lossy", lossy.fp) if item else fp
