"""The changelog of `KeyedWindows`: its histories as small blocks, written when they change and read back exactly.

A key's history is cut into blocks of `BLOCK` events, numbered from the first event that the key ever had. An event
behind all others changes the last block; one in the middle also those behind it. Blocks at the front end as a whole.
So a key with a hundred thousand events costs no more per event than one with ten, and no entry outgrows a message.

    b"w" + key + block number (uint32, big-endian) -> events, 16 bytes each: time (ms), amount (millionths), int64;
                                                      in the last block of a key also its mark: time, two float64
    b"m"                                           -> the partition's watermark (ms), int64

Numbers in values are little-endian. `dump` is at any time what the compacted changelog holds after `changes`.
"""

from __future__ import annotations

from itertools import compress, repeat
from typing import TYPE_CHECKING

import numpy as np

from processors._regions import NEVER, Ints, ranges, running
from processors._windows import BLOCK, CLEAN, KeyedWindows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

EVENTS, WATERMARK = b"w", b"m"

_EVENT_BYTES = 16
_MARK_BYTES = 24
_NUMBER_BYTES = 4


class ChangelogError(ValueError):
    """Entries that this program did not write, or not all of those that it wrote."""


def changes(windows: KeyedWindows) -> list[tuple[int, bytes, bytes | None]]:
    """Drains what changed since the last call: (partition, entry's key, value or None where it ended)."""
    slots = np.unique(np.concatenate(windows.dirty)) if windows.dirty else np.zeros(0, np.int64)
    windows.dirty.clear()
    slots = slots[windows.dirty_from[slots] != CLEAN]
    found: list[tuple[int, bytes, bytes | None]] = [
        *_blocks(windows, slots, np.maximum(windows.dirty_from[slots], windows.first_block[slots])),
        *((partition, WATERMARK, _watermark(windows.watermarks[partition])) for partition in windows.dirty_watermarks),
    ]
    windows.dirty_from[slots] = CLEAN
    windows.dirty_watermarks.clear()
    if windows.gone:
        # A key that was forgotten may have come back, and its blocks with it.
        written = {(partition, key) for partition, key, _ in found}
        found += [(*ended, None) for ended in _ended(windows) if ended not in written]
        windows.gone.clear()
    return found


def dump(windows: KeyedWindows, partition: int) -> dict[bytes, bytes]:
    """Every entry of a partition."""
    slots = np.flatnonzero(windows.owner == partition)
    found = {key: value for _, key, value in _blocks(windows, slots, windows.first_block[slots])}
    if partition in windows.watermarks:
        found[WATERMARK] = _watermark(windows.watermarks[partition])
    return found


def restore(windows: KeyedWindows, partition: int, entries: Mapping[bytes, bytes]) -> None:
    """Takes over a partition; entries of other kinds are left alone.

    Raises:
        ChangelogError: An entry is no block, or blocks are missing between two others.
    """
    windows.drop(partition)
    if WATERMARK in entries:
        windows.watermarks[partition] = _read_watermark(entries[WATERMARK])
    ours = list(map(bytes.startswith, entries, repeat(EVENTS)))
    if any(ours):
        _restore_blocks(windows, partition, list(compress(entries, ours)), list(compress(entries.values(), ours)))


def _ended(windows: KeyedWindows) -> set[tuple[int, bytes]]:
    return {
        (partition, EVENTS + key + number.to_bytes(_NUMBER_BYTES, "big"))
        for partition, key, first, stop in windows.gone
        for number in range(first, stop)
    }


def _watermark(time: int) -> bytes:
    return time.to_bytes(8, "little", signed=True)


def _read_watermark(value: bytes) -> int:
    if len(value) != 8:
        raise ChangelogError(f"The watermark of the changelog has {len(value)} bytes instead of 8.")
    return int.from_bytes(value, "little", signed=True)


def _blocks(windows: KeyedWindows, slots: Ints, first: Ints) -> Iterator[tuple[int, bytes, bytes]]:
    """Entries of each slot from block number `first` on."""
    regions = windows.regions
    stop = windows.first_block[slots] + windows.block_counts(slots)
    count = stop - first
    slots, first, stop, count = (column[count > 0] for column in (slots, first, stop, count))
    number, slot = ranges(first, count), np.repeat(slots, count)
    begin = regions.begin[slot] + (number - windows.first_block[slot]) * BLOCK
    length = np.minimum(regions.end[slot] - begin, BLOCK)
    index = ranges(begin, length)
    events = np.empty((len(index), 2), "<i8")
    events[:, 0] = regions.time[index]
    events[:, 1] = regions.amounts(index, np.repeat(slot, length))
    marks = _marks(windows, slot, number == np.repeat(stop - 1, count))
    packed, numbers = events.tobytes(), number.astype(">u4").tobytes()
    ends = (np.cumsum(length) * _EVENT_BYTES).tolist()
    starts = [0, *ends[:-1]]
    owners = windows.owner[slot].tolist()
    for row, (held_by, owner) in enumerate(zip(slot.tolist(), owners, strict=True)):
        key = EVENTS + windows.keys[held_by] + numbers[row * _NUMBER_BYTES : (row + 1) * _NUMBER_BYTES]
        yield owner, key, packed[starts[row] : ends[row]] + marks.get(row, b"")


