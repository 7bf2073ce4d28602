"""A real Apache Kafka of one node that a test may stop, kill and freeze: a Java process on its own folder.

Maven loads its jars once into the user's cache. `Unavailable` names the missing part: Java, Maven or the jars.
"""

import contextlib
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import platformdirs

from shared_server import keep

VERSION = "4.1.1"
JAVA_VERSION = 17
MAVEN_SECONDS = 150
START_SECONDS = 90  # recovery of a log after SIGKILL is part of it, on a machine that does other things as well
STOP_SECONDS = 30
TAIL_BYTES = 4000

POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>stockpulse</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>2.24.3</version>
    </dependency>
  </dependencies>
</project>
"""

#: For a broker that is killed: after its restart it waits until its old session has timed out, 9 s by default.
SOON_BACK = {"broker_session_timeout_ms": "2000", "broker_heartbeat_interval_ms": "500"}

JAVA_OPTIONS = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")

#: The smallest configuration of one node; by default, the replication of Kafka's own topics would need three.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAIN",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",  # so that a test need not wait six seconds until a dead member is out
    "num.network.threads": "2",
    "num.io.threads": "3",
    "background.threads": "2",
    "num.recovery.threads.per.data.dir": "1",
    "log.cleaner.enable": "false",
    "log.segment.delete.delay.ms": "1000",
}

LOGGING = """\
rootLogger.level = WARN
rootLogger.appenderRef.out.ref = OUT
appender.out.type = Console
appender.out.name = OUT
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %m (%c)%n
logger.failures.name = org.apache.kafka.common.network.Selector
logger.failures.level = INFO
"""

USER = "stockpulse"
PASSWORD = "correct-horse"  # no secret: it guards an empty broker on this machine
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")

#: Below the ports that Linux gives to outgoing connections. Otherwise a client that keeps trying to reach a stopped
#: broker may be given the broker's own port, connect to itself, and keep the port from the broker.
PORTS = (20_000, 32_000)


class Unavailable(Exception):
    """Kafka cannot run on this machine; the message says why."""


def jars() -> Path:
    """Return the folder with Kafka's jars; Maven loads them the first time."""
    _check_java()
    cache = platformdirs.user_cache_path("stockpulse-tests")
    folder = cache / f"kafka-{VERSION}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "kafka.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the first loads them, the others wait and find them
            if not folder.exists():
                _load_jars(folder)
    return folder


def _check_java() -> None:
    java = shutil.which("java")
    if java is None:
        raise Unavailable(f"Kafka needs Java {JAVA_VERSION} or newer: there is no `java` on the PATH")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None:
        raise Unavailable(f"`java -version` does not say which it is: {said.strip()!r}")
    if int(version[1]) < JAVA_VERSION:
        raise Unavailable(f"Kafka {VERSION} needs Java {JAVA_VERSION} or newer, `java` is {version[1]}")


def _load_jars(folder: Path) -> None:
    """Load the jars into a temporary folder and rename it, so that an interruption leaves no incomplete one."""
    maven = shutil.which("mvn")
    if maven is None:
        raise Unavailable(f"the jars of Kafka {VERSION} are loaded with Maven: there is no `mvn` on the PATH")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="loading-") as work:
        (Path(work) / "pom.xml").write_text(POM)
        plain = ["-q", "-B", "-Dstyle.color=never"]
        command = [maven, *plain, "dependency:copy-dependencies", f"-DoutputDirectory={work}/jars"]
        try:
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=MAVEN_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"Maven did not load Kafka's jars within {MAVEN_SECONDS} s") from None
        if done.returncode:
            raise Unavailable(f"Maven cannot load Kafka's jars: {(done.stdout + done.stderr).strip()[:300]}")
        (Path(work) / "jars").rename(folder)


