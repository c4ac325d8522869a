"""Libraries for LD_PRELOAD, from tests/packages/preload.

env(build_package, name, how="")    what the environment of an executor must have
    "clock", ns                     a monotonic clock that moves by that at each look
    "mallopt"                       a mallopt that ends the process
    "threads"                       no thread starts
    "frame", how                    the buffer for the largest frame: refused, watched
    "files", how                    an odd file system: inodes, no-dev-null, no-proc,
                                    early-file
BufferCounts                        whether each buffer of a package was freed once
"""

from helpers.build import PACKAGES


def env(build_package, name, how=""):
    source = PACKAGES / "preload" / f"{name}.c"
    library = build_package(source, "-ldl")
    return {"LD_PRELOAD": str(library), "PRELOADED": str(how)}


class BufferCounts:
    """Counts the buffers of a process that ends by itself.

    Freed buffers are overwritten with 0xDD.
    """

    def __init__(self, build_package, directory):
        self.path = directory / "counts"
        self.env = env(build_package, "buffers", self.path)

    def read(self):
        """How many buffers were returned, freed, and freed again, after the end."""
        words = self.path.read_text().split()
        return tuple(map(int, words))
