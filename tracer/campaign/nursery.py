"""Cells that are forked from a process which has imported everything already: 20 ms each instead of more than a second.

Of a short cell of explore nearly all the time is imports. What is forked is otherwise what a new interpreter would be:
it has a session of its own, the same words, its own output, and dies with its parent. explore alone can be had so: its
command starts no threads and keeps nothing between two runs in one process. verify and bench have bcc and the machine.

The nursery gets requests over a socket, with the two ends of pipes that the cell writes to, and says when one has
started and ended. Signals go by way of it, as it alone knows which process ids are still those of cells.
"""

import asyncio
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Sequence
from typing import Any, NoReturn

from tracer.analysis.rules import all_rules
from tracer.campaign.cell import Execute, Job, Outcome, watched
from tracer.campaign.version import ROOT
from tracer.errors import EofraceError, InconclusiveError
from tracer.parent import die_with

_LONGEST = 1 << 16  # bytes of a message

_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from tracer.campaign.nursery import main; main()"

PRELOADED = (
    *("tracer.commands.explore", "tracer.explore.run", "tracer.report.explore_text", "tracer.output"),
    *("numpy.ma", "numpy.random", "pyarrow.compute"),  # which are imported late, by functions
)


@contextlib.asynccontextmanager
async def executing() -> AsyncIterator[Execute]:
    """What runs cells in processes forked from one, until the block ends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-c", _CODE, str(ROOT), str(os.getpid()), str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        ours.setblocking(False)
        nursery = _Nursery(ours)
        listening = asyncio.create_task(nursery.listen())
        try:
            yield nursery.execute
        finally:
            listening.cancel()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class _Nursery:
    """Our end of it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._next = 0
        self._ended: dict[int, asyncio.Future[int]] = {}
        self._gone = False

    async def execute(self, job: Job) -> Outcome:
        """As `cell.execute`."""
        return await watched(lambda: self._fork(job), job)

    async def _fork(self, job: Job) -> "_Forked":
        self._next += 1
        number = self._next
        ended = self._ended[number] = asyncio.get_running_loop().create_future()
        streams, ends = [], []
        for _ in range(2):
            reader, end = await _pipe()
            streams.append(reader)
            ends.append(end)
        try:
            await self._send({"number": number, "words": job.words}, ends)
        finally:
            for end in ends:
                os.close(end)
        return _Forked(self, number, ended, streams[0], streams[1])

    async def _send(self, message: dict[str, Any], descriptors: Sequence[int]) -> None:
        while True:
            try:
                self.send(message, descriptors)
                return
            except BlockingIOError:
                await asyncio.sleep(0.01)
            except OSError:
                raise _killed() from None

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Raises BlockingIOError if too much is on its way."""
        socket.send_fds(self._socket, [json.dumps(message).encode()], list(descriptors))

    async def listen(self) -> None:
        """Hear what has ended, until the nursery has."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(self._socket, _LONGEST):
                message = json.loads(data)
                self._ended.pop(message["number"]).set_result(message["exit"])
        for ended in self._ended.values():
            ended.set_exception(_killed())


class _Forked:
    """A `cell.Child` of the nursery's."""

    def __init__(
        self,
        nursery: _Nursery,
        number: int,
        ended: "asyncio.Future[int]",
        stdout: asyncio.StreamReader,
        stderr: asyncio.StreamReader,
    ) -> None:
        self.stdout, self.stderr = stdout, stderr
        self._nursery, self._number, self._ended = nursery, number, ended

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def kill(self, number: int, *, session: bool) -> None:
        # One that has ended has its session ended by the nursery, before its process id is anybody else's.
        if not self._ended.done():
            with contextlib.suppress(OSError):
                self._nursery.send({"number": self._number, "signal": int(number), "session": session})


def _killed() -> InconclusiveError:
    return InconclusiveError("the process that cells are forked from was killed: for want of memory? Run it again")


async def _pipe() -> tuple[asyncio.StreamReader, int]:
    """What is written to a descriptor, as a stream."""
    ours, theirs = os.pipe()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", 0))
    return reader, theirs


def main() -> None:
    """The nursery: until whoever has made it closes the socket, or ends."""
    _, _, parent, descriptor = sys.argv
    die_with(int(parent))
    connection = socket.socket(fileno=int(descriptor))
    os.set_inheritable(connection.fileno(), False)
    for name in PRELOADED:
        importlib.import_module(name)
    with contextlib.suppress(EofraceError):  # a rule of another package that is broken: each cell says so
        all_rules()
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, all pages that they have in common
    awake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    ourselves = os.getpid()
    numbers: dict[int, int] = {}
    with selectors.DefaultSelector() as waiting:
        waiting.register(connection, selectors.EVENT_READ)
        waiting.register(awake, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in waiting.select()}
            if awake in ready:
                os.read(awake, 4096)
                _reap(connection, numbers)
            if connection in ready:
                data, descriptors, _, _ = socket.recv_fds(connection, _LONGEST, 2)
                if not data:
                    return
                message = json.loads(data)
                if "words" not in message:
                    _signal(message, numbers)
                    continue
                pid = os.fork()
                if not pid:
                    connection.close()
                    _be(message["words"], descriptors, ourselves)
                numbers[pid] = message["number"]
                for one in descriptors:
                    os.close(one)


def _signal(message: dict[str, Any], numbers: dict[int, int]) -> None:
    for pid, number in numbers.items():
        if number == message["number"]:
            with contextlib.suppress(ProcessLookupError):  # the session may not be there yet
                (os.killpg if message["session"] else os.kill)(pid, message["signal"])
            if message["signal"] == signal.SIGKILL:
                os.kill(pid, signal.SIGKILL)


def _reap(connection: socket.socket, numbers: dict[int, int]) -> None:
    while numbers:
        # Not yet taken away: until it is, the process id, which its session has, too, is nobody else's.
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(found.si_pid, signal.SIGKILL)
        pid, status = os.waitpid(found.si_pid, 0)
        message = {"number": numbers.pop(pid), "exit": os.waitstatus_to_exitcode(status)}
        connection.send(json.dumps(message).encode())


def _be(words: list[str], descriptors: list[int], parent: int) -> NoReturn:
    """Be the eofrace that the words say, and end."""
    status = 70
    try:
        os.setsid()
        die_with(parent)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, descriptor in enumerate(descriptors, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        # The nursery's were made for what it had there: a terminal, or a file, which can be sought in.
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - live as long as the process
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        from tracer.commands import main as eofrace

        try:
            eofrace(words)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 70
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:
        os.write(2, traceback.format_exc().encode())  # to the cell's stderr, which its error quotes
    finally:
        os._exit(status)