class Broker:
    """One broker. Its methods block; in a coroutine call them with `asyncio.to_thread`.

    `settings` are Kafka's own, with underscores for dots.
    """

    user = USER
    password = PASSWORD

    def __init__(self, jars: Path, *, secured: bool = False, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sp-kafka-"))
        self.log = self.folder / "broker.log"
        self.ca_file = self.folder / "ca.pem"
        self._classpath = f"{jars}/*"
        self._secured = secured
        self._settings = {name.replace("_", "."): value for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._formatted = False

    @property
    def bootstrap(self) -> str:
        """The address for clients without a password."""
        return f"127.0.0.1:{self._port}"

    @property
    def secure_bootstrap(self) -> str:
        """The address for clients with SASL_SSL, PLAIN or SCRAM."""
        assert self._secured, "ask for it by secured=True"
        return f"127.0.0.1:{self._secure_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it, with the data of earlier starts, and wait until it answers."""
        assert not self._runs(), "it runs already"
        self.kill()
        if self._formatted:
            self._spawn()
            self._wait_ready()
            return self
        while True:
            self._format()
            self._spawn()
            try:
                self._wait_ready()
            except RuntimeError:
                if "Address already in use" in self.tail():  # another process was given the same port
                    self.log.unlink()
                    shutil.rmtree(self.folder / "data")
                    continue
                raise
            self._formatted = True
            return self

    def stop(self) -> None:
        """Send SIGTERM: it stops in good order."""
        if self._runs():
            self.thaw()
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Send SIGSTOP: connections stay open and are accepted, but nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Send SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill it and remove its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def tail(self) -> str:
        """Return the last lines of its log."""
        return self.log.read_bytes()[-TAIL_BYTES:].decode(errors="replace") if self.log.exists() else ""

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _format(self) -> None:
        """Choose ports, write the settings and format the data folder."""
        self._port, self._secure_port, controller_port = free_ports(3)
        listeners = {"PLAIN": self._port, "CONTROLLER": controller_port}
        protocols = {"PLAIN": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        settings = dict(SETTINGS)
        if self._secured:
            listeners["SECURED"] = self._secure_port
            protocols["SECURED"] = "SASL_SSL"
            settings |= self._make_secure()
        addresses = {name: f"{name}://127.0.0.1:{port}" for name, port in listeners.items()}
        settings |= {
            "log.dirs": str(self.folder / "data"),
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "listeners": ",".join(addresses.values()),
            "advertised.listeners": ",".join(addresses[name] for name in addresses if name != "CONTROLLER"),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        }
        lines = [f"{name}={value}\n" for name, value in (settings | self._settings).items()]
        (self.folder / "server.properties").write_text("".join(lines))
        (self.folder / "log4j2.properties").write_text(LOGGING)
        users = [f"{mechanism}=[name={USER},password={PASSWORD}]" for mechanism in SCRAM if self._secured]
        tool = [*self._java("kafka.tools.StorageTool"), "format", "-t", "c3RvY2twdWxzZS1rYWZrYQ"]
        accounts = [word for user in users for word in ("--add-scram", user)]
        self._run([*tool, "-c", str(self.folder / "server.properties"), *accounts])

    def _make_secure(self) -> dict[str, str]:
        """Return the settings of the secured listener: a self-signed certificate, and the user who may log in."""
        store = self.folder / "keys.p12"
        if not store.exists():
            keytool = ["keytool", "-keystore", str(store), "-storepass", PASSWORD, "-alias", "broker"]
            kind = ["-storetype", "PKCS12", "-keyalg", "EC", "-groupname", "secp256r1", "-validity", "30"]
            owner = ["-dname", "CN=localhost", "-ext", "san=ip:127.0.0.1,dns:localhost"]
            authority = ["-ext", "bc:critical=ca:true", "-ext", "ku:critical=digitalSignature,keyCertSign"]
            self._run([*keytool, "-genkeypair", *kind, *owner, *authority])
            self._run([*keytool, "-exportcert", "-rfc", "-file", str(self.ca_file)])
        modules = "org.apache.kafka.common.security"
        prefix = "listener.name.secured"
        return {
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.location": str(store),
            "ssl.keystore.password": PASSWORD,
            f"{prefix}.sasl.enabled.mechanisms": ",".join(["PLAIN", *SCRAM]),
            f"{prefix}.plain.sasl.jaas.config": f'{modules}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
        } | {
            f"{prefix}.{mechanism.lower()}.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;"
            for mechanism in SCRAM
        }

    def _java(self, program: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.folder}/log4j2.properties"
        return ["java", *JAVA_OPTIONS, logging, "-cp", self._classpath, program]

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    def _spawn(self) -> None:
        command = [*self._java("kafka.Kafka"), str(self.folder / "server.properties")]
        with self.log.open("ab") as log:
            # In its own session, so that Ctrl-C reaches only pytest, which then stops it.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        # However this process ends, its end of the pipe is closed then. (PR_SET_PDEATHSIG would go by the thread that
        # started the broker, and those of asyncio.to_thread end with their loop.)
        self._watchdog = subprocess.Popen(
            ["sh", "-c", 'read -r _ || { kill -KILL "$0"; rm -rf "$1"; }', str(self.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def _end(self, by: signal.Signals) -> None:
        """End the process and its watchdog, also after it died: its pid may be given to another process."""
        if self._process is None or self._watchdog is None:
            return
        self._process.send_signal(by)  # does nothing if it is dead
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"Kafka did not stop within {STOP_SECONDS} s:\n{self.tail()}") from None
        finally:
            self._watchdog.communicate(b"over\n")
            self._watchdog = None

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not answers("127.0.0.1", self._port):
            if not self._runs() or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Kafka did not start:\n{self.tail()}")
            time.sleep(0.05)


@contextlib.contextmanager
def bootstrap_of_broker(jars: Path) -> Iterator[str]:
    """Run a broker and yield its bootstrap servers."""
    with Broker(jars) as broker:
        yield broker.bootstrap


def answers(host: str, port: int) -> bool:
    """Return True if a broker there knows the brokers of its cluster; before that, it may know no leaders."""
    request = struct.pack(">hhihi", 3, 1, 0, -1, 0)  # Metadata, version 1, of no topics
    with contextlib.suppress(OSError, struct.error), socket.create_connection((host, port), 5) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as answer:
            _length, _correlation, brokers = struct.unpack(">iii", answer.read(12))
            return bool(brokers > 0)
    return False


def free_ports(count: int) -> list[int]:
    """Return different ports that are free now."""
    choice = random.SystemRandom()  # not what a plugin has seeded alike for all workers
    with contextlib.ExitStack() as probes:
        ports: list[int] = []
        while len(ports) < count:
            probe = probes.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", choice.randrange(*PORTS)))
                ports.append(probe.getsockname()[1])
        return ports


if __name__ == "__main__":
    jars_folder, *place = map(Path, sys.argv[1:])
    keep(bootstrap_of_broker(jars_folder), *place)