def _marks(windows: KeyedWindows, slot: Ints, is_last: NDArray[np.bool_]) -> dict[int, bytes]:
    rows = np.flatnonzero(is_last & (windows.mark_time[slot] != NEVER))
    columns = np.empty((len(rows), 3), "<i8")
    columns[:, 0] = windows.mark_time[slot[rows]]
    columns[:, 1:] = windows.mark[slot[rows]].astype("<f8").view("<i8")
    packed = columns.tobytes()
    return {row: packed[at * _MARK_BYTES : (at + 1) * _MARK_BYTES] for at, row in enumerate(rows.tolist())}


def _restore_blocks(windows: KeyedWindows, partition: int, names: list[bytes], values: list[bytes]) -> None:
    """Columns are put in order, not names and values: looking at each of those in turn would cost more."""
    size = len(names[0])
    if size <= 1 + _NUMBER_BYTES or set(map(len, names)) != {size}:
        raise ChangelogError("The changelog holds window entries with keys of different lengths.")
    letters = np.frombuffer(b"".join(names), np.uint8).reshape(len(names), size)
    order, numbers, heads = _sort(letters[:, 1:-_NUMBER_BYTES], letters[:, -_NUMBER_BYTES:])
    sizes = np.fromiter(map(len, values), np.int64, len(values))
    offsets = ((np.cumsum(sizes) - sizes) // 8)[order]
    sizes = sizes[order]
    marked = sizes % _EVENT_BYTES == _MARK_BYTES % _EVENT_BYTES
    counts = (sizes - marked * _MARK_BYTES) // _EVENT_BYTES
    wrong = _wrong(numbers, heads, sizes, counts)
    if len(wrong):
        raise _damaged(names[order[wrong[0]]], int(sizes[wrong[0]]))
    words = np.frombuffer(b"".join(values), "<i8")
    events = words[ranges(offsets, 2 * counts)].reshape(-1, 2)
    keys = letters[order[heads], 1:-_NUMBER_BYTES]
    slots = windows.add_keys(partition, keys.view(f"V{keys.shape[1]}").ravel().tolist())
    _fill(windows, slots, np.add.reduceat(counts, heads), events)
    windows.first_block[slots] = numbers[heads]
    last = np.append(heads[1:], len(names)) - 1
    with_mark, at = slots[marked[last]], (offsets + 2 * counts)[last[marked[last]]]
    windows.mark_time[with_mark] = words[at]
    windows.mark[with_mark] = words[np.stack([at + 1, at + 2], axis=1)].view("<f8")


def _sort(keys: NDArray[np.uint8], numbers: NDArray[np.uint8]) -> tuple[Ints, Ints, Ints]:
    """Order by (key, block number), the numbers in that order, and where each key begins in it."""
    count = np.ascontiguousarray(numbers).view(">u4").ravel().astype(np.int64)
    padded = np.zeros((len(keys), -(-keys.shape[1] // 8) * 8), np.uint8)
    padded[:, : keys.shape[1]] = keys
    parts = padded.view(np.uint64)
    order = np.argsort(parts[:, 0])
    # Only rows that have their first part in common need more than that.
    same = parts[order[1:], 0] == parts[order[:-1], 0]
    tied = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
    rows = order[tied]
    order[tied] = rows[np.lexsort((count[rows], *parts[rows].T[::-1]))]
    starts = np.ones(len(keys), np.bool_)
    starts[1:] = (parts[order[1:]] != parts[order[:-1]]).any(axis=1)
    return order, count[order], np.flatnonzero(starts)


def _wrong(numbers: Ints, heads: Ints, sizes: Ints, counts: Ints) -> Ints:
    """Rows that are no blocks, or that the block after them does not fit."""
    is_last = np.zeros(len(numbers), np.bool_)
    is_last[heads - 1] = True
    next_number = np.append(numbers[1:], 0)
    wrong = (sizes % 8 != 0) | (counts < 1) | (counts > BLOCK)
    wrong |= ~is_last & ((counts != BLOCK) | (next_number != numbers + 1))
    return np.flatnonzero(wrong)


def _damaged(name: bytes, size: int) -> ChangelogError:
    number = int.from_bytes(name[-_NUMBER_BYTES:], "big")
    return ChangelogError(
        f"Block {number} of key {name[1:-_NUMBER_BYTES].hex()} ({size} bytes) does not fit the "
        "block after it, or is none: the changelog topic is damaged or belongs to another program. "
        "Restore the topic, or begin with an empty one."
    )


def _fill(windows: KeyedWindows, slots: Ints, counts: Ints, events: Ints) -> None:
    regions = windows.regions
    regions.reserve(slots, counts)
    regions.end[slots] += counts
    heads = np.cumsum(counts) - counts
    index = ranges(regions.begin[slots], counts)
    regions.time[index] = events[:, 0]
    regions.prefix[index] = running(events[:, 1], heads, np.repeat(np.arange(len(slots)), counts))
    regions.total[slots] = np.add.reduceat(events[:, 1], heads)
