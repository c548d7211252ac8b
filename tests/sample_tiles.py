"""Tile-compressed FITS files made by hand, and a slow decoder written from the standard alone, to try the fast one on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Split = int | None


def encode(values: Sequence[int], block: int = 32, splits: Sequence[Split] = (None,)) -> bytes:
    """Return the Rice stream of 32-bit integers.

    Each block takes the next of `splits`: that many low bits, 25 for uncoded, -1 for a block of equal values, None for what fits.
    """
    bits, last = f"{values[0] & 0xFFFFFFFF:032b}", int(values[0])
    for number, start in enumerate(range(0, len(values), block)):
        folded = []
        for value in values[start : start + block]:
            difference = (int(value) - last + 2**31) % 2**32 - 2**31
            folded.append(2 * difference if difference >= 0 else -2 * difference - 1)
            last = int(value)
        split = splits[number % len(splits)]
        if split is None:
            split = -1 if not any(folded) else min(25, max(0, int(np.log2(np.mean(folded) + 1))))
        bits += f"{split + 1:05b}"
        if split == 25:
            bits += "".join(f"{value:032b}" for value in folded)
        elif split >= 0:
            bits += "".join("0" * (value >> split) + "1" + (f"{value % 2**split:0{split}b}" if split else "") for value in folded)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


class BadStreamError(Exception):
    """The reference decoder refuses a stream."""


def decode(stream: bytes, count: int, block: int = 32) -> np.ndarray:
    """Return the 32-bit integers of a Rice stream, which has to be perfect."""
    bits, place = "".join(f"{byte:08b}" for byte in stream), 0

    def take(number: int) -> int:
        nonlocal place
        if place + number > len(bits):
            raise BadStreamError
        place += number
        return int(bits[place - number : place] or "0", 2)

    values: list[int] = []
    last = take(32)
    while len(values) < count:
        split = take(5) - 1
        if split > 25:
            raise BadStreamError
        for _ in range(min(block, count - len(values))):
            folded = 0
            if split == 25:
                folded = take(32)
            elif split >= 0:
                one = bits.find("1", place)
                if one < 0 or one - place >= 2 ** (32 - split):
                    raise BadStreamError
                zeros, place = one - place, one + 1
                folded = zeros << split | take(split)
            last += folded // 2 if folded % 2 == 0 else -(folded // 2) - 1
            values.append(last % 2**32)
    if len(bits) - place >= 8 or "1" in bits[place:]:
        raise BadStreamError
    return np.array(values, np.uint32).view(np.int32)


def card(keyword: str, value: object) -> str:
    """Return one card of a FITS header; a string that starts with a quote is taken as it is."""
    text = {True: "T", False: "F"}.get(value) if isinstance(value, bool) else str(value)
    return f"{keyword:8s}= {text:>20s}".ljust(80)


def header(cards: dict[str, object]) -> bytes:
    """Return a FITS header, padded to its blocks. None leaves a card out."""
    content = "".join(card(keyword, value) for keyword, value in cards.items() if value is not None) + "END".ljust(80)
    return content.encode().ljust(-(-len(content) // 2880) * 2880)


def table_rows(streams: Sequence[bytes]) -> np.ndarray:
    """Return the table of streams that follow each other in the heap."""
    table = np.zeros(len(streams), [("count", ">i4"), ("offset", ">i4"), ("scale", ">f8"), ("zero", ">f8")])
    table["count"] = [len(stream) for stream in streams]
    table["offset"][1:] = np.cumsum(table["count"][:-1])
    table["scale"], table["zero"] = 0.5, -3.25
    return table


def tiled_file(
    streams: Sequence[bytes], shape: tuple[int, int], tile: tuple[int, int], rows: np.ndarray | None = None, **cards: object
) -> bytes:
    """Return a whole file: a plane of floats whose tiles are the Rice `streams`, with ZSCALE 0.5 and ZZERO -3.25.

    `rows` replaces the table (see `table_rows`), `cards` replace or add to the header's.
    """
    table, heap = table_rows(streams) if rows is None else rows, b"".join(streams)
    standard: dict[str, object] = {
        "XTENSION": "'BINTABLE'",
        "BITPIX": 8,
        "NAXIS": 2,
        "NAXIS1": 24,
        "NAXIS2": len(streams),
        "PCOUNT": len(heap),
        "GCOUNT": 1,
        "TFIELDS": 3,
        "TTYPE1": "'COMPRESSED_DATA'",
        "TFORM1": "'1PB(1000)'",
        "TTYPE2": "'ZSCALE'",
        "TFORM2": "'1D'",
        "TTYPE3": "'ZZERO'",
        "TFORM3": "'1D'",
        "ZIMAGE": True,
        "ZBITPIX": -32,
        "ZNAXIS": 2,
        "ZNAXIS1": shape[1],
        "ZNAXIS2": shape[0],
        "ZTILE1": tile[1],
        "ZTILE2": tile[0],
        "ZCMPTYPE": "'RICE_1'",
        "ZNAME1": "'BLOCKSIZE'",
        "ZVAL1": 32,
        "ZNAME2": "'BYTEPIX'",
        "ZVAL2": 4,
        "ZQUANTIZ": "'NO_DITHER'",
    }
    data = table.tobytes() + heap
    primary = header({"SIMPLE": True, "BITPIX": 8, "NAXIS": 0, "EXTEND": True})
    return primary + header(standard | cards) + data.ljust(-(-len(data) // 2880) * 2880, b"\0")
