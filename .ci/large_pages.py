"""Have programs' text mapped by large pages, for a machine where each small one is dear: ``python large_pages.py``.

Shared libraries of this Python are read into the page cache anew, in pages of 2 MB. Whoever runs them afterwards gets their text by large
pages (Linux 6.16 and later on ext4; elsewhere this does nothing). No privilege is needed and no file is changed.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

LARGE_PAGE = 1 << 21


def libraries() -> list[Path]:
    """Return what this process has mapped, its Python and libc, and the libraries of the packages, from half a large page on."""
    mapped = {line.split(maxsplit=5)[5].strip() for line in Path("/proc/self/maps").read_text().splitlines() if line.count("/")}
    found = {path.resolve() for name in mapped if (path := Path(name)).is_file()}
    found |= {path.resolve() for path in Path(sys.prefix).resolve().rglob("*.so*") if path.is_file()}
    return sorted(path for path in found if path.stat().st_size >= LARGE_PAGE // 2)


def read_in_large_pages(path: Path) -> int:
    """Read a file into the page cache anew, as large pages where the kernel can; return its size in bytes."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            mapped.madvise(mmap.MADV_HUGEPAGE)
            for start in range(0, len(mapped), LARGE_PAGE):
                mapped[start]
            return len(mapped)


def main() -> None:
    """Do so for all of them and say how many they were."""
    sizes = [read_in_large_pages(path) for path in libraries()]
    print(f"ci: {len(sizes)} libraries, {sum(sizes) >> 20} MB, read into large pages")


if __name__ == "__main__":
    main()
