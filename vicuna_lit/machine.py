"""Faults of the machine: a full disk, no memory maps or files left, a helper process that died.

They have an exit code of their own, for another start of the same command may succeed, later or on another machine.
"""

import errno
import re
import sqlite3

from vicuna_lit.run_folder import MachineError

BAD_INPUT, OUT_OF_MEMORY, MACHINE_FAULT = 2, 34, 35
"""Exit codes; 33, of a run that was told to stop, is `preemption.PREEMPTED`."""
_OF_THE_INPUT = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL, errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ESPIPE,
}  # fmt: skip
"""What a path or an address of the command line can be the reason of."""
_WORDS = re.compile(
    r"no usable temporary directory|(?:unable|cannot|failed) to mmap|no space left on device|too many open files|"
    r"dataloader worker .* exited|process in the process pool was terminated|uncorrectable ecc|disk i/o error|"
    r"database or disk is full",
    re.I,
)
_LOST = re.compile(
    r"connection (?:closed|reset) by peer|connection was likely closed|broken pipe|remote process exit|"
    r"communicator was aborted",
    re.I,
)


def is_machine_fault(error: BaseException | None) -> bool:
    """Whether the machine, and not the input, is the reason of an error or of what it was raised from."""
    if error is None:
        return False
    if isinstance(error, MachineError) or (isinstance(error, OSError) and (error.errno or 0) > 0 and (
        error.errno not in _OF_THE_INPUT
    )):  # fmt: skip
        return True
    if isinstance(error, OSError | RuntimeError | sqlite3.Error) and _WORDS.search(str(error)[:2000]):
        return True
    return is_machine_fault(error.__cause__)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a disk, or what a user may put on it, is full: the reason of an error or of what it was raised from."""
    number = getattr(error, "errno", None)
    return error is not None and (number in (errno.ENOSPC, errno.EDQUOT) or is_disk_full(error.__cause__))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or on the CPU."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def is_lost_peer(error: BaseException) -> bool:
    """Whether another process of the run has ended under a collective, as gloo, NCCL and torch's store say it."""
    return isinstance(error, RuntimeError) and bool(_LOST.search(str(error)[:2000]))


def exit_code(error: BaseException) -> int:
    """Of a command that ends with an error which is said in one line."""
    return OUT_OF_MEMORY if is_out_of_memory(error) else MACHINE_FAULT if is_machine_fault(error) else BAD_INPUT
